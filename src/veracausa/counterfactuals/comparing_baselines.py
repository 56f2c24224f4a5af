"""Baselines compared: exact effects by every ablation, and IG to it (`compared_baselines` says what of)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from veracausa.choices import Ablation, AllUnits
from veracausa.counterfactuals.compared_baselines import BOTH, Baselines, How, Way
from veracausa.effects.exact import exact
from veracausa.effects.learned_constants import OptimalConstants, optimal_constants
from veracausa.effects.optimal_descent import Learning
from veracausa.effects.replacements import ABLATIONS, donors_of, without_donor
from veracausa.engine.work import Asked, Composed, Work, gives
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.estimates.methods import BASELINES
from veracausa.scores.agreement import require_top
from veracausa.scores.scores import Scores
from veracausa.storage.files import at
from veracausa.tasks.references import Reference, reference_set
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
class BaselinesWork(Composed):
    """What `baselines` is about to do: which ablations, exactly and by IG to each."""

    lm: Model
    task: Task
    table: Units
    ablations: tuple[Ablation, ...]
    nodes: int
    learning: Learning
    most: int | None
    top: int
    known: Mapping[Way, Scores]
    reference: Task | None
    seed: int
    kind: ClassVar[str] = "exact"

    @property
    def ways(self) -> list[Way]:
        """All that is compared: exact effects, then IG."""
        return [(how, ablation) for how in BOTH for ablation in self.ablations]

    def lacking(self, given: Collection[Way] = ()) -> list[Way]:
        """What is computed: all but what is `known`, or will be `given`."""
        return [way for way in self.ways if way not in self.known and way not in given]

    def parts(self, given: Collection[Way] = ()) -> dict[Way | str, Work]:
        """What is computed; optimal constants are learned once, for both, so these stand without them."""
        parts: dict[Way | str, Work] = {}
        for how, ablation in self.lacking(given):
            if ablation == "optimal":
                parts["constants"] = optimal_constants.work(self.lm, self.task, **self._learning())
            verb, options = self._asked(how, "zero" if ablation == "optimal" else ablation)
            parts[how, ablation] = verb.work(self.lm, self.task, **options)
        return parts

    def _learning(self) -> dict[str, Any]:
        return {"units": self.table, "learning": self.learning, "most": self.most}

    def _asked(self, how: How, ablation: Ablation, constants: OptimalConstants | None = None) -> Asked:
        """The verb that gives some scores, and the options that it is called with."""
        options: dict[str, Any] = {"units": self.table, "seed": self.seed}
        options["reference"] = self.reference if ablation in ("mean", "resample") else None
        options["constants"] = constants if ablation == "optimal" else None
        if how == "exact":
            return exact, {"ablation": ablation, **options}
        return attribute, {"method": "ig", "baseline": _BASELINE_OF[ablation], "nodes": self.nodes, **options}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Baselines:
        """Compute exact effects, then IG, by each ablation."""
        lm, task, scores, constants = self.lm, self.task, dict(self.known), None
        if any(ablation == "optimal" for _, ablation in self.lacking()):
            constants = optimal_constants(lm, task, **self._learning(), out=out, show_progress=show_progress)
        for how, ablation in self.lacking():
            verb, options = self._asked(how, ablation, constants)
            if verb is attribute:
                pieces = None if out is None else at(out)
                scores[how, ablation] = kept(verb, lm, task, pieces, show_progress, **options)
            else:
                scores[how, ablation] = verb(lm, task, **options, out=out, show_progress=show_progress)
        return Baselines({way: scores[way] for way in self.ways}, self.top)


@gives(Baselines)
def baselines(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    ablations: Sequence[Ablation] | None = None,
    nodes: int = NODES,
    learning: Learning = QUICK,
    most: int | None = MOST,
    top: int | None = None,
    known: Mapping[Way, Scores] | None = None,
    reference: Reference | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> BaselinesWork:
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
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `Baselines`, effects as shares of the counterfactual gap.

    Raises:
        MethodError: an unknown ablation; edges or single positions; others as for `vc.exact` and `vc.attribute`.

    >>> vc.counterfactuals.baselines(lm, task, units="heads").overview()
    """
    reference = reference_set(lm, reference)
    wanted, table = _checked(task, ablations, reference, seed), resolve_units(lm, units, max(task.lengths))
    most_alike = require_top(top, len(table))
    return BaselinesWork(lm, task, table, wanted, nodes, learning, most, most_alike, dict(known or {}), reference, seed)


def possible_baselines(task: Task, *, reference: Task | None = None, seed: int = 0) -> list[Ablation]:
    """The ablations that can be compared on these pairs: resampling needs another prompt of the length of each."""
    source = reference or task
    lacking = without_donor(task, donors_of(source.prompts, seed)) is not None
    return [name for name in ABLATIONS if name != "resample" or not lacking]


def _checked(
    task: Task, ablations: Sequence[Ablation] | None, reference: Task | None, seed: int
) -> tuple[Ablation, ...]:
    """What is to be compared; MethodError for an ablation that is not known or named twice."""
    if ablations is None:
        return tuple(possible_baselines(task, reference=reference, seed=seed))
    unknown = [name for name in ablations if name not in ABLATIONS]
    if unknown or not ablations or len(set(ablations)) < len(ablations):
        raise MethodError(f"ablations={list(ablations)!r}: choose different ones among {', '.join(ABLATIONS)}.")
    return tuple(ablations)
