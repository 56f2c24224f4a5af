"""What units take of the other run where it has their span elsewhere, or as more tokens or fewer (`tasks.aligned`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.errors import UnitError
from veracausa.tasks.aligned import shared_end
from veracausa.tasks.placing import places
from veracausa.tasks.spans import Range
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
