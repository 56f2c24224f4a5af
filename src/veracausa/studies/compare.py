"""Which method to take: every estimate beside the exact effects, with what it costs, within a budget of time.

Exact effects come first (heads and other small kinds: all; neurons: the strongest by `atp` and a uniform sample of the
rest). Then the methods run from the cheapest to the dearest as long as the budget lasts, each kind of unit on its own;
what does not fit is listed as left out, with the time that it would have taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from veracausa.choices import AllUnits
from veracausa.cost import Step
from veracausa.effects.exact import exact
from veracausa.engine.guard import shared
from veracausa.engine.work import Asked, Work, gives
from veracausa.errors import ArchitectureError, MethodError, UnitError
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.estimates.learned.masks import learn_mask
from veracausa.estimates.presets import ESTIMATES, PRESETS
from veracausa.progress import duration
from veracausa.scores.scores import Scores
from veracausa.storage.files import at
from veracausa.studies.choosing import choose_some, some_of
from veracausa.studies.frontier import advice
from veracausa.studies.results import Panel, Section, Study
from veracausa.studies.stage import TasksWork, tasks_of
from veracausa.studies.summary import called
from veracausa.suggestions import did_you_mean
from veracausa.units.kinds import KINDS
from veracausa.words import listed

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Points on the layer path here: enough for a residual far below a percent, a third of the preset's price.
_NODES = {"ig": 5}


@dataclass(frozen=True, eq=False)
class CompareWork(TasksWork):
    """What `compare` is about to do: on every task, exact effects of each kind of unit and `methods` that fit."""

    units: tuple[str, ...]
    methods: tuple[str, ...]
    budget: float | None
    neurons: int
    sample: int
    seed: int

    @property
    def what(self) -> str:
        """In words."""
        return f"{len(self.methods)} methods and exact effects of {listed(self.units)}, the last"

    def steps(self) -> list[Step]:
        """Exact effects and every method that means something, whatever the budget."""
        return [step for task in self.tasks for kind in self.units for step in self._steps(task, kind)]

    def _steps(self, task: Task, kind: str) -> list[Step]:
        truth = exact.work(self.lm, task, units=cast("AllUnits", kind))
        tokens, most = truth.tokens(), None
        if kind == "neurons" and (count := self.neurons + self.sample) < len(truth.units):
            tokens, most = some_of(truth, count)
        whole = sum(task.lengths) * self.lm.layers

        def step(what: str, work: Work, tokens: float, most: float | None = None) -> Step:
            what = f"{what} of {kind} on {called(task)}"
            return Step(what, work.kind, tokens, tokens / whole, batches=work.batches(), most=most)

        estimates = self.works(task, kind)[0].items()
        return [
            step("exact effects", truth, tokens, most),
            *(step(name, work, work.tokens()) for name, work in estimates),
        ]

    def works(self, task: Task, kind: str) -> tuple[dict[str, Work], list[str]]:
        """What each method will do; and which means nothing here, and why."""
        found: dict[str, Work] = {}
        senseless = []
        for name in self.methods:
            verb, options = self._asked(name)
            try:
                found[name] = verb.work(self.lm, task, units=kind, **options)
            except (MethodError, ArchitectureError) as error:
                senseless.append(f"{name}: {error}")
        return found, senseless

    def _asked(self, name: str) -> Asked:
        """The verb that gives an estimate, and the options that it is called with."""
        if name == "mask":
            return learn_mask, {"seed": self.seed}
        drawn = {"seed": self.seed} if PRESETS[name].path == "draws" else {}
        return attribute, {"method": name, **({"nodes": _NODES[name]} if name in _NODES else {}), **drawn}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Study:
        """Compute exact effects, then methods as long as the budget lasts."""
        began, lm, limit = time.monotonic(), self.lm, None
        if self.budget is not None:
            limit = 60 * self.budget / len(self.tasks) / len(self.units)
        clock, pieces = _Clock(limit), None if out is None else at(out) / "pieces"
        sections, left_out = [], []
        with shared(lm.decoder):
            for one in self.tasks:
                panels = []
                for kind in self.units:
                    panel, missing = self._panel(one, kind, clock, pieces, show_progress)
                    panels.append(panel)
                    left_out += [f"left out on {kind} of {one.name}: {reason}" for reason in missing]
                title = called(one)
                sections.append(Section(title[0].upper() + title[1:], one, lm.measure(one), tuple(panels)))
        title = f"Which method to take: {self.names}"
        return self.study(began, title, sections, lambda: advice(sections), notes=tuple(left_out))

    def _panel(self, task: Task, kind: str, clock: _Clock, pieces: Path | None, show: bool) -> tuple[Panel, list[str]]:
        """Exact effects of a kind of unit, the methods that fit, and what was left out and why."""
        clock.start()
        lm, estimates = self.lm, dict[str, Scores]()

        def estimate(name: str) -> None:
            if name not in estimates:
                verb, options = self._asked(name)
                estimates[name] = kept(verb, lm, task, pieces, show, units=kind, **options)
                clock.learn(estimates[name])

        if kind == "neurons":
            estimate("atp")
            chosen, drawn = choose_some(estimates["atp"], self.neurons, self.sample, self.seed)
            truth = exact(lm, task, units=chosen, out=pieces, show_progress=show)
        else:
            truth, drawn = exact(lm, task, units=kind, out=pieces, show_progress=show), 0
            clock.learn(truth)
        works, left_out = self.works(task, kind)
        work = {name: one.tokens() for name, one in works.items()}
        for name in sorted(work, key=lambda one: work[one]):
            reason = "" if name in estimates or not estimates else clock.refuses(work[name])
            if reason:
                left_out.append(f"{name}: {reason}")
            else:
                estimate(name)
        ordered = [name for name in self.methods if name in estimates]
        return Panel(kind, truth, tuple(estimates[name] for name in ordered), sampled=drawn), left_out


@gives(Study)
def compare(
    lm: Model,
    task: Task | Sequence[Task],
    *,
    units: Sequence[AllUnits] = ("heads", "neurons"),
    methods: str | Sequence[str] = "all",
    budget: float | None = None,
    neurons: int = 500,
    sample: int = 300,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> CompareWork:
    """Compare methods with exact effects on a behaviour: agreement, wrong signs, cost, stability, completeness.

    Args:
        lm: the model.
        task: one task, or several: each becomes a section of the report.
        units: kinds of units ("heads", "neurons", "mlps", "attention", "residual", "queries", "keys", "values",
            "patterns").
        methods: "all" (every preset and the learned "mask"), or names of them.
        budget: minutes; a method whose time would exceed what is left is left out and listed (None: no limit). Exact
            effects and the first method are always computed.
        neurons: exact effects of this many neurons, the strongest by `atp`.
        sample: exact effects of this many more neurons, drawn at random among the rest.
        seed: for the random sample and random draws.
        out: keep finished pieces here, so that an interrupted comparison continues; `Study.save(out)` writes the page.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Raises:
        MethodError: an unknown method; UnitError: an unknown kind; TaskError: no task; ArchitectureError: a kind that
            the model has not.

    >>> vc.compare(lm, task, units=["heads"], budget=10).save("out/")
    """
    names = require_compared(units, methods, budget)
    for kind in units:
        lm.decoder.require(kind)
    return CompareWork(lm, tasks_of(task), tuple(units), tuple(names), budget, neurons, sample, seed)


def require_compared(units: Sequence[str], methods: str | Sequence[str], budget: float | None) -> list[str]:
    """The names of the methods; UnitError or MethodError for a kind, a method or a budget that means nothing."""
    unknown = [kind for kind in units if kind not in KINDS]
    if unknown or not units:
        meant = did_you_mean(unknown[0], KINDS) if unknown else ""
        raise UnitError(f"units={list(units)!r}: kinds to compare are {', '.join(KINDS)}.{meant}")
    if budget is not None and not budget > 0:
        raise MethodError(f"budget={budget:g}: a number of minutes over 0, or None for no limit.")
    return _names(methods)


def _names(methods: str | Sequence[str]) -> list[str]:
    if methods == "all":
        return list(ESTIMATES)
    names = [methods] if isinstance(methods, str) else list(methods)
    unknown = [name for name in names if name not in ESTIMATES]
    if unknown or not names:
        meant = did_you_mean(unknown[0], ESTIMATES) if unknown else ""
        raise MethodError(
            f"methods={unknown or names!r} are not known.{meant} Known: {', '.join(ESTIMATES)}; or 'all'."
        )
    return names


@dataclass
class _Clock:
    """Time that one panel may take, and how fast this machine was at the last method."""

    limit: float | None
    began: float = 0.0
    rate: float = 0.0

    def start(self) -> None:
        """A new panel begins."""
        self.began = time.monotonic()

    def learn(self, scores: Scores) -> None:
        """Token-layers per second of something that has run."""
        self.rate = scores.cost.token_layers / max(scores.cost.seconds, 1e-3)

    def refuses(self, work: float) -> str:
        """Why this many token-layers do not fit, or nothing."""
        if self.limit is None or not self.rate:
            return ""
        wanted, left = work / self.rate, self.limit - (time.monotonic() - self.began)
        return f"needs about {duration(wanted)}, {duration(max(left, 0))} of the budget left" if wanted > left else ""


def table(panel: Panel) -> list[dict[str, object]]:
    """One row per method: agreement, wrong signs, cost, stability, completeness; the cheapest first."""
    rows = []
    for scores, one, stable in zip(panel.estimates, panel.agreements, panel.stabilities, strict=True):
        row = one.row()
        rows.append(
            {
                "method": one.method,
                "r": row["r"],
                "Spearman": row["spearman"],
                **{key: value for key, value in row.items() if key.startswith("jaccard")},
                "wrong signs": f"{one.sign_errors} of {one.strong}" if one.signed else "unsigned",
                "median |error|": row["median |error|"],
                "passes": scores.cost.forward_equivalents,
                "seconds": scores.cost.seconds,
                "stability": stable,
                "residual": np.nan if one.residual is None else one.residual,
            }
        )
    return sorted(rows, key=lambda row: float(str(row["passes"])))
