"""Which pairs share a tape: those of one length and first difference, and others where joining them costs less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.anatomy import Decoder
from veracausa.engine.mixing import BEGIN, begin, joined
from veracausa.engine.sharing import alike, starts

if TYPE_CHECKING:
    from veracausa.tasks.task import Task


def buckets(
    decoder: Decoder,
    task: Task,
    share_prefix: bool,
    most: int,
    mixed: bool = False,
    rows: float = 0.0,
    passes: float = 0.0,
    pairs: int | None = None,
) -> list[tuple[int, tuple[int, ...]]]:
    """Group pairs that can run in one batch: (start, indices), at most `most` pairs each.

    Pairs of a group have the same lengths and the same first position to run: see `sharing.starts`. `mixed`: they may
    be of several, as `mixing` joins them, the longest first; for what depends on no position of its own. Never those
    whose two prompts have different lengths. Where passes begin slowly (a GPU), pairs of one length may first differ at
    several positions, if that pays: `rows` is how often each is run beside its recording, `passes` in how many passes.
    `pairs`: that a group has at most whatever their lengths; `most` counts the longest pairs, and of shorter ones more
    may be joined.
    Order is that of the task within a group, and of first appearance between groups.
    """
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, start in enumerate(starts(decoder, task, share_prefix)):
        groups.setdefault((start, task.lengths[index], len(task.corrupted[index])), []).append(index)
    every = [
        (start, tuple(members[first : first + most]))
        for (start, *_), members in groups.items()
        for first in range(0, len(members), most)
    ]
    found = [group for group in every if not task.uneven & {*group[1]}]
    slow = begin(decoder)
    if not (decoder.anatomy.causal and len(found) > 1 and (mixed or slow > BEGIN)):
        return every
    if not mixed:
        return [*_of_one_length(found, task, most, slow, rows), *(group for group in every if group not in found)]
    together = joined(found, task.lengths, most * max(task.lengths), slow, rows, passes, pairs)
    if alike(decoder, [(start, task.lengths[own[0]]) for start, own in together], task.lengths):
        return [*together, *(group for group in every if group not in found)]
    return every


def _of_one_length(
    groups: Sequence[tuple[int, tuple[int, ...]]], task: Task, most: int, slow: float, rows: float
) -> list[tuple[int, tuple[int, ...]]]:
    """Groups of pairs joined with others of their length; see `mixing`."""
    by_length: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for group in groups:
        by_length.setdefault(task.lengths[group[1][0]], []).append(group)
    return [one for length, own in by_length.items() for one in joined(own, task.lengths, most * length, slow, rows)]
