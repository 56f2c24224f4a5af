"""Baselines compared: exact effects by every ablation, and IG to it (`compared_baselines` says what of)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from veracausa.counterfactuals.compared_baselines import Baselines, Way
from veracausa.effects.exact import exact
from veracausa.effects.learned_constants import optimal_constants
from veracausa.effects.optimal_descent import Learning
from veracausa.effects.replacements import ABLATIONS, donors_of, without_donor
from veracausa.engine.tape import buckets
from veracausa.engine.work import planned_by
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.estimates.methods import BASELINES
from veracausa.scores.agreement import require_top
from veracausa.scores.scores import Scores
from veracausa.storage.files import at
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: How optimal constants are learned here: few steps, since the comparison needs their effects and not the last digit.
QUICK = Learning(steps=20, rate=0.1, batch=4)
#: Units whose constants are learned: those with the largest loss at their mean; the others keep it.
MOST = 24
#: Points on IG's layer path, as in `vc.compare`.
NODES = 5
#: Ablation → IG's name of the baseline that estimates it.
_BASELINE_OF = {ablation: baseline for baseline, ablation in BASELINES.items()}


@dataclass(frozen=True, eq=False)
class BaselinesWork:
    """What `baselines` is about to do: which ablations, exactly and by IG to each."""

    lm: Model
    task: Task
    table: Units
    ablations: tuple[str, ...]
    nodes: int
    learning: Learning
    most: int | None
    top: int
    known: Mapping[Way, Scores]
    reference: Task | None
    seed: int
    kind: ClassVar[str] = "exact"

    @classmethod
    def of(
        cls, lm: Model, task: Task, *, units: str | Sequence[str] | Units, ablations: Sequence[str] | None,
        nodes: int, learning: Learning, most: int | None, top: int | None, known: Mapping[Way, Scores] | None,
        reference: Task | None, seed: int,
    ) -> BaselinesWork:  # fmt: skip
        """Check what is asked; see `baselines`."""
        wanted, table = _checked(task, ablations, reference, seed), resolve_units(lm, units, max(task.lengths))
        most_alike = require_top(top, len(table))
        return cls(lm, task, table, wanted, nodes, learning, most, most_alike, dict(known or {}), reference, seed)

    @property
    def ways(self) -> list[Way]:
        """All that is compared: exact effects, then IG."""
        exacts: list[Way] = [("exact", ablation) for ablation in self.ablations]
        return [*exacts, *(("IG", ablation) for ablation in self.ablations)]

    def lacking(self, given: Collection[Way] = ()) -> list[Way]:
        """What is computed: all but what is `known`, or will be `given`."""
        return [way for way in self.ways if way not in self.known and way not in given]

    def batches(self) -> int:
        """Buckets that are recorded."""
        decoder, task = self.lm.decoder, self.task
        shared = [ablation == "counterfactual" for _, ablation in self.lacking()]
        return sum(len(buckets(decoder, task.clean, task.corrupted, share, len(task))) for share in shared)

    def tokens(self, given: Collection[Way] = ()) -> float:
        """Token-layers of the whole call, where some scores will be `given`.

        For optimal constants an upper bound, but for the depth of the units that will be learned.
        """
        lm, task, total = self.lm, self.task, 0.0
        for how, ablation in self.lacking(given):
            kind = "zero" if ablation == "optimal" else ablation  # constants are learned once, for both
            common: dict[str, Any] = {"units": self.table, "reference": self.reference}
            if how == "exact":
                total += exact.work(lm, task, ablation=kind, **common).tokens()
            else:
                options: dict[str, Any] = {"baseline": _BASELINE_OF[kind], "nodes": self.nodes}
                total += attribute.work(lm, task, method="ig", **options, **common).tokens()
        if self._learns(given):
            total += optimal_constants.work(lm, task, units=self.table, learning=self.learning, most=self.most).tokens()
        return total

    def _learns(self, given: Collection[Way] = ()) -> bool:
        return any(ablation == "optimal" for _, ablation in self.lacking(given))

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Baselines:
        """Compute exact effects, then IG, by each ablation."""
        common: dict[str, Any] = {"units": self.table, "out": out, "show_progress": show_progress}
        constants, scores = None, dict(self.known)
        if self._learns():
            learning: dict[str, Any] = {"learning": self.learning, "most": self.most}
            constants = optimal_constants(self.lm, self.task, **learning, **common)
        for how, ablation in self.lacking():
            replaced: dict[str, Any] = {
                "reference": self.reference if ablation in ("mean", "resample") else None,
                "constants": constants if ablation == "optimal" else None,
                "seed": self.seed,
            }
            if how == "exact":
                scores[how, ablation] = exact(self.lm, self.task, ablation=ablation, **replaced, **common)
            else:
                parts = {"baseline": _BASELINE_OF[ablation], "nodes": self.nodes, **replaced}
                pieces = None if out is None else at(out)
                scores[how, ablation] = kept(self.lm, self.task, self.table, "ig", parts, pieces, show_progress)
        return Baselines({way: scores[way] for way in self.ways}, self.top)


@planned_by(BaselinesWork.of)
def baselines(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    ablations: Sequence[str] | None = None,
    nodes: int = NODES,
    learning: Learning = QUICK,
    most: int | None = MOST,
    top: int | None = None,
    known: Mapping[Way, Scores] | None = None,
    reference: Task | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Baselines:
    """Exact effects and IG by every ablation, and which of them agree with which.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: as for `vc.exact`, at all positions; no edges.
        ablations: which of "counterfactual", "zero", "mean", "resample", "optimal" (default: all, without "resample"
            where some pair has no other prompt of its length).
        nodes: points on IG's layer path.
        learning, most: of the optimal constants, see `vc.effects.optimal_constants`.
        top: strongest units that are compared as sets (None: 10; of ten units or fewer half).
        known: scores that were computed already with these arguments, by their keys in `Baselines.scores`
            (("exact", "counterfactual"), ("IG", "zero"), …): they are taken as they are.
        reference: prompts for mean and resample (default: the task's own).
        seed: of resampling.
        out: a folder to keep finished pieces in; an interrupted call continues from them.
        show_progress: show progress bars.

    Returns:
        `Baselines`, effects as shares of the counterfactual gap.

    Raises:
        MethodError: an unknown ablation; edges or single positions; others as for `vc.exact` and `vc.attribute`.

    >>> vc.counterfactuals.baselines(lm, task, units="heads").overview()
    """
    work = BaselinesWork.of(
        lm, task, units=units, ablations=ablations, nodes=nodes, learning=learning, most=most, top=top, known=known,
        reference=reference, seed=seed,
    )  # fmt: skip
    return work.run(show_progress, out)


def possible_baselines(task: Task, *, reference: Task | None = None, seed: int = 0) -> list[str]:
    """The ablations that can be compared on these pairs: resampling needs another prompt of the length of each."""
    source = reference or task
    lacking = without_donor(task, donors_of([*source.clean, *source.corrupted], seed)) is not None
    return [name for name in ABLATIONS if name != "resample" or not lacking]


def _checked(task: Task, ablations: Sequence[str] | None, reference: Task | None, seed: int) -> tuple[str, ...]:
    """What is to be compared; MethodError for an ablation that is not known or named twice."""
    if ablations is None:
        return tuple(possible_baselines(task, reference=reference, seed=seed))
    unknown = [name for name in ablations if name not in ABLATIONS]
    if unknown or not ablations or len(set(ablations)) < len(ablations):
        raise MethodError(f"ablations={list(ablations)!r}: choose different ones among {', '.join(ABLATIONS)}.")
    return tuple(ablations)
