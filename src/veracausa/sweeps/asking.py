"""A cell asked: its model loaded, its pairs built, its verb's work made, whole or for some pairs and units.

A verb's numbers about a pair depend on no other pair, but where they are drawn by the pair's place in the task
(resampling, noise, drawn paths) or rest on constants that are learned of all pairs: those are asked whole. Where means
are taken over the task's prompts, a part takes them over the whole task's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch

from veracausa.behaviour.study import ablation_study
from veracausa.choices import AllUnits
from veracausa.circuits.quality.curve import curve
from veracausa.cost import Cost
from veracausa.effects.exact import ExactWork, exact
from veracausa.errors import AnswerFormWarning
from veracausa.estimates.attribute import AttributeWork, attribute
from veracausa.loading.load import load
from veracausa.receipts.verify import verify
from veracausa.scores.headers import reference_settings
from veracausa.scores.scores import Scores, task_header
from veracausa.sweeps.verbs import OWN
from veracausa.tasks.custom import PUBLISHED, published_pair
from veracausa.tasks.custom import task as own_task
from veracausa.tasks.registry import build
from veracausa.units.at_spans import SpanUnits
from veracausa.units.groups import Groups
from veracausa.units.listed_names import names_in
from veracausa.units.paths import Paths
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.engine.work import Work
    from veracausa.model import Model
    from veracausa.result import Result
    from veracausa.sweeps.plan import Cell
    from veracausa.tasks.task import Task

#: Estimates of other baselines draw, or learn, from all pairs.
_APART = ("corrupted", "zero", "mean")


@dataclass(frozen=True, eq=False)
class Part:
    """What of a cell is asked for: some of the task's pairs, and a range of its units; None: all of them."""

    pairs: tuple[int, ...] | None = None
    units: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """A cell with its model and its pairs; `asked.work(part)` is what its verb would do, `asked.run(part)` does it."""

    cell: Cell
    lm: Model
    task: Task

    @classmethod
    def of(cls, cell: Cell, lm: Model) -> Asked:
        """A cell of a model that is loaded; errors as the task's own."""
        return cls(cell, lm, task_of(lm, cell.task))

    @cached_property
    def whole(self) -> Any:
        """The work of all pairs and units."""
        return self.work(Part())

    @property
    def by_pairs(self) -> bool:
        """Whether the numbers of some pairs are had without the others."""
        work = self.whole
        if self.cell.ask not in ("exact", "attribute") or not self._alike(work.units):
            return False
        if self.cell.ask == "exact":
            return work.ablation in ("counterfactual", "zero", "mean")
        made = getattr(work, "effects", work)
        if not isinstance(made, AttributeWork):
            return True  # shares of a prompt's own run
        return made.method.path != "draws" and made.method.baseline in _APART

    def _alike(self, units: Units) -> bool:
        """Whether some of the pairs have every unit that all of them have, as far as it can be told here."""
        if not isinstance(units, SpanUnits | Groups | Paths):
            return True
        return len(set(self.task.lengths)) == 1 and all(set(one) == {*self.task.span_names} for one in self.task.spans)

    @property
    def units(self) -> int:
        """How many units there are that can be asked one by one; 1 where one pass tells all."""
        work = self.whole
        alone = isinstance(work, ExactWork) and work.ablation != "optimal"
        return len(work.units) if alone else 1

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
        return verb.work(self.lm, task, blank(self.lm, task, attribute.work(self.lm, task, **estimate)), **own)

    def run(self, part: Part, out: Path | None = None, memory: str | float | None = None) -> Result:
        """Do it; `out`: a folder for what is finished on the way."""
        verb, options = self._call(part)
        how: dict[str, Any] = {"show_progress": False, "memory": memory}
        task, kept = self._pairs(part), {} if self.cell.ask in ("attribute", "curve") else {"out": out}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnswerFormWarning)  # said of the whole task, before the items
            if self.cell.ask not in OWN:
                return verb(self.lm, task, **options, **how, **kept)
            estimate, own = self._estimate(options)
            return verb(self.lm, task, attribute(self.lm, task, **estimate, **how), **own, **how, **kept)

    def _pairs(self, part: Part) -> Task:
        return self.task if part.pairs is None else self.task[part.pairs]

    def _estimate(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of the estimate that a receipt or a curve is about, and its own."""
        own = {name: value for name, value in options.items() if name in OWN[self.cell.ask]}
        return {name: value for name, value in options.items() if name not in own}, own

    def _call(self, part: Part) -> tuple[Any, dict[str, Any]]:
        options = dict(self.cell.options)
        if self.cell.ask == "curve":
            options["units"] = "edges"
        if "units" in options:
            options["units"] = _named(options["units"])
        if "ablations" in options:
            options["ablations"] = str(options["ablations"]).split(",")
        if part.pairs is not None or part.units is not None:
            whole, table = self.whole, self.whole.units
            table = table if part.units is None else table[np.arange(*part.units)]
            reached = table.furthest < max(self._pairs(part).lengths)
            options["units"] = table if reached.all() else table[np.flatnonzero(reached)]
            if getattr(getattr(whole, "effects", whole), "ablation", None) == "mean":
                options.setdefault("reference", self.task)
        return _VERBS[self.cell.ask], options


#: Name → the verb.
_VERBS: dict[str, Any] = {
    "exact": exact, "attribute": attribute, "verify": verify, "curve": curve, "ablation_study": ablation_study
}  # fmt: skip


def model_of(spec: Mapping[str, Any]) -> Model:
    """The model that a plan names; errors as `vc.load`."""
    return load(spec["name"], **{name: value for name, value in spec.items() if name != "name"})


def task_of(lm: Model, spec: Mapping[str, Any]) -> Task:
    """The pairs that a plan describes; errors as `vc.task` and the built-in tasks."""
    options = {name: value for name, value in spec.items() if name not in ("name", "file")}
    if "file" in spec:
        return own_task(lm, Path(spec["file"]), **options)
    if spec["name"] == PUBLISHED:
        return published_pair(lm)
    metric = options.pop("metric", None)
    built = build(spec["name"], lm, **options)
    return built if metric is None else built.with_metric(metric)


def _named(units: Any) -> Any:
    """A kind of units, or the names in a text."""
    return units if not isinstance(units, str) or units in get_args(AllUnits) else names_in(units)


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
