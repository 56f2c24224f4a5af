"""What units take of the other run where it has their span elsewhere, or as more tokens or fewer (`tasks.aligned`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.effects.replacements import Replacement
from veracausa.engine.patches import Place, activation
from veracausa.engine.tape import Tape
from veracausa.errors import MethodError, UnitError
from veracausa.tasks.aligned import shared_end
from veracausa.tasks.placing import corresponding, places
from veracausa.tasks.spans import END, Range
from veracausa.units.at_spans import SpanUnits
from veracausa.units.groups import Groups
from veracausa.units.members import Member

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.tasks.task import Task

#: What is rotated by its position, or ends at it.
_PLACED = frozenset({"queries", "keys", "patterns"})


def with_means(
    values: Float[Tensor, "rows positions site"], where: Int[Tensor, "rows spans 2"]
) -> Float[Tensor, "rows positions_and_spans site"]:
    """Values at all positions, and behind them the mean over each span, (first, end); 0 of one that a row lacks.

    >>> with_means(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0, 2]]]))[0, :, 0]
    tensor([1., 3., 2.])
    """
    position, (first, end) = torch.arange(values.shape[1]), where[..., None].unbind(-2)
    inside = ((position >= first) & (position < end)).to(values)
    share = inside / inside.sum(-1, keepdim=True).clamp_min(1)
    return torch.cat([values, share @ values], 1)


def sources(own: Range, other: Range, mean: int) -> Int[Tensor, " positions"]:
    """Where the other run has the value of each token of a span; `mean`: where it has the mean over its own.

    >>> sources((3, 5), (7, 9), 20), sources((3, 5), (7, 8), 20)
    (tensor([7, 8]), tensor([20, 20]))
    """
    size = own[1] - own[0]
    return torch.arange(*other) if size == other[1] - other[0] else torch.full((size,), mean)


@dataclass(frozen=True, eq=False)
class Aligned:
    """The other run's values at the tokens of some spans, wherever it has them; elsewhere the run's own."""

    source: Replacement
    task: Task
    names: tuple[str, ...]
    noising: bool

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        base = tape.clean if self.noising else tape.corrupted
        own, new = activation(base, place, layer)[example], self.source.rows(tape, place, layer, example, unit)
        index, pairs = torch.full(own.shape[:2], -1), [tape.examples[row] for row in example.tolist()]
        whole = torch.full((len(pairs), len(self.names), 2), -1)
        for row, pair in enumerate(pairs):
            here, there = corresponding(self.task, pair, self.names, self.noising)
            for number, name in enumerate(self.names):
                if name not in here:
                    continue
                whole[row, number] = torch.tensor(there[name]) - tape.start
                first, end = (at - tape.start for at in here[name])
                if end > 0:
                    found = sources(here[name], there[name], new.shape[1] + tape.start + number) - tape.start
                    index[row, max(first, 0) : end] = found[max(-first, 0) :]
        taken = with_means(new, whole).gather(1, index.clamp_min(0).to(new.device)[..., None].expand_as(own))
        return torch.where((index >= 0).to(own.device)[..., None], taken, own)


def require_apart(task: Task, names: Sequence[str]) -> None:
    """MethodError where a pair's last token takes one value at its end and another at a span that it belongs to."""
    for i in range(len(task) if END in names else 0):
        for noising in (True, False):
            own, other = corresponding(task, i, names, noising)
            for name in own:
                last = sources(own[name], other[name], -1)[-1] if own[name][1] == own[END][1] else other[END][0]
                if last != other[END][0]:
                    raise MethodError(
                        f"Pair {i} of {task.name!r} ends with the span {name!r}, so its last token would move to one "
                        "value there and to another at the end. Ask for both in calls of their own: "
                        f"units='heads@{name}', units='heads@end'."
                    )


def require_alike(task: Task, units: SpanUnits | Groups) -> None:
    """UnitError where the other run's values cannot stand in a pair's prompt.

    That is where the prompts have a span of different lengths and the task does not say what corresponds; where they
    have it at other positions, for queries and keys, which are rotated by theirs, and patterns, which end at theirs;
    and at positions that have no counterpart in prompts of different lengths.
    """
    kinds: set[str] = {units.kind}
    if isinstance(units, Groups):
        kinds = {one.kind for group in units.members for one in group if one.named}
        for one in (one for group in units.members for one in group if not one.named):
            _require_counterpart(task, one)
    for i in range(len(task)):
        own, other = (places(task, i, units.named, clean) for clean in (True, False))
        for name in own:
            if own[name] != other[name] and kinds & _PLACED:
                raise UnitError(_moved(task, i, f"the span {name!r}", own[name], other[name]))
            sizes = [end - first for first, end in (own[name], other[name])]
            if sizes[0] != sizes[1] and task.align is None:
                raise UnitError(
                    f"Pair {i} of {task.name!r}: the span {name!r} is {sizes[0]} tokens of the clean prompt and "
                    f"{sizes[1]} of the corrupted one, so they do not correspond one by one. Say what does, "
                    "vc.task(…, align='last' or 'mean'), leave it out of this pair (None), choose words that tokenise "
                    "alike, or take ablation='zero' or 'mean', which need the clean prompt's alone."
                )


def _require_counterpart(task: Task, one: Member) -> None:
    """UnitError for a member at no span whose positions a pair of unequal lengths does not have in both prompts."""
    for i in sorted(task.uneven):
        clean, corrupted = task.clean[i], task.corrupted[i]
        if one.first is None or not -shared_end(clean, corrupted) <= one.first < 0:
            raise UnitError(
                f"{one.name!r}: in pair {i} of {task.name!r}, whose prompts have {len(clean)} and {len(corrupted)} "
                f"tokens, only spans correspond, and the last {shared_end(clean, corrupted)} from the end (@end, "
                "@-3--1): name those."
            )
        if one.kind in _PLACED:
            own, other = ((len(ids) + one.first, len(ids)) for ids in (clean, corrupted))
            raise UnitError(_moved(task, i, one.name, own, other))


def _moved(task: Task, pair: int, what: str, own: Range, other: Range) -> str:
    return (
        f"Pair {pair} of {task.name!r}: {what} is at tokens {own[0]} … of the clean prompt and {other[0]} … of the "
        "corrupted one. Queries, keys and patterns belong to their positions, so those of one place say nothing at "
        "another: take values, heads, or prompts that have it in one place."
    )
