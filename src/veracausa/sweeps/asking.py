"""A cell asked: its model loaded, its pairs built, its verb's work made, whole or for some pairs and units.

A verb's numbers about a pair depend on no other pair, but where they are drawn by the pair's place in the task
(resampling, noise, drawn paths) or rest on constants that are learned of all pairs: those are asked whole. Where means
are taken over the task's prompts, a part takes them over the whole task's.

Receipts and curves are about an estimate of all pairs, so they are cut in two steps: the "estimate", and what is
"checked" with it, which can begin when all of the estimate is there. Studies and discoveries are cut between their
stages (`staged`), which count as their units here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from veracausa.behaviour.study import ablation_study
from veracausa.circuits.quality.curve import SIZES, curve
from veracausa.cost import Cost
from veracausa.discovery.discover import discover
from veracausa.effects.exact import ExactWork, exact
from veracausa.errors import AnswerFormWarning
from veracausa.estimates.attribute import AttributeWork, attribute
from veracausa.loading.load import load
from veracausa.receipts.verify import VerifyWork, verify
from veracausa.scores.headers import reference_settings
from veracausa.scores.scores import Scores, task_header
from veracausa.storage.files import at
from veracausa.studies.study import study
from veracausa.sweeps import staged
from veracausa.sweeps.staged import Staged
from veracausa.sweeps.verbs import BOTH, OWN, STAGED
from veracausa.tasks.custom import PUBLISHED, published_pair
from veracausa.tasks.custom import task as own_task
from veracausa.tasks.references import reference_set
from veracausa.tasks.registry import build
from veracausa.units.at_spans import SpanUnits
from veracausa.units.groups import Groups
from veracausa.units.listed_names import names_in
from veracausa.units.paths import Paths
from veracausa.units.table import Units
from veracausa.units.unit_names import is_kind

if TYPE_CHECKING:
    from veracausa.engine.work import Work
    from veracausa.model import Model
    from veracausa.result import Result
    from veracausa.sweeps.plan import Cell
    from veracausa.tasks.measurement import Measurement
    from veracausa.tasks.task import Task

#: Estimates of other baselines draw, or learn, from all pairs.
_APART = ("corrupted", "zero", "mean")
#: A mean gap under this share of the largest metric is none (`Measurement.require_gap`).
_SMALL = 1e-5


@dataclass(frozen=True, eq=False)
class Part:
    """What of a cell is asked for: some of the task's pairs, and a range of its units; None: all of them."""

    pairs: tuple[int, ...] | None = None
    units: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """A cell with its model and its pairs; `asked.work(part)` is what its verb would do, `asked.run(part)` does it.

    `known`: the estimate that a curve is about, where it is there already.
    """

    cell: Cell
    lm: Model
    task: Task
    known: Scores | None = None

    @classmethod
    def of(cls, cell: Cell, lm: Model) -> Asked:
        """A cell of a model that is loaded; errors as the task's own."""
        return cls(cell, lm, task_of(lm, cell))

    @cached_property
    def whole(self) -> Any:
        """The work of all pairs and units."""
        return self.work(Part())

    @cached_property
    def reference(self) -> Task | None:
        """The prompts of a reference set that the question names; a file's content may change, its name does not."""
        given = self.cell.options.get("reference")
        return reference_set(self.lm, self.cell.placed(given) if isinstance(given, str) else given)

    @property
    def staged(self) -> bool:
        """Whether it is a study or a discovery."""
        return self.cell.ask in STAGED

    @property
    def in_steps(self) -> bool:
        """Whether it is a receipt or a curve that can be cut: not one whose stages end by what they find."""
        own = self.cell.options.keys() & {"until", "budget"}
        return self.cell.ask in OWN and self.known is None and not own

    @cached_property
    def estimate(self) -> Asked:
        """The question whose answer a receipt or a curve is about."""
        options, _ = self._estimate(self._call(Part())[1])
        return replace(self, cell=replace(self.cell, ask="attribute", options=options))

    def checking(self, estimate: Scores) -> Asked:
        """The question that is left of a receipt or a curve once the estimate is known."""
        if self.cell.ask == "curve":
            return replace(self, known=estimate)
        work = self.receipt(estimate)
        options: dict[str, Any] = {
            "units": work.units,
            "ablation": work.effects.ablation,
            "direction": work.effects.direction,
        }
        options |= {"seed": work.effects.seed} if work.effects.ablation == "resample" else {}
        options |= {name: value for name, value in self.cell.options.items() if name in BOTH["verify"]}
        return replace(self, cell=replace(self.cell, ask="exact", options=options))

    def receipt(self, estimate: Scores) -> VerifyWork:
        """The work of a receipt for an estimate of the whole task."""
        work: VerifyWork = verify.work(self.lm, self.task, estimate, **self._estimate(self._call(Part())[1])[1])
        return work

    @property
    def by_pairs(self) -> bool:
        """Whether the numbers of some pairs are had without the others."""
        work, ask = self.whole, self.cell.ask
        if ask == "ablation_study":
            return "resample" not in work.ablations
        if ask == "curve":
            return self.known is not None and self.cell.options.get("ablation", "counterfactual") == "counterfactual"
        if ask == "verify" or not self._alike(work.units):
            return False
        if ask == "exact":
            return work.ablation in ("counterfactual", "zero", "mean")
        made = getattr(work, "effects", work)
        if not isinstance(made, AttributeWork):
            return True  # shares of a prompt's own run
        return made.method.path != "draws" and made.method.baseline in _APART

    def has_gap(self, pairs: tuple[int, ...]) -> bool:
        """Whether the mean gap of some pairs is one that circuits can restore a share of; nothing else needs one."""
        return self.cell.ask != "curve" or abs(float(self._measured.gap[[*pairs]].mean())) > _SMALL * self._scale

    @cached_property
    def _measured(self) -> Measurement:
        return self.lm.measure(self.task)

    @property
    def _scale(self) -> float:
        return float(torch.cat([self._measured.clean, self._measured.corrupted]).abs().max())

    def _alike(self, units: Units) -> bool:
        """Whether some of the pairs have every unit that all of them have, as far as it can be told here."""
        if not isinstance(units, SpanUnits | Groups | Paths):
            # of units that are chosen by an estimate, those that are not there cannot be told beforehand
            return isinstance(self.cell.options.get("units", ""), str) or not units.positional or self._even
        return self._even and all(set(one) == {*self.task.span_names} for one in self.task.spans)

    @property
    def _even(self) -> bool:
        return len(set(self.task.lengths)) == 1

    @property
    def units(self) -> int:
        """How many units there are that can be asked one by one; 1 where one pass tells all."""
        work = self.whole
        alone = isinstance(work, ExactWork) and work.ablation != "optimal"
        return len(work.units) if alone else 1

    @property
    def holds(self) -> bool:
        """Whether all that parts of some units do alike is recordings of their pairs, which a worker makes once."""
        return isinstance(self.whole, ExactWork) and self.whole.ablation in ("counterfactual", "zero")

    def numbers(self, part: Part) -> int:
        """How many numbers its file will hold, about."""
        work, pairs = self.whole, len(self._pairs(part))
        if self.staged:
            return 0 if part.units and part.units[0] < part.units[1] else staged.numbers(work)
        if self.cell.ask == "ablation_study":
            return pairs * math.prod(work.columns)
        if self.cell.ask == "curve":
            return pairs * 4 * len(SIZES)  # metric and KL of each size by two rankings
        units = len(work.units) if part.units is None else part.units[1] - part.units[0]
        return pairs * (units + (len(work.estimate) if self.cell.ask == "verify" else 0))

    def reached(self, part: Part) -> bool:
        """Whether some pair of a part has some unit of it: of positions beyond a prompt's end there is none."""
        _, options = self._call(part)
        units = options.get("units")
        return not isinstance(units, Units) or len(units) > 0

    def places(self) -> list[int | str]:
        """Where an estimate's scores are compared with what they should add up to, in order; nothing of all else."""
        made = getattr(self.whole, "effects", self.whole)
        if not isinstance(made, AttributeWork) or not made.method.complete:
            return []
        return [*made.sums.compared(self.lm.decoder, made.units, made.method)]

    def costs(self) -> np.ndarray:
        """Token-layers of each of the `units`' own rows."""
        return cast("ExactWork", self.whole).costs()

    def work(self, part: Part) -> Work:
        """What is about to be done; receipts and curves as for an estimate of which nothing is known yet."""
        verb, options = self._call(part)
        task = self._pairs(part)
        if self.cell.ask not in OWN:
            return verb.work(self.lm, task, **options)
        estimate, own = self._estimate(options)
        known = self.known or blank(self.lm, task, attribute.work(self.lm, task, **estimate))
        return verb.work(self.lm, task, known, **own)

    def run(self, part: Part, out: Path | None = None, memory: str | float | None = None) -> Result | Staged:
        """Do it; `out`: a folder for what is finished on the way, of studies and discoveries the cell's own."""
        if self.staged:
            return staged.done(self.whole, part.units, cast("Path", out), memory)
        verb, options = self._call(part)
        how: dict[str, Any] = {"show_progress": False, "memory": memory}
        task, kept = self._pairs(part), {} if self.cell.ask in ("attribute", "curve") else {"out": out}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnswerFormWarning)  # said of the whole task, before the items
            if self.cell.ask not in OWN:
                return verb(self.lm, task, **options, **how, **kept)
            estimate, own = self._estimate(options)
            known = self.known or attribute(self.lm, task, **estimate, **how)
            return verb(self.lm, task, known, **own, **how, **kept)

    def _pairs(self, part: Part) -> Task:
        return self.task if part.pairs is None else self.task[part.pairs]

    def _estimate(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of the estimate that a receipt or a curve is about, and its own; some are both's."""
        ask = self.cell.ask
        estimate = {name: value for name, value in options.items() if name not in OWN[ask]}
        own = {name: value for name, value in options.items() if name in (*OWN[ask], *BOTH.get(ask, ()))}
        return estimate, own

    def _call(self, part: Part) -> tuple[Any, dict[str, Any]]:
        options = dict(self.cell.options)
        if self.cell.ask == "curve":
            options["units"] = "edges"
        if "units" in options:
            options["units"] = _named(options["units"])
        if self.reference is not None:
            options["reference"] = self.reference
        if "ablations" in options:
            options["ablations"] = str(options["ablations"]).split(",")
        if self.cell.ask == "ablation_study":
            return ablation_study, options | self._referring(part, options)
        if self.known is None and not self.staged and (part.pairs is not None or part.units is not None):
            whole, table = self.whole, self.whole.units
            table = table if part.units is None else table[np.arange(*part.units)]
            reached = table.furthest < max(self._pairs(part).lengths)
            options["units"] = table if reached.all() else table[np.flatnonzero(reached)]
            if getattr(getattr(whole, "effects", whole), "ablation", None) == "mean":
                options.setdefault("reference", self.task)
        return _VERBS[self.cell.ask], options

    def _referring(self, part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts that parts of an ablation study take means over: those of the whole study."""
        every = part.pairs is None or len(part.pairs) == len(self.task)
        return {} if every or "reference" in options else {"reference": self.whole.source}


#: Name → the verb.
_VERBS: dict[str, Any] = {
    "exact": exact, "attribute": attribute, "verify": verify, "curve": curve, "ablation_study": ablation_study,
    "study": study, "discover": discover,
}  # fmt: skip


def model_of(cell: Cell) -> Model:
    """The model that a cell names; errors as `vc.load`."""
    options = {name: value for name, value in cell.model.items() if name != "name"}
    return load(cell.placed(cell.model["name"]), **options)


def task_of(lm: Model, cell: Cell) -> Task:
    """The pairs that a cell describes; errors as `vc.task` and the built-in tasks."""
    spec = cell.task
    options = {name: value for name, value in spec.items() if name not in ("name", "file")}
    if "file" in spec:
        return own_task(lm, Path(cell.base) / at(spec["file"]), **options)
    if spec["name"] == PUBLISHED:
        return published_pair(lm)
    metric = options.pop("metric", None)
    built = build(spec["name"], lm, **options)
    return built if metric is None else built.with_metric(metric)


def _named(units: Any) -> Any:
    """A kind of units, at a span or not ("heads@subject"), or the names in a text: what the command line takes."""
    return names_in(units) if isinstance(units, str) and not is_kind(units) else units


def blank(lm: Model, task: Task, work: Any) -> Scores:
    """Scores of 0 with the header of an estimate that was not made, for counting what is done with it."""
    made, metric = getattr(work, "effects", work), torch.zeros(len(task), dtype=lm.score_dtype)
    settings: dict[str, Any] = {"direction": getattr(made, "direction", "noising")}
    if isinstance(made, AttributeWork):
        settings |= {**made.method.settings(), **reference_settings(made.ablation, task, made.reference)}
    return Scores(
        values=torch.zeros(len(task), len(work.units), dtype=lm.score_dtype),
        units=work.units,
        method=getattr(made, "name", "ifr"),
        settings=settings,
        model=lm.header(),
        task=task_header(task),
        clean=metric + 1,
        corrupted=metric,
        cost=Cost(),
    )
