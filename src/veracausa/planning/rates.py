"""How fast this machine is at each kind of work, from a few seconds of it, so that a call's time can be told before.

Rates are token-layers a second on the first pair of the very task, in the very batches that the work will use as far
as a short run can. What a call does once, however many pairs it has, is no part of them: the weights are read for the
model's identity, and runs are held against the bare model's. All timed runs share one loan of the model, in which the
first has done that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from veracausa.choices import Estimate
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.cost import Cost, Step
from veracausa.effects.exact import exact
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import unshared
from veracausa.engine.sharing import starts
from veracausa.errors import GapError
from veracausa.estimates.attribute import attribute
from veracausa.units.every_unit import all_edges, all_units

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
#: Copies of that pair that a larger run has where a run takes as long with one (a GPU), and units that it patches.
_COPIES, _MANY_ROWS = 16, 256
#: Copies of it of which gradients are taken on a CPU.
_SOME = 6
#: Layers whose path to the corrupted values is timed.
_LAYERS = 5
#: Edges whose exact effects are timed.
_EDGES = 64


class Rate(NamedTuple):
    """Token-layers a second, and the seconds that every batch takes to begin: seconds = work / speed + batches · begin.

    A batch of a few prompts reads all weights for a few tokens when it is recorded, however many rows then follow.
    `once`: seconds that a call by itself takes beside all that, to read the model's identity.
    """

    speed: float
    begin: float
    once: float = 0.0


def rates(lm: Model, task: Task, kinds: Iterable[str]) -> dict[str, Rate]:
    """The rate of each kind of work (see `_timing`); of one that has no timing of its own that of exact effects.

    Nothing where the task's first pair cannot tell, because the model gives both its prompts the same metric.

    >>> rates(lm, task, ["exact"])["exact"].speed
    """
    answered = all(task.correct[:_PAIRS])
    if (even := _even(task[:_PAIRS])) is None:
        return {}
    pairs = even.with_metric("logprob" if answered else "entropy")  # ones that every pair has a gap in
    work, wanted = _timing(lm, pairs), dict.fromkeys(kinds)
    known: dict[str, Rate] = {}
    try:
        with unshared(lm.decoder):
            once = _seconds(lambda: lm.identity)
            # warm: what a first run costs once is not timed
            attribute(lm, pairs, units=_usual(lm), method="atp", show_progress=False)
            for kind in wanted:
                own = kind if kind in work else "exact"
                if own not in known:
                    if lm.device.type != "cpu":  # whose library loads every kernel when it is first asked for
                        work[own][1]()
                    known[own] = _rate(*work[own], batches(lm, pairs))
                slower = LOCATING if kind == "locating" else 1.0
                known[kind] = Rate(known[own].speed / slower, known[own].begin * slower, once)
    except GapError:
        return {}
    return {kind: known[kind] for kind in wanted}


def _even(pairs: Task) -> Task | None:
    """The pairs, with the clean prompts turned round in the place of corrupted ones that have other lengths, or none.

    Runs take as long as their prompts are, whatever these say. None where that changes nothing.
    """
    if pairs.paired and not pairs.uneven:
        return pairs
    turned = tuple((ids[0], *reversed(ids[1:])) for ids in pairs.clean)
    return (
        None
        if turned == pairs.clean
        else replace(pairs, corrupted=turned, corrupted_text=(), spans=(), align=None, paired=True)
    )


def _timing(lm: Model, pairs: Task) -> dict[str, tuple[Callable[[], Cost], Callable[[], Cost]]]:
    """Kind of work → a small run of it and a larger one, over as many batches.

    "exact", "neurons": patched runs of heads and of neurons; "edges": of edges. "gradients", "paths": one gradient, and
    integrated ones; "edge gradients": of edges. "circuits": runs of the whole graph. On a CPU a pair is enough, since
    time goes with tokens; a GPU takes as long for sixteen. Gradients of one pair are over before they have done more
    than begin, on a CPU, too, so that a few copies of it tell their speed.
    """
    many, some = (pairs, pairs[[0] * _SOME]) if lm.device.type == "cpu" else (pairs[[0] * _COPIES],) * 2

    def patched(kind: str) -> tuple[Callable[[], Cost], Callable[[], Cost]]:
        def run(of: Task, rows: int) -> Cost:
            return exact(lm, of, units=_neighbours(lm, kind, rows), show_progress=False).cost

        return lambda: run(pairs, _FEW), lambda: run(many, _ROWS if many is pairs else _MANY_ROWS)

    def estimated(of: Task, units: str | list[str], method: Estimate, nodes: int | None = None) -> Cost:
        return attribute(lm, of, units=units, method=method, nodes=nodes, show_progress=False).cost

    def edges(of: Task) -> Cost:
        every = all_edges(lm)
        chosen = np.random.default_rng(0).permutation(len(every))[:_EDGES]
        return exact(lm, of, units=every[np.sort(chosen)], show_progress=False).cost

    def circuit(of: Task) -> Cost:
        return run_circuits(lm, of, [all_edges_mask(lm.graph)], show_progress=False).cost

    def by_pairs(run: Callable[[Task], Cost]) -> tuple[Callable[[], Cost], Callable[[], Cost]]:
        return (Cost if many is pairs else lambda: run(pairs)), lambda: run(many)

    def gradients(units: str, method: Estimate) -> tuple[Callable[[], Cost], Callable[[], Cost]]:
        return lambda: estimated(pairs, units, method), lambda: estimated(some, units, method)

    return {
        "exact": patched(_usual(lm)),
        "neurons": patched("neurons"),
        "edges": by_pairs(edges),
        "gradients": gradients(_usual(lm), "atp"),
        "edge gradients": gradients("edges", "eap"),
        "paths": (
            lambda: estimated(pairs, _layers(lm, 1), "ig", nodes=5),
            lambda: estimated(pairs, _layers(lm, _LAYERS), "ig", nodes=5),
        ),
        "circuits": by_pairs(circuit),
    }


def batches(lm: Model, task: Task) -> int:
    """Groups of pairs that run together: those of one length and one first position to run."""
    return len(set(zip(task.lengths, starts(lm.decoder, task), strict=True)))


def timed(steps: Sequence[Step], known: dict[str, Rate]) -> list[Step]:
    """The steps with the seconds that they will about take, at known rates; None where a step's kind is not known."""

    def seconds(step: Step) -> float | None:
        rate = known.get(step.kind)
        return None if rate is None else step.token_layers / rate.speed + step.batches * rate.begin

    return [replace(step, seconds=seconds(step)) for step in steps]


def begun(steps: Sequence[Step], known: dict[str, Rate]) -> list[Step]:
    """`timed` steps of a call by itself: the first bears what the call does once."""
    first, *others = timed(steps, known)
    if first.seconds is not None:
        first = replace(first, seconds=first.seconds + known[first.kind].once)
    return [first, *others]


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


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _usual(lm: Model) -> Literal["heads", "residual"]:
    """Units that every layer has: heads, or the stream where some layers have no attention."""
    return "heads" if len(lm.decoder.layers_with("attention")) == lm.layers else "residual"


def _layers(lm: Model, count: int) -> list[str]:
    """A head of each of some layers, or their stream, spread evenly."""
    layers = np.unique(np.linspace(0, lm.layers - 1, min(count, lm.layers)).astype(int))
    name = "a{}.h0" if _usual(lm) == "heads" else "r{}"
    return [name.format(layer) for layer in layers]


def _neighbours(lm: Model, kind: str, rows: int) -> list[str]:
    """Units of neighbouring layers, from a third of the way on."""
    every = all_units(lm, kind)  # type: ignore[arg-type]
    count = min(len(every), rows // _PAIRS)
    first = min(len(every) - count, len(every) // 3)
    return every[first : first + count].names
