"""One task's part of a study: its stages in order, each with what it will cost, and what they have found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from veracausa.choices import AllUnits
from veracausa.cost import Cost
from veracausa.effects.exact import exact
from veracausa.effects.laid import laid_units
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.planning.stages import Stage
from veracausa.scores.scores import Scores
from veracausa.studies.choosing import choose_some, some_of
from veracausa.studies.features import FeatureWork, kinds_laid
from veracausa.studies.feeding import FeedingWork
from veracausa.studies.kinds import main_kind, many_kind, whole_kinds
from veracausa.studies.levels import Level
from veracausa.studies.questions import FurtherWork
from veracausa.studies.results import Panel, Section
from veracausa.studies.stage import stage
from veracausa.studies.summary import called
from veracausa.studies.talking import TalkingWork
from veracausa.units.kinds import Kind
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Most neurons (features) of a task with several pairs that get exact effects.
SEVERAL = 500


class SectionWork:
    """The work on one task. `stages()` names it with its cost before anything is run; `section()` is what was found."""

    def __init__(
        self,
        lm: Model,
        task: Task,
        level: Level,
        likely: tuple[str, ...],
        seed: int,
        pieces: Path | None,
        show: bool,
        *,
        main: bool,
        chain: tuple[str, ...] = (),
        circuit: bool = False,
        positions: bool = False,
    ) -> None:
        """`likely`: units that will about be chosen, in order, for the plan. `main`: with all that the level asks for;
        else only what is needed to see where methods disagree, and why. `chain`: sites whose interactions are asked.
        `circuit`: with scores of edges, and circuits of them; `positions`: the strongest at every one."""
        self.lm, self.task, self.level, self.seed, self.pieces, self.show = lm, task, level, seed, pieces, show
        self.main = main
        self.exact: dict[str, Scores] = {}
        self.estimates: dict[str, list[Scores]] = {}
        self.sampled: dict[str, int] = {}
        self.further = further = FurtherWork(lm, task, level, likely, seed, pieces, show, self._first)
        self.features = FeatureWork(lm, task, show, self.panel, further.stage, further.found)
        self.talking = TalkingWork(lm, task, chain, seed, pieces, show, further.stage, further.found)
        self.feeding = FeedingWork(lm, task, circuit, positions, seed, pieces, show, further.stage, further.found)

    def stages(self) -> list[Stage]:
        """All stages, in the order in which they must run."""
        return [
            # An MLP is its layer's whole site, so its integrated gradients are its exact effect: shown once, and
            # towards zero an MLP and its neurons take one path. So is a mixer without heads.
            *(stage for kind in whole_kinds(self.lm) for stage in self._kind(kind, [("atp", {}), *self._along(kind)])),
            *(self._many(many_kind(self.lm), self.level.neurons) if self.level.neurons else []),
            *(stage for kind in kinds_laid(self.lm) for stage in self._many(kind, self.level.features)),
            *self.features.stages(),
            *self.further.why(),
            *(self.further.consequences() if self.main else []),
            *(self.talking.stages() if self.main else []),
            *(self.feeding.stages() if self.main else []),
        ]

    def section(self) -> Section:
        """What the stages have found."""
        title = called(self.task)
        return Section(
            title=title[0].upper() + title[1:],
            task=self.task,
            measured=self.lm.measure(self.task),
            panels=tuple(map(self.panel, self.exact)),
            findings=tuple(self.further.findings),
        )

    def panel(self, kind: str) -> Panel:
        """What was found about a kind of unit."""
        return Panel(kind, self.exact[kind], tuple(self.estimates[kind]), self.sampled.get(kind, 0))

    def _first(self) -> Panel:
        """What was found about the main kind."""
        return self.panel(main_kind(self.lm))

    @property
    def single(self) -> bool:
        """One pair only."""
        return len(self.task) == 1

    def _along(self, kind: Kind) -> list[tuple[str, dict[str, Any]]]:
        """Integrated gradients of all units of a kind."""
        if kind == main_kind(self.lm):
            return self._ig(True)
        return self._ig(kind == "heads") if self.single or kind == "heads" else []

    def _ig(self, zero: bool) -> list[tuple[str, dict[str, Any]]]:
        wanted: list[tuple[str, dict[str, Any]]] = [("ig", {"nodes": self.level.nodes})]
        if zero and self.single and self.level.to_zero:
            wanted.append(("ig", {"nodes": self.level.to_zero, "baseline": "zero"}))
        return wanted

    def _stage(self, what: str, kind: str, tokens: float, run: Callable[[], Cost], **rest: Any) -> Stage:
        return stage(self.lm, self.task, f"{what} on {called(self.task)}", kind, tokens, run, **rest)

    def _kind(self, kind: str, methods: list[tuple[str, dict[str, Any]]]) -> list[Stage]:
        """Exact effects of all units of a kind, then estimates of them."""
        work = exact.work(self.lm, self.task, units=cast("AllUnits", kind))
        first = self._stage(f"exact effects of all {kind}", work.kind, work.tokens(), lambda: self._test(kind, kind))
        return [first, *(self._estimate(kind, method, parts) for method, parts in methods)]

    def _test(self, kind: str, units: Units | str) -> Cost:
        found = exact(
            self.lm, self.task, units=cast("AllUnits | Units", units), out=self.pieces, show_progress=self.show
        )
        self.exact[kind] = found
        return found.cost

    def _estimate(self, kind: str, method: str, parts: dict[str, Any], units: Units | None = None) -> Stage:
        """An estimate of all units of a kind; `units`: these, where they are found already."""
        asked: dict[str, Any] = {"units": kind if units is None else units, "method": method, **parts}

        def run() -> Cost:
            found = kept(attribute, self.lm, self.task, self.pieces, self.show, **asked)
            self.estimates.setdefault(kind, []).append(found)
            return found.cost

        work = attribute.work(self.lm, self.task, **asked)
        towards = f" towards {parts['baseline']}" if "baseline" in parts else ""
        return self._stage(f"{method}{towards} of all {kind}", work.kind, work.tokens(), run)

    def _many(self, kind: str, wanted: int) -> list[Stage]:
        """Estimates of many units; exact effects of the strongest by the first of them, and of a random sample."""
        # Which features are active takes runs of all prompts, so it is asked once.
        _, table = laid_units(self.lm, self.task, kind)
        level, work, every = self.level, exact.work(self.lm, self.task, units=table), len(table)
        strongest = min(wanted, every) if self.single else min(wanted, SEVERAL)
        count = min(every, strongest + level.sample)
        tokens, most = some_of(work, count) if count < every else (work.tokens(), None)

        def tested() -> Cost:
            guess = self.estimates[kind][0]
            chosen, self.sampled[kind] = choose_some(guess, strongest, level.sample, self.seed)
            return self._test(kind, chosen)

        first, *others = (
            self._estimate(kind, method, parts, table) for method, parts in [("atp", {}), *self._ig(True)]
        )
        return [
            first,
            *(replace(one, joined=True) for one in others),  # what is exact is chosen by the first
            self._stage(f"exact effects of {count:,} {kind}", work.kind, tokens, tested, most=most, joined=True),
        ]
