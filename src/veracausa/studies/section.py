"""One task's part of a study: its stages in order, each with what it will cost, and what they have found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from veracausa.choices import Estimate
from veracausa.cost import Step
from veracausa.effects.exact import exact
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.planning.rates import batches
from veracausa.planning.stages import Stage
from veracausa.scores.scores import Scores
from veracausa.studies.levels import Level
from veracausa.studies.neurons import choose_neurons
from veracausa.studies.questions import FurtherWork
from veracausa.studies.results import Panel, Section
from veracausa.studies.summary import called
from veracausa.units.resolve import all_units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Most neurons of a task with several pairs that get exact effects.
SEVERAL = 500


class SectionWork:
    """The work on one task. `stages()` names it with its cost before anything is run; `section()` is what was found."""

    def __init__(
        self,
        lm: Model,
        task: Task,
        level: Level,
        heads: tuple[str, ...],
        seed: int,
        pieces: Path | None,
        show: bool,
        *,
        main: bool,
    ) -> None:
        """`heads`: those that will about be chosen, in order, for the plan. `main`: with all that the level asks for;
        else only what is needed to see where methods disagree, and why."""
        self.lm, self.task, self.level, self.seed, self.pieces, self.show = lm, task, level, seed, pieces, show
        self.main = main
        self.panels: dict[str, Panel] = {}
        self.further = FurtherWork(lm, task, level, heads, seed, pieces, show, lambda: self.panels["heads"])

    def stages(self) -> list[Stage]:
        """All stages, in the order in which they must run."""
        return [
            *self._kind("heads", [("atp", {}), *self._ig(True)]),
            # An MLP is its layer's whole site, so its integrated gradients are its exact effect: shown once, and
            # towards zero an MLP and its neurons take one path.
            *self._kind("mlps", [("atp", {}), *(self._ig(False) if self.single else [])]),
            *(self._neurons() if self.level.neurons else []),
            *self.further.why(),
            *(self.further.consequences() if self.main else []),
        ]

    def section(self) -> Section:
        """What the stages have found."""
        title = called(self.task)
        return Section(
            title=title[0].upper() + title[1:],
            task=self.task,
            measured=self.lm.measure(self.task),
            panels=tuple(self.panels.values()),
            findings=tuple(self.further.findings),
        )

    @property
    def single(self) -> bool:
        """One pair only."""
        return len(self.task) == 1

    def _ig(self, zero: bool) -> list[tuple[str, dict[str, Any]]]:
        wanted: list[tuple[str, dict[str, Any]]] = [("ig", {"nodes": self.level.nodes})]
        if zero and self.single and self.level.to_zero:
            wanted.append(("ig", {"nodes": self.level.to_zero, "baseline": "zero"}))
        return wanted

    def _stage(self, what: str, kind: str, work: float, run: Callable[[], None]) -> Stage:
        passes = work / (sum(self.task.lengths) * self.lm.layers)
        step = Step(f"{what} on {called(self.task)}", kind, work, passes, batches=batches(self.lm, self.task))
        return Stage(step, run)

    def _kind(self, kind: str, methods: list[tuple[str, dict[str, Any]]]) -> list[Stage]:
        """Exact effects of all units of a kind, then estimates of them."""

        def tested() -> None:
            found = exact(self.lm, self.task, units=kind, out=self.pieces, show_progress=self.show)
            self.panels[kind] = Panel(kind, found, ())

        work = exact.work(self.lm, self.task, units=kind).tokens()
        first = self._stage(f"exact effects of all {kind}", "exact", work, tested)
        return [first, *(self._estimate(kind, method, parts) for method, parts in methods)]

    def _estimate(self, kind: str, method: str, parts: dict[str, Any]) -> Stage:
        def run() -> None:
            self._add(kind, self._kept(kind, method, parts))

        towards = f" towards {parts['baseline']}" if "baseline" in parts else ""
        rate = "paths" if method == "ig" else "gradients"
        return self._stage(f"{method}{towards} of all {kind}", rate, self._price(kind, method, parts), run)

    def _kept(self, kind: str, method: str, parts: dict[str, Any]) -> Scores:
        return kept(attribute, self.lm, self.task, self.pieces, self.show, units=kind, method=method, **parts)

    def _price(self, kind: str, method: str, parts: dict[str, Any]) -> float:
        return attribute.work(self.lm, self.task, units=kind, method=cast("Estimate", method), **parts).tokens()

    def _add(self, kind: str, scores: Scores) -> None:
        panel = self.panels[kind]
        self.panels[kind] = replace(panel, estimates=(*panel.estimates, scores))

    def _neurons(self) -> list[Stage]:
        """Estimates of all neurons; exact effects of the strongest by the first of them, and of a random sample."""
        level, guesses = self.level, []
        every = len(all_units(self.lm, "neurons"))
        strongest = min(level.neurons, every) if self.single else min(level.neurons, SEVERAL)
        count = min(every, strongest + level.sample)

        def guess(method: str, parts: dict[str, Any]) -> Stage:
            def run() -> None:
                guesses.append(self._kept("neurons", method, parts))

            towards = f" towards {parts['baseline']}" if "baseline" in parts else ""
            price = self._price("neurons", method, parts)
            rate = "paths" if method == "ig" else "gradients"
            return self._stage(f"{method}{towards} of all neurons", rate, price, run)

        def tested() -> None:
            chosen, drawn = choose_neurons(self.lm, guesses[0], strongest, level.sample, self.seed)
            found = exact(self.lm, self.task, units=chosen, out=self.pieces, show_progress=self.show)
            self.panels["neurons"] = Panel("neurons", found, tuple(guesses), sampled=drawn)

        # Which neurons will be the strongest is not known yet: as many layers deep as all on average.
        work = exact.work(self.lm, self.task, units="neurons").tokens() * count / every
        wanted = [("atp", {}), *self._ig(True)]
        return [
            *(guess(method, parts) for method, parts in wanted),
            self._stage(f"exact effects of {count:,} neurons", "neurons", work, tested),
        ]
