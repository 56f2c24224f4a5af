"""Whether a call can fit into memory at all: one pair and one row at a time; and if not, what would make it fit.

Asked before anything is run, and told by the same counts that forecasts take. What cannot be known so early (other
programs, fragments) is left out: only a call that would need a quarter more than there is is refused; of memory that
was given (`memory=`) one that would need more at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged
from veracausa.circuits.selection.learned import LearnWork
from veracausa.circuits.sheaves.finding import RunSheafWork, SheafWork
from veracausa.engine import budget
from veracausa.engine.footprint import Footprint, Memory
from veracausa.engine.work import Derived
from veracausa.errors import OutOfMemoryError
from veracausa.estimates.learned.masks import MaskWork
from veracausa.planning.groups import Group, sized
from veracausa.planning.memory import NEEDED

#: Counts are right to a fifth.
_SURELY = 0.8
#: Calls that keep all pairs.
_KEEPING = (MaskWork, LearnWork, SheafWork, RunSheafWork)
#: Lengths of prompts that are tried.
_LENGTHS = tuple(2**power for power in range(16, 2, -1))


def require_fits(work: Any) -> None:
    """Raise OutOfMemoryError for a call that cannot fit into the memory that can be had, with what makes it fit.

    >>> require_fits(vc.attribute.work(lm, task, units="edges", method="eap"))
    """
    work, needed = _known(work)
    if needed is None:
        return
    free, shapes, groups = budget.free_memory(work.lm.device), Footprint.of(work.lm), _alone(work)
    found = _least(work, shapes, groups)
    if (_SURELY if budget.given() is None else 1.0) * found.beside <= free:
        return
    parts = {name: count for name, count in found.parts.items() if count > 0.05 * found.beside}
    raise OutOfMemoryError(
        f"This call needs about {sized(found.beside)} beside the weights even with one pair and one row at a time "
        f"({', '.join(f'{name} {sized(count)}' for name, count in parts.items())}), and {sized(free)} can be had: "
        f"{_remedy(work, shapes, groups, free)}.{_more(work, found.beside)}"
    )


def _known(work: Any) -> tuple[Any, Any]:
    """The work that runs the model, and how its memory is counted; None where its form is not known."""
    while isinstance(work, Derived | Judged):
        work = work.effects if isinstance(work, Derived) else work.runs
    return work, next((needed for kind, needed in NEEDED.items() if isinstance(work, kind)), None)


def _alone(work: Any) -> list[Group]:
    """Every pair by itself, from where its prompts first differ; of calls that keep no others each size once."""
    task = work.how.pairs if isinstance(work, CircuitRuns) else work.task
    share = getattr(work, "share", getattr(work, "share_prefix", True)) and work.lm.decoder.shares_prefixes
    lengths = [max(len(one), len(other)) for one, other in zip(task.clean, task.corrupted, strict=True)]
    firsts = task.first_difference if share and not task.uneven else [0] * len(task)
    found = [Group(1, n - first, n) for n, first in zip(lengths, firsts, strict=True)]
    return found if isinstance(work, _KEEPING) else [*dict.fromkeys(found)]


def _least(work: Any, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """What the call takes with one row at a time."""
    _, needed = _known(work)
    with budget.within(0):
        asked = any(field.name == "rows" for field in fields(work))  # rows that the user wants at once
        found: Memory = needed(replace(work, rows=None) if asked else work, shapes, groups)
    return found


def _remedy(work: Any, shapes: Footprint, groups: Sequence[Group], free: int) -> str:
    """The first of some options with which the call would fit."""

    def fits(shapes: Footprint, groups: Sequence[Group]) -> bool:
        return _least(work, shapes, groups).beside <= free

    half = replace(shapes, item=2, wide=4)
    longest, pairs = max(group.length for group in groups), len(groups)
    least = _least(work, shapes, groups)
    if shapes.item > 2 and fits(half, groups):
        return "load the model with dtype='bfloat16'"
    if isinstance(work, _KEEPING):
        for count in (pairs // 2**power for power in range(1, pairs.bit_length())):
            if fits(shapes, sorted(groups, key=lambda group: group.length)[-count:]):
                return f"{count:,} pairs of these lengths fit (task[:{count}]), since all are kept"
    for length in _LENGTHS:
        shorter = [Group(1, min(group.positions, length), min(group.length, length)) for group in groups]
        if length < longest and fits(shapes, shorter):
            return f"prompts of {length:,} tokens fit (the longest has {longest:,})"
    if least.scores > free:
        return f"ask for fewer units or pairs: the scores alone are {sized(least.scores)}"
    return "take a device with more memory"


def _more(work: Any, needed: int) -> str:
    """What to say where less memory was given than is free, and the call would fit into that."""
    device = work.lm.device
    if budget.given() is None or device.type == "meta" or needed > _SURELY * budget.free_now(device):
        return ""
    size = f"{math.ceil(needed / 1e8) / 10:g}GB" if needed >= 1e9 else f"{math.ceil(needed / 1e6)}MB"
    return f" There is more than was given: memory='{size}' would do."
