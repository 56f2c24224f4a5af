"""How fast this machine is at each kind of work, from a few seconds of it, so that a study's time can be told before.

Rates are token-layers a second on the first pairs of the very task, in the very batches that the work will use as far
as a short run can. What a first call costs once (loading code, the first matrix product) is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from veracausa.attribution.estimate import attribute
from veracausa.attribution.exact import exact
from veracausa.attribution.units import all_units
from veracausa.causes.locate import locate
from veracausa.engine.cost import Cost
from veracausa.forecast import Step

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Pairs that are timed.
_PAIRS = 2
#: Rows of patched runs that are timed: a chunk or two, from neighbouring layers as in the work itself.
_ROWS = 144
#: Layers whose path to the corrupted values is timed.
_LAYERS = 5


def rates(lm: Model, task: Task, kinds: Iterable[str]) -> dict[str, float]:
    """Token-layers a second of each kind of work: "exact", "neurons", "gradients", "paths", "locating", "passes".

    >>> rates(lm, task, ["exact"])["exact"]
    """
    pairs = task[:_PAIRS]
    exact(lm, pairs, units=_neighbours(lm, "heads", _ROWS), show_progress=False)  # warm: the first run is slower
    work = {
        "exact": lambda: exact(lm, pairs, units=_neighbours(lm, "heads", _ROWS), show_progress=False).cost,
        "neurons": lambda: exact(lm, pairs, units=_neighbours(lm, "neurons", _ROWS), show_progress=False).cost,
        "gradients": lambda: attribute(lm, pairs, units="heads", method="atp", show_progress=False).cost,
        "paths": lambda: attribute(lm, pairs, units=_layers(lm), method="ig", nodes=5, show_progress=False).cost,
        "locating": lambda: locate(lm, pairs, units=_neighbours(lm, "heads", 2 * _PAIRS), show_progress=False).cost,
        "passes": lambda: _measured(lm, pairs),
    }
    return {kind: _rate(work[kind]) for kind in dict.fromkeys(kinds)}


def likely(lm: Model, task: Task) -> tuple[str, ...]:
    """Heads in the order of |atp| on the first pairs: what will about be chosen, for counting its cost beforehand."""
    guess = attribute(lm, task[:_PAIRS], units="heads", method="atp", show_progress=False)
    return tuple(guess.units.names[i] for i in guess.ranking())


def timed(steps: Sequence[Step], known: dict[str, float]) -> list[Step]:
    """The steps with the seconds that they will about take, at known rates."""
    return [replace(step, seconds=step.token_layers / known[step.kind]) for step in steps]


def _rate(work: Callable[[], Cost]) -> float:
    began = time.monotonic()
    cost = work()
    return cost.token_layers / max(time.monotonic() - began, 1e-6)


def _measured(lm: Model, task: Task) -> Cost:
    from veracausa.engine.measure import measure

    cost = Cost()
    measure(lm, task, cost)
    return cost


def _layers(lm: Model) -> list[str]:
    """Heads of some layers, spread evenly."""
    layers = np.unique(np.linspace(0, lm.layers - 1, min(_LAYERS, lm.layers)).astype(int))
    return [f"a{layer}.h0" for layer in layers]


def _neighbours(lm: Model, kind: str, rows: int) -> list[str]:
    """Units of neighbouring layers, from a third of the way on."""
    every = all_units(lm, kind)  # type: ignore[arg-type]
    count = min(len(every), rows // _PAIRS)
    first = min(len(every) - count, len(every) // 3)
    return every[first : first + count].names
