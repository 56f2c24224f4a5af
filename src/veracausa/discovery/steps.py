"""The steps of a discovery before they are done: what each is forecast to cost.

Token-layers are counted from the prompts' lengths and the graph: for gradient scores to a few percent (patterns that
qk-exact recomputes are left out), for circuits that are not selected yet an upper bound (small ones run fewer blocks),
for exact effects of edges that are not chosen yet the mean over all edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from veracausa.choices import EdgeScoring, Estimate
from veracausa.circuits.runs.tapes import circuit_buckets, recordings
from veracausa.circuits.selection.iterated import IterateWork, iterate
from veracausa.circuits.selection.learned import LearnWork, learn
from veracausa.cost import Step
from veracausa.effects.exact import exact
from veracausa.estimates.attribute import attribute
from veracausa.estimates.method import Method
from veracausa.receipts.verify import overhead
from veracausa.words import counted

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task

#: The folder of unfinished pieces.
PIECES = "pieces"


@dataclass(frozen=True, eq=False)
class Scoring:
    """All edges are about to be scored: by a method of edges, "iterated", "learned" or "exact".

    `tokens`: what that will cost. `edges`: how many will be selected, for which "learned" says what they give.
    """

    lm: Model
    task: Task
    method: EdgeScoring | Method
    tokens: float
    work: IterateWork | LearnWork | None

    @classmethod
    def of(cls, lm: Model, task: Task, method: EdgeScoring | Method, edges: int, seed: int) -> Scoring:
        """Check what is asked.

        Raises:
            MethodError: an unknown method, or one that means nothing with this metric.
        """
        if method == "exact":
            return cls(lm, task, method, _exact(lm, task, lm.graph.size), None)
        if method == "iterated" or method == "learned":
            work: IterateWork | LearnWork
            iterated = method == "iterated"
            work = iterate.work(lm, task) if iterated else learn.work(lm, task, how="top-k", keep=edges, seed=seed)
            return cls(lm, task, method, work.tokens(), work)
        return cls(lm, task, method, attribute.work(lm, task, units="edges", method=method).tokens(), None)

    @property
    def step(self) -> Step:
        """In words, with its cost."""
        name = self.method if isinstance(self.method, str) else "a composed method"
        kind = "edges" if self.method == "exact" else "edge gradients"
        return _step(self.lm, self.task, f"scores of {self.lm.graph.size:,} edges by {name}", kind, self.tokens)

    def run(self, folder: Path | None, show_progress: bool) -> Scores:
        """Score them; `folder`: of the discovery, where unfinished pieces are kept."""
        if self.work is not None:
            return self.work.run(show_progress)
        if self.method == "exact":
            pieces = folder and folder / PIECES
            return exact(self.lm, self.task, units="edges", out=pieces, show_progress=show_progress)
        return attribute(
            self.lm,
            self.task,
            units="edges",
            method=cast("Estimate | Method", self.method),
            show_progress=show_progress,
        )


def verifying(lm: Model, task: Task, edges: int) -> Step:
    """Exact effects of so many edges, at the mean cost of all."""
    return _step(lm, task, f"exact effects of {edges:,} edges", "edges", _exact(lm, task, edges))


def running(lm: Model, task: Task, circuits: int, what: str) -> Step:
    """Runs of so many circuits, at most."""
    recorded, behind = recordings(lm, task, circuit_buckets(lm, task))
    return _step(lm, task, what, "circuits", recorded + (circuits + 1) * behind)  # the whole graph is run, too


def _step(lm: Model, task: Task, what: str, kind: str, work: float) -> Step:
    passes, batches = float(work) / (sum(task.lengths) * lm.layers), len(circuit_buckets(lm, task))
    return Step(f"{what} on {counted(len(task), 'pair')}", kind, float(work), passes, batches=batches)


def _exact(lm: Model, task: Task, edges: int) -> float:
    costs = exact.work(lm, task, units="edges").costs()
    return float(costs.mean()) * edges + overhead(lm, task, "counterfactual")
