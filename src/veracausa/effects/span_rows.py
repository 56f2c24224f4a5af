"""Rows (example, unit at a span): a unit patched at all tokens of a named span together; see `rows`.

Where a span stands at other positions in the run that replacements come from, its tokens take the values of those
positions, token by token; then whole prompts are run, since what is replaced may lie before the first difference. Where
it is more tokens there, what corresponds is told by `tasks.aligned`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.counterparts import with_means
from veracausa.effects.plan import Patching
from veracausa.effects.replacements import Counterfactual
from veracausa.effects.rows import Rows
from veracausa.engine.patches import Place
from veracausa.engine.tape import Tape
from veracausa.tasks.placing import corresponding_ranges, elsewhere, ranges
from veracausa.units.at_spans import SpanUnits

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class SpanRows(Rows):
    """All rows (example, unit at a span) of one call; see `rows.Rows`."""

    units: SpanUnits
    aligned: ClassVar[bool] = True

    @cached_property
    def _number(self) -> Int[np.ndarray, " units"]:
        """Each unit's span, by its number."""
        numbers = {name: number for number, name in enumerate(self.units.named)}
        return np.array([numbers[name] for name in self.units.spans])

    @cached_property
    def _ranges(self) -> tuple[Int[np.ndarray, "examples spans 2"], Int[np.ndarray, "examples spans 2"]]:
        """Where the spans are in the run that is patched, and in the one that replacements come from.

        Replacements that do not come from there are put at all tokens of a span.
        """
        names = self.units.named
        if isinstance(self.source, Counterfactual):
            return corresponding_ranges(self.task, names, self.noising)
        return ranges(self.task, names, self.noising), ranges(self.task, names, not self.noising)

    @property
    def _own(self) -> Int[np.ndarray, "examples spans 2"]:
        return self._ranges[0]

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

    def _shared_new(self, tape: Tape, place: Place, layer: int) -> Tensor | None:
        """See `Rows._shared_new`; a span that is elsewhere in the other run takes the values of there, row by row."""
        if isinstance(self.source, Counterfactual) and elsewhere(self.task, self.units.named):
            return None
        return super()._shared_new(tape, place, layer)

    def _still(self, patching: Patching) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `Rows._still`; what is at a span differs from pair to pair, and is run."""
        yield from ()

    def _new(self, tape: Tape, place: Place, layer: int, example: Tensor, units: np.ndarray) -> Tensor:
        new = super()._new(tape, place, layer, example, units)
        if not (isinstance(self.source, Counterfactual) and elsewhere(self.task, self.units.named)):
            return new
        examples, number = self._examples(tape, example), self._number[units]
        own, other = (torch.as_tensor(where[examples, number]) for where in self._ranges)
        there = torch.arange(tape.length - tape.start) + (other - own)[:, :1]
        if (unlike := own.diff() != other.diff()).any():
            there = torch.where(unlike, new.shape[1], there)
            new = with_means(new, other[:, None] - tape.start)
        index = torch.where(self._inside(tape, example, units, tape.start), there, 0)
        return new.gather(1, index.to(new.device)[..., None].expand(-1, -1, new.shape[-1]))

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
