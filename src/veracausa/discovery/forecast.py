"""What a discovery will cost, before it is begun: token-layers of each step, and seconds at this machine's rate.

Token-layers are counted from the prompts' lengths and the graph: for gradient scores to a few percent (patterns that
qk-exact recomputes are left out), for circuits an upper bound (small ones run fewer blocks), for exact effects of edges
that are not chosen yet the mean over all edges.
Seconds follow from one prompt pair, on which each kind of work is timed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from veracausa.circuits.runs.ablations import SETTLED
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.circuits.selection.iterated import POINTS, ROUNDS
from veracausa.circuits.selection.learned import BATCH, STEPS
from veracausa.cost import Step
from veracausa.effects.exact import exact
from veracausa.effects.optimal_descent import Learning
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.tape import buckets
from veracausa.errors import GapError
from veracausa.estimates.attribute import attribute, planned
from veracausa.estimates.method import Method
from veracausa.receipts.verify import exact_costs, overhead
from veracausa.units.edges import Edges
from veracausa.units.resolve import all_edges

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Edges whose exact effects are timed.
_TIMED = 64


def scoring(lm: Model, task: Task, method: str | Method) -> Step:
    """Scores of all edges by a method of edges, by "iterated", "learned" or "exact".

    Raises:
        MethodError: an unknown method, or one that means nothing with this metric.
    """
    name = method if isinstance(method, str) else "a composed method"
    what = f"scores of {lm.graph.size:,} edges by {name} on {_pairs(task)}"
    if method == "exact":
        return _step(lm, task, what, "exact", _exact(lm, task, lm.graph.size))
    recorded, behind = _recordings(lm, task, circuit_buckets(lm, task))
    if method == "ifr":
        return _step(lm, task, what, "gradients", 2 * sum(task.lengths) * lm.layers)
    if method == "learned":
        return _step(lm, task, what, "gradients", recorded + 2 * STEPS * behind * min(1.0, BATCH / len(task)))
    if method == "iterated":
        return _step(lm, task, what, "gradients", recorded + 2 * (ROUNDS + 1) * POINTS * behind)
    apart = buckets(lm.decoder, task.clean, task.corrupted, True, len(task))
    recorded, _ = _recordings(lm, task, apart)
    return _step(lm, task, what, "gradients", recorded + planned(lm, task, units="edges", method=method))


def verifying(lm: Model, task: Task, edges: int) -> Step:
    """Exact effects of so many edges, at the mean cost of all."""
    return _step(lm, task, f"exact effects of {edges:,} edges on {_pairs(task)}", "exact", _exact(lm, task, edges))


def running(lm: Model, task: Task, circuits: int, what: str, ablation: str = "counterfactual") -> Step:
    """Runs of so many circuits, at most."""
    share = ablation == "counterfactual"  # another prompt shares no prefix
    recorded, behind = _recordings(lm, task, circuit_buckets(lm, task, share))
    work = recorded + (circuits + 1) * behind  # the whole graph is run, too
    if ablation not in SETTLED:
        work += behind  # no edges: with constants in their place, that is a run of its own
    if ablation in ("mean", "optimal"):
        work += recorded
    if ablation == "optimal":
        learning = Learning()
        steps = 2 * learning.steps * min(1.0, learning.batch / len(task)) + 2
        work += recorded + int((circuits + 1) * steps * behind)
    return _step(lm, task, f"{what} on {_pairs(task)}", "circuits", work)


def timed(lm: Model, task: Task, steps: Sequence[Step]) -> list[Step]:
    """The steps with the seconds that they will about take; without, if the task's first pair cannot tell."""
    try:
        rates = _rates(lm, task[:1].with_metric("logprob"), {step.kind for step in steps})
    except GapError:
        return list(steps)
    return [Step(**{**asdict(step), "seconds": step.token_layers / rates[step.kind]}) for step in steps]


def _step(lm: Model, task: Task, what: str, kind: str, work: float) -> Step:
    return Step(what, kind, float(work), float(work) / (sum(task.lengths) * lm.layers))


def _recordings(lm: Model, task: Task, groups: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[int, int]:
    """Token-layers of both recorded runs, and of one run of every pair behind the prefix that its group shares."""
    shared = total = 0
    for start, members in groups:
        total += sum(task.lengths[i] for i in members)
        shared += start * len(members)
    return lm.layers * (2 * total - shared), lm.layers * (total - shared)


def _exact(lm: Model, task: Task, edges: int) -> float:
    costs = exact_costs(lm, task, all_edges(lm), ablation="counterfactual", direction="noising")
    return float(costs.mean()) * edges + overhead(lm, task, "counterfactual")


def _rates(lm: Model, pair: Task, kinds: set[str]) -> dict[str, float]:
    """Token-layers a second of each kind of work, from one prompt pair."""
    lm.measure(pair)  # what a first call costs once is not to be timed
    every = all_edges(lm)
    chosen = np.random.default_rng(0).permutation(len(every))[:_TIMED]
    some: Edges = every[np.sort(chosen)]
    work = {
        "gradients": lambda: attribute(lm, pair, units="edges", method="eap", show_progress=False).cost,
        "exact": lambda: exact(lm, pair, units=some, show_progress=False).cost,
        "circuits": lambda: run_circuits(lm, pair, [all_edges_mask(lm.graph)], show_progress=False).cost,
    }
    rates = {}
    for kind in kinds:
        began = time.monotonic()
        cost = work[kind]()
        rates[kind] = cost.token_layers / max(time.monotonic() - began, 1e-6)
    return rates


def _pairs(task: Task) -> str:
    return f"{len(task):,} pair{'' if len(task) == 1 else 's'}"
