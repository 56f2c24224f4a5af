"""The steps of a discovery before they are done: what each is forecast to cost.

Token-layers are counted from the prompts' lengths and the graph: for gradient scores to a few percent (patterns that
qk-exact recomputes are left out), for circuits that are not selected yet an upper bound (small ones run fewer blocks),
for exact effects of edges that are not chosen yet the mean over all edges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from veracausa.choices import EdgeScoring, Estimate, LearnedBy
from veracausa.circuits.runs.tapes import circuit_buckets, recordings
from veracausa.circuits.selection.iterated import iterate
from veracausa.circuits.selection.learned import learn
from veracausa.cost import Step, bounds
from veracausa.discovery.ways import SCORED_BY
from veracausa.effects.exact import exact
from veracausa.errors import MethodError
from veracausa.estimates.attribute import AttributeWork, attribute
from veracausa.estimates.flow import FlowWork
from veracausa.estimates.method import Method
from veracausa.receipts.verify import overhead
from veracausa.suggestions import not_known
from veracausa.units.edges import Edges
from veracausa.words import counted

if TYPE_CHECKING:
    from veracausa.circuits.attacks.attacking import AdversaryWork
    from veracausa.engine.work import Work
    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task

#: The folder of unfinished pieces.
PIECES = "pieces"


#: Ways in which a circuit settles at its size → in how many rounds, and guarded against how many others restored.
_SETTLED: dict[Any, dict[str, Any]] = {"settled": {"settle": 4}, "guarded": {"settle": 6, "guard": (30, 100)}}
#: Ways of learning masks.
_LEARNED: dict[Any, LearnedBy] = {
    "learned": "top-k", "matryoshka": "matryoshka", "bottleneck": "bottleneck", "adversarial": "adversarial",
    "edge-pruning": "edge-pruning", "ugs": "ugs", "discogp": "discogp",
}  # fmt: skip
#: Scores that are taken in rounds.
_ITERATED = ("iterated", "balanced", *_SETTLED)


@dataclass(frozen=True, eq=False)
class Scoring:
    """All edges are about to be scored by the `work` of a method: of edges, exact, iterated in some way, or learned."""

    method: EdgeScoring | Method
    work: Work

    @classmethod
    def of(cls, lm: Model, task: Task, method: EdgeScoring | Method, edges: int, seed: int) -> Scoring:
        """Check what is asked; `edges`: how many will be selected, at which a circuit settles, and for which learned
        scores say what they give.

        Raises:
            MethodError: an unknown method, or one that means nothing with this metric.
        """
        if isinstance(method, str) and method not in (*SCORED_BY, *get_args(Estimate)):
            raise MethodError(f"{not_known('method', method, SCORED_BY)} Or compose one with vc.Method(…).")
        if method == "exact":
            return cls(method, exact.work(lm, task, units="edges"))
        if method == "iterated" or method == "balanced":
            return cls(method, iterate.work(lm, task, by="balanced" if method == "balanced" else "abs_mean"))
        if method == "settled" or method == "guarded":
            return cls(method, iterate.work(lm, task, by="balanced", smallest=edges, **_SETTLED[method]))
        if method in _LEARNED:
            return cls(method, learn.work(lm, task, how=_LEARNED[method], keep=edges, seed=seed))
        return cls(method, attribute.work(lm, task, units="edges", method=cast("Estimate | Method", method)))

    @property
    def step(self) -> Step:
        """In words, with its cost."""
        name, lm = self.method if isinstance(self.method, str) else "a composed method", self.work.lm
        what = f"scores of {lm.graph.size:,} edges by {name}"
        return _step(lm, self.work.task, what, self.work.kind, self.work.tokens())

    def require_places(self) -> None:
        """MethodError unless the method's score of an edge is the sum of its scores at all positions.

        Patterns that are computed anew (qk-exact) are not linear in what queries and keys are at each position.
        """
        work = self.work
        if not isinstance(work, AttributeWork | FlowWork) or (
            isinstance(work, AttributeWork) and "qk-exact" in work.method.rule
        ):
            name = self.method if isinstance(self.method, str) else "this method"
            raise MethodError(
                f"positions=True: scores by {name} are no sums over positions. Take another gradient method, such as "
                "'eap-ig'; or draw the circuit by other scores: circuit.chart(positions=vc.attribute(lm, task, "
                "units='edges@positions'))."
            )

    def placed(self, edges: Edges) -> AttributeWork | FlowWork:
        """Scores of `edges` at every position of the longest prompt, by the same method."""
        task = self.work.task
        table = edges.at_each(max(task.lengths))
        work = attribute.work(self.work.lm, task, units=table, method=self.method)  # type: ignore[arg-type]
        return cast("AttributeWork | FlowWork", work)

    def run(self, folder: Path | None, show_progress: bool) -> Scores:
        """Score them; `folder`: of the discovery, where unfinished pieces of what takes long are kept."""
        pieces = folder and folder / PIECES if self.method in ("exact", *_LEARNED, *_ITERATED) else None
        scores: Scores = self.work.run(show_progress, pieces)
        return scores


def placing(work: AttributeWork | FlowWork) -> Step:
    """The selected edges scored position by position."""
    edges = len(work.units) // max(work.task.lengths)
    return _step(work.lm, work.task, f"scores of {edges:,} edges at every position", work.kind, work.tokens())


def verifying(lm: Model, task: Task, edges: int) -> Step:
    """Exact effects of so many edges, at the mean cost of all."""
    return _step(lm, task, f"exact effects of {edges:,} edges", "edges", _exact(lm, task, edges))


def running(lm: Model, task: Task, circuits: int, what: str) -> Step:
    """Runs of so many circuits, at most."""
    recorded, behind = recordings(lm, task, circuit_buckets(lm, task))
    return _step(lm, task, what, "circuits", recorded + (circuits + 1) * behind)  # the whole graph is run, too


def attacking(work: AdversaryWork, what: str) -> Step:
    """An adversary, whatever the circuit, and at most."""
    return replace(_step(work.lm, work.task, what, work.kind, work.tokens()), **bounds(work))


def _step(lm: Model, task: Task, what: str, kind: str, work: float) -> Step:
    passes, batches = float(work) / (sum(task.lengths) * lm.layers), len(circuit_buckets(lm, task))
    return Step(f"{what} on {counted(len(task), 'pair')}", kind, float(work), passes, batches=batches)


def _exact(lm: Model, task: Task, edges: int) -> float:
    costs = exact.work(lm, task, units="edges").costs()
    return float(costs.mean()) * edges + overhead(lm, task)
