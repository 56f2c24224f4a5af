"""Which parts feed which: scores of all edges on one half of the pairs, circuits of the strongest run on the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from veracausa.circuits.nodes import edges_of
from veracausa.circuits.quality.curve import SIZES, curve
from veracausa.circuits.runs.tapes import circuit_buckets, recordings
from veracausa.cost import Cost
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.planning.stages import Stage
from veracausa.scores.scores import Scores
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from pathlib import Path

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: What scores the edges, as `vc.discover` does where nothing else is asked for.
METHOD: Literal["eap-ig"] = "eap-ig"
#: The strongest edges by |importance|, which are scored at every position where that is asked for.
PLACED = 2000


def scoring(lm: Model, task: Task) -> Any:
    """The work of scoring all edges on the pairs of `halves(task)` that are for it.

    Raises:
        ArchitectureError: the model has no edges; the message says why.
    """
    return attribute.work(lm, halves(task)[0], units="edges", method=METHOD)


def halves(task: Task, seed: int = 0) -> tuple[Task, Task]:
    """The pairs to score edges on, and those to run circuits on: a single pair is for both."""
    return (task, task) if len(task) == 1 else task.split(0.5, seed)


@dataclass
class FeedingWork:
    """The stages about edges; `made` and `found` as of `studies.features.FeatureWork`."""

    lm: Model
    task: Task
    wanted: bool
    positions: bool
    seed: int
    pieces: Path | None
    show: bool
    made: Callable[..., Stage]
    found: Callable[..., Cost]
    scores: Scores | None = field(default=None, init=False)

    def stages(self) -> list[Stage]:
        """Scores of all edges; circuits of `SIZES` by two rankings; the strongest edges at every position."""
        if not self.wanted:
            return []
        work, (_, other) = scoring(self.lm, self.task), halves(self.task, self.seed)
        recorded, behind = recordings(self.lm, other, circuit_buckets(self.lm, other))
        runs = recorded + (2 * len(SIZES) + 1) * behind  # the whole graph is run, too; circuits that are alike once
        circuits = f"circuits of {len(SIZES)} sizes"
        return [
            self.made("scores of all edges", work.kind, work.tokens(), self._score),
            self.made(circuits, "circuits", float(runs), self._run, most=float(runs), joined=True),
            *([self._placing()] if self.positions else []),
        ]

    def _placing(self) -> Stage:
        """Whichever edges are the strongest, scoring them at every position takes as many passes."""
        chosen, _ = halves(self.task, self.seed)
        some = Edges.of(self.lm.graph, *(end[:PLACED] for end in self.lm.graph.edges))
        work = attribute.work(self.lm, chosen, units=some.at_each(max(chosen.lengths)), method=METHOD)
        what = f"scores of {len(some):,} edges at every position"
        return self.made(what, work.kind, work.tokens(), self._place, joined=True)

    def _score(self) -> Cost:
        chosen, _ = halves(self.task, self.seed)
        self.scores = kept(attribute, self.lm, chosen, self.pieces, self.show, units="edges", method=METHOD)
        return self.found(self.scores)

    def _run(self) -> Cost:
        if self.scores is None:
            return Cost()
        _, other = halves(self.task, self.seed)
        return self.found(curve.work(self.lm, other, self.scores, seed=self.seed).run(self.show, self.pieces))

    def _place(self) -> Cost:
        if self.scores is None:
            return Cost()
        chosen, _ = halves(self.task, self.seed)
        table = edges_of(self.scores)[self.scores.ranking("abs_mean")[:PLACED]].at_each(max(chosen.lengths))
        return self.found(kept(attribute, self.lm, chosen, self.pieces, self.show, units=table, method=METHOD))
