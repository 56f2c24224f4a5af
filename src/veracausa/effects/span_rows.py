"""Rows (example, unit at a span): a unit patched at all tokens of a named span together; see `rows`.

Where a span stands at other positions in the run that replacements come from, its tokens take the values of those
positions, token by token; then whole prompts are run, since what is replaced may lie before the first difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.replacements import Counterfactual
from veracausa.effects.rows import Patching, Rows
from veracausa.engine.patches import Place
from veracausa.engine.tape import Tape
from veracausa.errors import UnitError
from veracausa.tasks.placing import moved, ranges
from veracausa.units.at_spans import SpanUnits
from veracausa.units.groups import Groups

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class SpanRows(Rows):
    """All rows (example, unit at a span) of one call; see `rows.Rows`."""

    units: SpanUnits

    @cached_property
    def _number(self) -> Int[np.ndarray, " units"]:
        """Each unit's span, by its number."""
        numbers = {name: number for number, name in enumerate(self.units.named)}
        return np.array([numbers[name] for name in self.units.spans])

    @cached_property
    def _own(self) -> Int[np.ndarray, "examples spans 2"]:
        """Where the spans are in the run that is patched."""
        return ranges(self.task, self.units.named, self.noising)

    @cached_property
    def _other(self) -> Int[np.ndarray, "examples spans 2"]:
        """Where they are in the run that replacements come from."""
        return ranges(self.task, self.units.named, not self.noising)

    def starts(self, start: int, length: int, examples: tuple[int, ...]) -> np.ndarray:
        """See `Plan.starts`."""
        own = self._own[list(examples)][:, self._number]
        first = np.maximum(own[..., 0], start) if self.lm.decoder.anatomy.causal else start
        return np.where(own[..., 1] > start, first, length)

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Spans that a pair lacks, and those of which nothing can change."""
        tape = patching.bucket.tape
        own = self._own[list(tape.examples)][:, self._number]
        lacking, shared = own[..., 0] < 0, own[..., 1] <= tape.start
        for chosen, effect in ((lacking, float("nan")), (shared & ~lacking, 0.0)):
            rows = np.argwhere(todo.numpy() & chosen)
            if len(rows):
                yield rows, effect

    def _new(self, tape: Tape, place: Place, layer: int, example: Tensor, units: np.ndarray) -> Tensor:
        new = super()._new(tape, place, layer, example, units)
        if not (isinstance(self.source, Counterfactual) and moved(self.task, self.units.named)):
            return new
        examples, number = self._examples(tape, example), self._number[units]
        shift = self._other[examples, number, 0] - self._own[examples, number, 0]
        from_there = torch.arange(tape.start, tape.length) + torch.as_tensor(shift)[:, None]
        here = self._inside(tape, example, units, tape.start)
        index = torch.where(here, from_there, torch.arange(tape.start, tape.length)) - tape.start
        return new.gather(1, index.to(new.device)[..., None].expand_as(new))

    def _at_position(self, delta: Tensor, tape: Tape, example: Tensor, units: np.ndarray, start: int) -> Tensor:
        """Changes outside each row's span are none."""
        inside = self._inside(tape, example, units, start).to(delta.device)
        return torch.where(inside if delta.ndim == 2 else inside[..., None], delta, torch.zeros_like(delta))

    def _inside(self, tape: Tape, example: Tensor, units: np.ndarray, start: int) -> Bool[Tensor, "rows positions"]:
        """Which positions from `start` on are in each row's span."""
        own = torch.as_tensor(self._own[self._examples(tape, example), self._number[units]])
        position = torch.arange(start, tape.length)
        return (position >= own[:, :1]) & (position < own[:, 1:])

    @staticmethod
    def _examples(tape: Tape, example: Tensor) -> Int[np.ndarray, " rows"]:
        return np.array(tape.examples)[example.cpu().numpy()]


def require_alike(task: Task, units: SpanUnits | Groups) -> None:
    """UnitError where the other run's values at a span cannot stand in a pair's prompt.

    That is where the prompts have it of different lengths, so that its tokens do not correspond; and where they have it
    at other positions, for queries and keys, which are rotated by theirs, and for patterns, which end at theirs.
    """
    kinds: set[str] = {units.kind}
    if isinstance(units, Groups):
        kinds = {one.kind for group in units.members for one in group if one.named}
    for i, spans in enumerate(task.spans):
        for name in units.named:
            if name in spans and spans[name].moved and kinds & {"queries", "keys", "patterns"}:
                raise UnitError(
                    f"Pair {i} of {task.name!r}: the span {name!r} is at tokens {spans[name].clean[0]} … of the clean "
                    f"prompt and {spans[name].corrupted[0]} … of the corrupted one. Queries, keys and patterns belong "
                    "to their positions, so those of one place say nothing at another: take values, heads, or prompts "
                    "that have it in one place."
                )
            if name in spans and not spans[name].alike:
                sizes = [end - first for first, end in (spans[name].clean, spans[name].corrupted)]
                raise UnitError(
                    f"Pair {i} of {task.name!r}: the span {name!r} is {sizes[0]} tokens of the clean prompt and "
                    f"{sizes[1]} of the corrupted one, so they do not correspond one by one. Leave it out of this pair "
                    "(None), choose words that tokenise alike, or take ablation='zero' or 'mean', which need the clean "
                    "prompt's alone."
                )
