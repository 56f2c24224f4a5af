"""What a study holds: numbers only. `report` draws them; `studies.study` computes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from veracausa.behaviour.foretold import Against
from veracausa.behaviour.results import AblationStudy
from veracausa.causes.curves.responses import Responses
from veracausa.causes.curves.surfaces import Surface
from veracausa.causes.locations import Locations
from veracausa.causes.results import Disagreement
from veracausa.circuits.quality.curve import Curve
from veracausa.cost import Cost, Step
from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.counterfactuals.roles import HeadRoles
from veracausa.counterfactuals.searches import Search
from veracausa.doors import through
from veracausa.fitting.qualities import Quality
from veracausa.interplay.module_results import Modules
from veracausa.interplay.results import Interactions
from veracausa.reading.activity import Activations
from veracausa.reading.attributions import LogitAttribution
from veracausa.reading.lenses import Lens
from veracausa.result import Paged
from veracausa.scores.agreement import Agreement, agreement_across, label, strongest_of
from veracausa.scores.scores import Scores, task_header
from veracausa.statistics.bootstrap import LEAST
from veracausa.tasks.measurement import Measurement

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from veracausa.tasks.task import Task

#: Figures of an agreement in a study's table.
_FIGURES = (
    "method", "units", "r", "spearman", "slope", "sign errors", "of strong", "median |error|", "bias", "outliers",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Panel:
    """One kind of unit: exact effects, estimates of them, and how well they agree.

    `exact` may hold fewer units than the estimates (neurons: the strongest by one estimate, and a random sample).
    `sampled`: how many of `exact`'s units, the last ones, were drawn at random among the rest; 0 if all were computed.
    """

    kind: str
    exact: Scores
    estimates: tuple[Scores, ...]
    sampled: int = 0

    @property
    def agreements(self) -> list[Agreement]:
        """Agreement of every estimate with the exact effects, over the units that both have."""
        return [self._agreement(estimate, self.exact) for estimate in self.estimates]

    @property
    def random_agreements(self) -> list[Agreement]:
        """The same over the randomly drawn units alone, which is free of selection; empty if nothing was sampled."""
        if not self.sampled:
            return []
        return [self._agreement(estimate, self._tail(self.exact)) for estimate in self.estimates]

    @staticmethod
    def _agreement(estimate: Scores, exact: Scores) -> Agreement:
        """Estimates towards another baseline are rated on purpose, and carry its name (`label`)."""
        return agreement_across(estimate, exact, "replacements")

    @property
    def stabilities(self) -> list[float]:
        """Mean Jaccard of the strongest units (`strongest_of`) over bootstrap draws of the examples.

        NaN under `statistics.bootstrap.LEAST` pairs, for a single unit, and for scores that are one for all examples (a
        learned mask).
        """
        from veracausa.scores.top_units import stability

        top = strongest_of(len(self.exact))
        return [
            stability(estimate, top=top, draws=200).jaccard
            if estimate.n >= LEAST and len(estimate) > 1 and estimate.per_example
            else float("nan")
            for estimate in self.estimates
        ]

    def _tail(self, scores: Scores) -> Scores:
        from dataclasses import replace

        chosen = slice(len(scores) - self.sampled, None)
        return replace(scores, values=scores.values[:, chosen], units=scores.units[chosen])

    @property
    def scores(self) -> tuple[Scores, ...]:
        """The exact effects, then the estimates."""
        return (self.exact, *self.estimates)

    @property
    def labels(self) -> list[str]:
        """Names of the estimates, in order."""
        return [label(estimate) for estimate in self.estimates]


@dataclass(frozen=True)
class Failure:
    """A question of a study that found no answer: the chapter it would have had, and a sentence that says why."""

    title: str
    sentence: str

    def describe(self) -> str:
        """The same as text."""
        return f"{self.title}\n{self.sentence}"


#: What the further questions of a study find; each has a chapter of the page, or stands in another one's.
Finding = (
    Disagreement
    | Locations
    | Responses
    | Surface
    | AblationStudy
    | Against
    | CounterfactualComparison
    | HeadRoles
    | Search
    | Baselines
    | GeneralPurpose
    | Lens
    | LogitAttribution
    | Quality
    | Activations
    | Modules
    | Interactions
    | Scores
    | Curve
    | Failure
)


@dataclass(frozen=True, eq=False)
class Section:
    """One task of a study: the published pair, say, or a generated set.

    `findings`: what else was asked of it, in order: results of `vc.causes.disagreement`, `vc.causes.locate`,
    `vc.behaviour.ablation_study` and the like, each with `sentences` and a `table()`; or a `Failure`, in the place of
    what could not be found.
    """

    title: str
    task: Task
    measured: Measurement
    panels: tuple[Panel, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Study(Paged):
    """A whole comparison: `summary` in plain words, then one section per task.

    `steps`: every stage as it was forecast, and with the seconds that it took.

    >>> study = vc.compare(lm, task, units=["heads"], methods=["atp"])
    >>> study.summary, study.table()
    """

    title: str
    model: dict[str, str]
    sections: tuple[Section, ...]
    summary: tuple[str, ...]
    versions: dict[str, str]
    machine: str
    date: str
    command: str
    seconds: float
    notes: tuple[str, ...] = field(default=())
    steps: tuple[tuple[Step, Step], ...] = ()

    @property
    def task(self) -> dict[str, Any]:
        """The task of the last section, which has everything; `sections` have their own."""
        return task_header(self.sections[-1].task)

    @property
    def settings(self) -> dict[str, Any]:
        """What was called, with which versions, on which machine."""
        return {name: getattr(self, name) for name in ("command", "versions", "machine", "date")}

    @property
    def cost(self) -> Cost:
        """Of all scores and findings; what one call took from another counts in both."""
        known = [scores for section in self.sections for panel in section.panels for scores in panel.scores]
        found = [one for section in self.sections for one in section.findings if not isinstance(one, Failure)]
        return sum((one.cost for one in (*known, *found) if one.cost is not None), start=Cost())

    def table(self) -> pd.DataFrame:
        """One row per section, kind of unit and estimate: how well it agrees with the exact effects, and its cost."""
        import pandas as pd

        rows = []
        for section in self.sections:
            for panel in section.panels:
                for scores, one in zip(panel.estimates, panel.agreements, strict=True):
                    figures = {name: one.row()[name] for name in _FIGURES}
                    cost = {"passes": scores.cost.forward_equivalents, "seconds": scores.cost.seconds}
                    rows.append({"section": section.title, "kind": panel.kind, **figures, **cost})
        return pd.DataFrame(rows, columns=["section", "kind", *_FIGURES, "passes", "seconds"])

    @property
    def sentences(self) -> tuple[str, ...]:
        """The summary."""
        return self.summary

    def describe(self) -> str:
        """What this study is, line by line."""
        tasks = "; ".join(section.task.describe() for section in self.sections)
        lines = [self.title, f"model   {self.model['source']}", f"task    {tasks}", f"cost    {self.cost.describe()}",
                 f"made    {self.date} on {self.machine}"]  # fmt: skip
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def save(self, path: str | Path) -> Path:
        """Write report.html, PNGs, tables (CSV), scores and findings into a folder; returns the path of report.html.

        `vc.open` reads the folder.
        """
        saved: Path = through("Study.save", self, path)
        return saved

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"  {sentence}" for sentence in self.summary)])
