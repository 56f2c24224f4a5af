"""The comparison study: exact effects against gradient estimates, why they disagree, and what it means.

For each task: exact effects of all heads and all MLPs; estimates of the same; neurons: all of them estimated, and exact
for the strongest by `atp` and a uniform sample of the rest (or all). Then agreement, outliers, their curves M(α) and
causes, and a summary in plain words that is written from these numbers. The work is a list of stages (`section`), so
that its cost can be told before it begins (`rates`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from veracausa.choices import AllUnits, LevelName
from veracausa.cost import Step, told
from veracausa.engine.guard import borrowed, shared
from veracausa.engine.work import gives
from veracausa.errors import MethodError, TaskError
from veracausa.estimates.attribute import attribute
from veracausa.interplay.interacting import interactions as interact
from veracausa.planning.rates import Rate, rates, timed
from veracausa.planning.stages import Stage, perform
from veracausa.progress import announce, duration
from veracausa.storage.files import at
from veracausa.studies.feeding import scoring
from veracausa.studies.kinds import main_kind, many_kind
from veracausa.studies.levels import LEVELS, Level, fitting, left_out, resolve_level
from veracausa.studies.results import Study
from veracausa.studies.section import SectionWork
from veracausa.studies.stage import TasksWork, tasks_of
from veracausa.studies.summary import summarise
from veracausa.studies.talking import chain_of
from veracausa.tasks.registry import rebuilt

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class StudyWork(TasksWork):
    """What `study` is about to do: every task's stages, the last one's with all that the level has."""

    level: Level
    seed: int
    chain: tuple[str, ...] = ()
    circuit: bool = False
    positions: bool = False

    @property
    def what(self) -> str:
        """In words."""
        return f"a {self.level.name} study of {self.names}, the last"

    @cached_property
    def likely(self) -> tuple[str, ...]:
        """Units that will about be chosen, for counting what they will cost."""
        return likely_units(self.lm, self.task)

    def sections(self, pieces: Path | None = None, show: bool = False) -> list[SectionWork]:
        """The work on each task."""
        rest = (fitting(self.lm, self.level), self.likely, self.seed, pieces, show)
        asked: dict[str, Any] = {"chain": self.chain, "circuit": self.circuit, "positions": self.positions}
        return [SectionWork(self.lm, one, *rest, main=one is self.task, **asked) for one in self.tasks]

    def stages(self, out: Path | None = None) -> list[Stage]:
        """All stages, as they are done with pieces in a folder `out`."""
        return [stage for one in self.sections(pieces_in(out)) for stage in one.stages()]

    def steps(self) -> list[Step]:
        """What each stage is forecast to cost."""
        return [stage.step for stage in self.stages()]

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Study:
        """Do all stages; finished pieces are kept in a folder within `out`."""
        began, lm = time.monotonic(), self.lm
        with borrowed(lm.decoder):
            work = self.sections(pieces_in(out), show_progress)
            stages = [stage for one in work for stage in one.stages()]
            known = rates(lm, self.task, (stage.step.kind for stage in stages))
            plan = timed([stage.step for stage in stages], known)
            if show_progress:
                announce(self._announcement(plan, known), True)
            with shared(lm.decoder):
                done = perform(stages, plan, show_progress)
            sections = tuple(one.section() for one in work)
        title = f"Exact effects against gradient estimates: {self.task.name}"
        steps = tuple(zip(plan, done, strict=True))
        notes = left_out(lm, self.level)
        return self.study(began, title, sections, lambda: summarise(lm, sections), steps=steps, notes=notes)

    def _announcement(self, plan: list[Step], known: dict[str, Rate]) -> str:
        """What each stage will cost, and what the other levels would with their own number of pairs."""
        others = []
        for name, level in LEVELS.items():
            if name != self.level.name:
                other = replace(self, tasks=_as_usual(self.lm, self.tasks, level), level=level)
                vars(other)["likely"] = self.likely  # about the same, and known
                seconds = sum(step.seconds or 0 for step in timed(other.steps(), known))
                others.append(f"{_asked(name)} {duration(seconds)}")
        return f"{told(plan, 'drawing the page')}\nother sizes, about: {', '.join(others)}"


@gives(Study)
def study(
    lm: Model,
    task: Task | Sequence[Task],
    *,
    level: LevelName | Level = "default",
    neurons: int | None = None,
    sample: int | None = None,
    nodes: int | None = None,
    interactions: str | Sequence[str] | None = None,
    circuit: bool = False,
    positions: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> StudyWork:
    """How well do gradient estimates agree with exact effects on this behaviour, where do they fail, and why?

    Args:
        lm: the model.
        task: one task, or several: each becomes a section of the report, the last one with everything the level has.
        level: "quick", "default" or "full", or a `studies.levels.Level`: how much is computed.
        neurons: exact effects of this many neurons, the strongest by `atp` (None: the level's).
        sample: exact effects of this many more neurons, drawn at random among the rest (None: the level's).
        nodes: points on the paths of integrated gradients towards the corrupted values (None: the level's).
        interactions: a chapter of which layers talk to each other, exactly, each with the next: of a kind of unit
            ("heads"), or of a chain of sites (["heads:10", "heads:14", "neurons:16"]). None: no such chapter.
        circuit: a chapter of which parts feed which: scores of all edges, and circuits of ten sizes, live in the page.
        positions: also score the strongest 2,000 of these edges at every position, by the same method, so that the page
            draws the circuit over layers × positions, too.
        seed: for the random sample and random draws.
        out: keep finished pieces here, so that an interrupted study continues; `Study.save(out)` writes the report.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: tell what each stage will cost, and show progress bars.

    Of a model with mixers (state-space layers, recurrences) it is about these in the place of heads (`studies.kinds`).
    What the model has not is left out, and said in the study's notes: neurons, or where errors arise, of a mixture of
    experts or of mixers.

    Raises:
        ArchitectureError: neurons are asked for, and it has none. UnitError, MethodError: no such chain;
        positions without a circuit.

    >>> vc.study(lm, task).save("out/")
    """
    if positions and not circuit:
        raise MethodError("positions=True draws a study's circuit over positions, too: circuit=True asks for one.")
    chosen = resolve_level(level).but(neurons=neurons, sample=sample, nodes=nodes)
    if neurons or sample:
        lm.decoder.require(many_kind(lm))
    work = StudyWork(lm, tasks_of(task), chosen, seed, chain_of(lm, interactions), circuit, positions)
    if circuit:
        scoring(lm, work.task)
    for pair in pairwise(work.chain):
        interact.work(lm, work.task, *pair, method="exact")
    return work


def pieces_in(out: str | Path | None) -> Path | None:
    """Where a study in a folder keeps finished pieces."""
    return None if out is None else at(out) / "pieces"


def likely_units(lm: Model, task: Task) -> tuple[str, ...]:
    """Units in the order of |atp| on the first pair: what will about be chosen, for counting its cost beforehand."""
    guess = attribute(lm, task[:1], units=cast("AllUnits", main_kind(lm)), method="atp", show_progress=False)
    return tuple(guess.units.names[i] for i in guess.ranking())


def _as_usual(lm: Model, tasks: Sequence[Task], level: Level) -> tuple[Task, ...]:
    """The tasks as the command line would give them at a level: as many pairs; a quick study has one task."""
    try:
        last = rebuilt(lm, tasks[-1], n=level.pairs) or tasks[-1]
    except TaskError:
        last = tasks[-1]
    return (last,) if level.name == "quick" else (*tasks[:-1], last)


def _asked(level: str) -> str:
    """A level with the option of the command line that asks for it; the default has none."""
    return "default (no option)" if level == "default" else f"{level} (--{level})"
