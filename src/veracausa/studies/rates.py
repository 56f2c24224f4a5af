"""How fast this machine is at each kind of work, from a few seconds of it, so that a study's time can be told before.

Rates are token-layers a second on the first pairs of the very task, in the very batches that the work will use as far
as a short run can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from veracausa.cost import Cost, Step
from veracausa.effects.exact import exact
from veracausa.engine.sharing import starts
from veracausa.estimates.attribute import attribute
from veracausa.units.resolve import all_units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Pairs that are timed: the fewer, the less the timing costs itself.
_PAIRS = 1
#: Rows of patched runs that are timed: a chunk or two, from neighbouring layers as in the work itself.
_FEW, _ROWS = 4, 150
#: `vc.causes.locate` takes so many times as long for a token-layer as exact effects do (0.28 and 0.11 ms on one core):
#: its batches are small, and timing it would cost more than it mostly does.
LOCATING = 2.5
#: Layers whose path to the corrupted values is timed.
_LAYERS = 5


class Rate(NamedTuple):
    """Token-layers a second, and the seconds that every batch takes to begin: seconds = work / speed + batches · begin.

    A batch of a few prompts reads all weights for a few tokens when it is recorded, however many rows then follow.
    """

    speed: float
    begin: float


def rates(lm: Model, task: Task, kinds: Iterable[str]) -> dict[str, Rate]:
    """The rate of each kind of work: "exact", "neurons", "gradients", "paths", "locating".

    >>> rates(lm, task, ["exact"])["exact"].speed
    """
    pairs = task[:_PAIRS]

    def patched(kind: str, rows: int) -> Cost:
        return exact(lm, pairs, units=_neighbours(lm, kind, rows), show_progress=False).cost

    def estimated(units: str | list[str], method: str, nodes: int | None = None) -> Cost:
        return attribute(lm, pairs, units=units, method=method, nodes=nodes, show_progress=False).cost

    work: dict[str, tuple[Callable[[], Cost], Callable[[], Cost]]] = {
        "exact": (lambda: patched("heads", _FEW), lambda: patched("heads", _ROWS)),
        "neurons": (lambda: patched("neurons", _FEW), lambda: patched("neurons", _ROWS)),
        "gradients": (lambda: Cost(), lambda: estimated("heads", "atp")),
        "paths": (
            lambda: estimated(_layers(lm, 1), "ig", nodes=5),
            lambda: estimated(_layers(lm, _LAYERS), "ig", nodes=5),
        ),
    }
    estimated("heads", "atp")  # warm: what a first run costs once is not timed
    wanted, count = dict.fromkeys(kinds), batches(lm, pairs)
    known = {
        kind: _rate(*work[kind], count) for kind in work if kind in wanted or (kind == "exact" and "locating" in wanted)
    }
    if "locating" in wanted:
        known["locating"] = Rate(known["exact"].speed / LOCATING, known["exact"].begin * LOCATING)
    return known


def batches(lm: Model, task: Task) -> int:
    """Groups of pairs that run together: those of one length and one first position to run."""
    return len(set(zip(task.lengths, starts(lm.decoder, task.clean, task.corrupted), strict=True)))


def likely(lm: Model, task: Task) -> tuple[str, ...]:
    """Heads in the order of |atp| on the first pairs: what will about be chosen, for counting its cost beforehand."""
    guess = attribute(lm, task[:_PAIRS], units="heads", method="atp", show_progress=False)
    return tuple(guess.units.names[i] for i in guess.ranking())


def timed(steps: Sequence[Step], known: dict[str, Rate]) -> list[Step]:
    """The steps with the seconds that they will about take, at known rates."""

    def seconds(step: Step) -> float:
        rate = known[step.kind]
        return step.token_layers / rate.speed + step.batches * rate.begin

    return [replace(step, seconds=seconds(step)) for step in steps]


def _rate(small: Callable[[], Cost], large: Callable[[], Cost], count: int) -> Rate:
    """From two runs over the same batches: what the larger does more tells the speed, what is left how they begin."""
    (few, short), (many, long) = _clocked(small), _clocked(large)
    speed = many / max(long, 1e-6)
    if few and long > short:
        speed = max(speed, (many - few) / (long - short))
    return Rate(speed, max(0.0, short - few / speed) / count if few else 0.0)


def _clocked(work: Callable[[], Cost]) -> tuple[int, float]:
    """Token-layers, and seconds."""
    began = time.monotonic()
    cost = work()
    return cost.token_layers, time.monotonic() - began


def _layers(lm: Model, count: int) -> list[str]:
    """A head of each of some layers, spread evenly."""
    layers = np.unique(np.linspace(0, lm.layers - 1, min(count, lm.layers)).astype(int))
    return [f"a{layer}.h0" for layer in layers]


def _neighbours(lm: Model, kind: str, rows: int) -> list[str]:
    """Units of neighbouring layers, from a third of the way on."""
    every = all_units(lm, kind)  # type: ignore[arg-type]
    count = min(len(every), rows // _PAIRS)
    first = min(len(every) - count, len(every) // 3)
    return every[first : first + count].names
