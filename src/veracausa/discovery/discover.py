"""From a task to a circuit in one call: score the edges, select, check, and evaluate on pairs that were held out.

The pairs are split; edges are scored and selected on one part, and the circuit is run on the other, so that it is not
judged by what it was fitted to. The scores get a receipt (exact effects of the strongest edges and of a random sample),
the selection its stability over bootstrap draws, and the evaluation a random ranking beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from veracausa.choices import EdgeRanking, EdgeScoring, Selection
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.curve import SIZES, require_sizes
from veracausa.circuits.selection.select import ranked_by, select
from veracausa.cost import Cost, Step, told
from veracausa.discovery import files
from veracausa.discovery.evaluation import (
    ATTACK,
    CIRCUIT,
    CURVE,
    PARTS,
    RANDOM,
    RANDOM_CURVE,
    Evaluating,
    adversary_of,
    seen_by,
)
from veracausa.discovery.results import HELD_OUT, Discovery, stability_of
from veracausa.discovery.steps import PIECES, Scoring, attacking, placing, running, verifying
from veracausa.engine.guard import borrowed
from veracausa.engine.work import Staged, Work, gives
from veracausa.errors import MethodError
from veracausa.estimates.method import Method
from veracausa.planning.rates import rates, timed
from veracausa.planning.stages import Stage, perform
from veracausa.progress import announce
from veracausa.receipts.verify import verify
from veracausa.storage.environment import command, machine, versions
from veracausa.storage.files import at
from veracausa.units.edges import Edges
from veracausa.version import __version__
from veracausa.words import counted

if TYPE_CHECKING:
    from veracausa.circuits.attacks.attacking import AdversaryWork
    from veracausa.circuits.selection.stability import CircuitStability
    from veracausa.estimates.attribute import AttributeWork
    from veracausa.estimates.flow import FlowWork
    from veracausa.model import Model
    from veracausa.receipts.receipts import Receipt
    from veracausa.scores.scores import Scores
    from veracausa.tasks.measurement import Measurement
    from veracausa.tasks.task import Task

#: Exact effects that a receipt takes where nothing else is asked for: of the strongest edges, and of a random sample.
TOP, SAMPLE = 100, 50


@dataclass(frozen=True, eq=False)
class DiscoverWork(Staged):
    """What `discover` is about to do: select on `task`, evaluate on `other`; `checks`: exact effects of the receipt."""

    lm: Model
    task: Task
    other: Task
    scoring: Scoring
    edges: int
    how: Selection
    by: EdgeRanking
    sizes: tuple[float, ...]
    top: int
    sample: int
    seed: int
    attack: bool = False
    positions: bool = False
    kind: ClassVar[str] = "circuits"

    @property
    def what(self) -> str:
        """In words."""
        return f"a circuit of {self.edges:,} edges, evaluated on {counted(len(self.other), 'pair')}, selected"

    @property
    def checks(self) -> int:
        """How many exact effects the receipt takes: exact scores need none, shares of a sum have no exact effect."""
        return 0 if self.scoring.method in ("exact", "ifr", "ugs") else min(self.top + self.sample, self.lm.graph.size)

    @property
    def asked(self) -> dict[str, Any]:
        """All that the results depend on."""
        method = self.scoring.method
        return {
            "method": method if isinstance(method, str) else asdict(method),
            "edges": self.edges,
            "how": self.how,
            "by": self.by,
            "sizes": list(self.sizes),
            "top": self.top,
            "sample": self.sample,
            "seed": self.seed,
            "model": self.lm.header(),
            "selected on": {"description": self.task.describe(), "digest": self.task.digest()},
            "evaluated on": {"description": self.other.describe(), "digest": self.other.digest()},
            "version": __version__,
        } | {name: True for name in files.ADDED if getattr(self, name)}  # folders of before have no such words

    @property
    def known(self) -> list[Work]:
        """Stages whose work is known beforehand: scoring, and an adversary, which sees as much for any circuit."""
        placing = [self.placing] if self.positions else []
        return [self.scoring.work, *placing, *([self.adversary] if self.attack else [])]

    @cached_property
    def placing(self) -> AttributeWork | FlowWork:
        """Scores position by position, here of as many edges as will be selected."""
        return self.scoring.placed(Edges.of(self.lm.graph, *(end[: self.edges] for end in self.lm.graph.edges)))

    @cached_property
    def adversary(self) -> AdversaryWork:
        """The adversary, here on a circuit of all edges, since none is selected yet: no other takes more."""
        return adversary_of(self.lm, self.other, Circuit.of_nodes(self.lm, self.lm.graph.writer_names), seed=self.seed)

    def steps(self) -> list[Step]:
        """What each stage is forecast to cost."""
        return [stage.step for stage in _Making(self).stages()]

    def stages(self, out: Path | None = None) -> list[Stage]:
        """All steps, as they are done in a folder `out`."""
        return self._making(out, False).stages()

    def _making(self, out: str | Path | None, show: bool) -> _Making:
        ends = {part.digest(): (part, self.lm.measure(part)) for part in (self.task, self.other)}
        for part, measured in ends.values():
            measured.require_gap(part)
        folder = None if out is None else files.claim(at(out), self.asked)
        return _Making(self, folder, {digest: measured for digest, (_, measured) in ends.items()}, show)

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Discovery:
        """Do all steps, in order, in the folder `out` if there is one."""
        began, lm = time.monotonic(), self.lm
        making = self._making(out, show_progress)
        with borrowed(lm.decoder):
            stages = making.stages()
            plan = [stage.step for stage in stages]
            if show_progress:
                plan = timed(plan, rates(lm, self.task, (step.kind for step in plan)))
            announce(told(plan, "selecting the circuit", "drawing the page"), show_progress)
            steps = perform(stages, plan, show_progress)
        return Discovery(
            asked=self.asked,
            pairs=self.task,
            scores=making.scores,
            circuit=making.circuit,
            receipt=making.receipt,
            stability=making.stability,
            by_position=making.by_position,
            evaluation=making.evaluating.result(),
            further=(),
            steps=tuple(steps),
            plan=tuple(plan),
            versions=versions(),
            machine=machine(lm.device, lm.dtype),
            date=date.today().isoformat(),
            command=command(),
            seconds=time.monotonic() - began,
        )


@dataclass(eq=False)
class _Making:
    """A discovery on its way: its stages, and what they have found so far. `ends`: what the bare model gives."""

    work: DiscoverWork
    folder: Path | None = None
    ends: dict[str, Measurement] = field(default_factory=dict)
    show: bool = False
    scores: Scores = field(init=False)
    circuit: Circuit = field(init=False)
    stability: CircuitStability | None = None
    receipt: Receipt | None = None
    by_position: Scores | None = None

    def stages(self) -> list[Stage]:
        """All steps, each with the call that does it.

        What is evaluated says how far the scores are verified, so it waits for the receipt.
        """
        work, count = self.work, len(self.work.sizes)
        circuits = {CIRCUIT: 1, CURVE: 2 * count, RANDOM: 1, RANDOM_CURVE: count}
        judged = [(part, running(work.lm, work.other, runs, PARTS[part])) for part, runs in circuits.items()]
        if work.attack:
            judged.append((ATTACK, attacking(work.adversary, PARTS[ATTACK])))
        return [
            Stage(work.scoring.step, self.score),
            *([Stage(placing(work.placing), self.place, turn=1)] if work.positions else []),
            *([Stage(verifying(work.lm, work.task, work.checks), self.check, turn=1)] if work.checks else []),
            *(Stage(step, partial(self.evaluate, part), turn=2) for part, step in judged),
        ]

    def score(self) -> Cost:
        """Score all edges, or read their scores; select the circuit."""
        work, measured = self.work, self.ends[self.work.task.digest()]
        self.scores = files.kept_scores(
            work.lm, measured, self.folder, work.asked, lambda: work.scoring.run(self.folder, self.show)
        )
        self.circuit = select(self.scores, n=work.edges, how=work.how, by=work.by)
        self.stability = stability_of(self.scores, work.edges, work.how, work.by, work.seed)
        return self.scores.cost

    def place(self) -> Cost:
        """Score the circuit's edges position by position, or read what an earlier call found."""
        work, measured = self.work, self.ends[self.work.task.digest()]
        self.by_position = files.kept_scores(
            work.lm, measured, self.folder, work.asked, lambda: work.scoring.placed(self.circuit.edges).run(self.show),
            files.BY_POSITION,
        )  # fmt: skip
        return self.by_position.cost

    def check(self) -> Cost:
        """Exact effects of some edges; the scores and the circuit then say how far they can be trusted."""
        work, pieces = self.work, self.folder and self.folder / PIECES
        asked: dict[str, Any] = {"top": work.top, "sample": work.sample, "seed": work.seed}
        self.receipt = verify(work.lm, work.task, self.scores, **asked, out=pieces, show_progress=self.show)
        self.scores = self.receipt.scores
        self.circuit = replace(self.circuit, settings={**self.circuit.settings, "verified": self.scores.verified})
        return self.receipt.exact.cost

    @cached_property
    def evaluating(self) -> Evaluating:
        """The evaluation of what is selected by now."""
        work, other = self.work, self.work.other
        found = Evaluating.of(
            work.lm, HELD_OUT, other, self.circuit, self.scores, seen=seen_by(other, work.task), sizes=work.sizes,
            seed=work.seed, attack=work.attack,
        )  # fmt: skip
        found.folder = self.folder and files.place(self.folder, HELD_OUT)
        found.now, found.show = self.ends[other.digest()], self.show
        return found

    def evaluate(self, part: str) -> Cost:
        """One part of the evaluation."""
        return self.evaluating.do(part)


@gives(Discovery)
def discover(
    lm: Model,
    task: Task,
    *,
    method: EdgeScoring | Method = "eap-ig",
    edges: int = 200,
    how: Selection = "connected",
    by: EdgeRanking | None = None,
    held_out: Task | None = None,
    sizes: Sequence[float] = SIZES,
    top: int = TOP,
    sample: int = SAMPLE,
    attack: bool = False,
    positions: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> DiscoverWork:
    """Find the circuit of a behaviour, check its scores, and evaluate it on pairs that it was not selected on.

    Args:
        lm: the model.
        task: the prompt pairs. Without `held_out` half of them are held out (a single pair cannot be split: then the
            circuit is evaluated on it, and every output says so).
        method: what scores the edges: a method of edges ("eap", "eap-ig", "eap-gp", …), a `vc.Method`, "iterated" or
            "balanced" (scored anew in the shrinking circuit), "settled" (the same, and at the size of the circuit
            edges return until it comes to rest), "guarded" (these rounds also where an adversary has restored some
            others), "learned" or "matryoshka" (gates for all sizes, `vc.circuits.learn`; by the names of its other
            ways, too: "bottleneck", "adversarial", "edge-pruning", "ugs", "discogp", with the published number of
            steps), or "exact" (exact effects of all edges). "ifr" and "ugs", which moves to constants of
            its own, have no receipt.
        edges: edges asked for; pruning dead ends may leave fewer.
        how: how they are selected: "connected", "greedy", "top", "abs" or "optimal"; by: see `vc.select`.
        by: see `vc.select`.
        held_out: other pairs to evaluate on; then all of `task` is selected on.
        sizes: shares of the edges at which the ranking's curve is taken.
        top: exact effects of this many of the strongest edges by |score|,
        sample: and of this many others, drawn at random, make the receipt; both 0: the scores stay "not verified".
        attack: also let an adversary look for other edges which, restored, take f out of [½, 1½] on the held-out pairs,
            and narrow down how many it takes, and which weights (`vc.circuits.adversary`).
        positions: also score the circuit's edges at every position, by the same method, so that its page draws them
            over layers × positions, too (`Discovery.by_position`); of methods whose scores are sums over positions:
            gradients but for "qk-exact", and "ifr". A second scoring.
        seed: of the split, of the sample, of the random ranking and of the bootstrap.
        out: keep finished pieces in this folder: an interrupted call with the same arguments continues from them.
            `Discovery.save(out)` writes the rest, and the page.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show what it will cost, then progress bars.

    Returns:
        `Discovery`. Importances are positive where an edge supports the behaviour (−E).

    Raises:
        MethodError: unknown methods, ways of selecting, sizes, numbers of edges; positions of a method whose scores are
            no sums over them. GapError: no gap on either part.
        FileError: `out` holds another discovery, another command's results, or a damaged piece.
        ContractError, NumericsError, OutOfMemoryError: as for `vc.exact`.

    >>> found = vc.discover(lm, vc.tasks.ioi(lm, n=32), method="eap-ig", edges=200)
    >>> found.evaluation.circuit.f
    """
    if how == "iterated":
        raise MethodError("how='iterated' is a way of scoring here: take method='iterated', how='top' or 'connected'.")
    ranking = ranked_by(how, by, edges, lm.graph.size)
    require_sizes(sizes)
    if min(top, sample, seed) < 0:
        raise MethodError(f"top={top}, sample={sample}, seed={seed}: they are 0 or more.")
    chosen, other = _parts(task, held_out, seed)
    scoring = Scoring.of(lm, chosen, method, edges, seed)
    if positions:
        scoring.require_places()
    return DiscoverWork(
        lm, chosen, other, scoring, edges, how, ranking, tuple(sizes), top, sample, seed, attack, positions
    )  # fmt: skip


def _parts(task: Task, held_out: Task | None, seed: int) -> tuple[Task, Task]:
    """The pairs to select on, and those to evaluate on."""
    if held_out is not None:
        return task, held_out
    return (task, task) if len(task) == 1 else task.split(0.5, seed)
