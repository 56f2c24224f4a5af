"""General-purpose units found: both exact effects of every unit (`general_units` says what tells them)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from veracausa.choices import Ablation, AllUnits
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.effects.exact import exact
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import GapError, MethodError
from veracausa.scores.scores import Scores
from veracausa.tasks.spans import Span
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Shares of the gap that count as large and as small.
LARGE, SMALL = 0.05, 0.02
#: Units that are followed into the corrupted run, at most.
FOLLOWED = 12


@dataclass(frozen=True, eq=False)
class GeneralPurposeWork(Composed):
    """What `general_purpose` is about to do: two exact effects of each unit, and a third of those that stand out."""

    lm: Model
    task: Task
    table: Units
    ablation: Ablation
    large: float
    small: float
    known: Mapping[str, Scores]
    kind: ClassVar[str] = "exact"

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """Both effects but what is `known`, or will be `given`; which units are followed is not known beforehand."""
        return {
            ablation: exact.work(self.lm, self.task, units=self.table, ablation=ablation)
            for ablation in ("counterfactual", self.ablation)
            if ablation not in self.known and ablation not in given
        }

    def at_most(self, given: Collection[str] = ()) -> float:
        """`tokens`, and those of following as many units as there can be, of the first layers."""
        first = self.table[np.argsort(self.table.layer, kind="stable")[:FOLLOWED]]
        return (
            self.tokens(given) + exact.work(self.lm, _mirrored(self.task), units=first, ablation=self.ablation).tokens()
        )

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> GeneralPurpose:
        """Compute both effects, then follow the units in the region into the corrupted run."""
        task, scores = self.task, dict(self.known)
        scores |= {name: part.run(show_progress, out) for name, part in self.parts().items()}
        both = scores["counterfactual"], scores[self.ablation]
        if abs(float(both[0].gap.mean())) < 1e-12:
            raise GapError("The mean gap is zero, so effects have no share of it. Choose a corruption that has one.")
        found = GeneralPurpose(*both, None, self.large, self.small)
        if candidates := found.candidates[:FOLLOWED]:
            there = exact(
                self.lm, _mirrored(task), units=candidates, ablation=self.ablation, out=out, show_progress=show_progress
            )
            found = replace(found, corrupted=there)
        return found


def _mirrored(task: Task) -> Task:
    """The corrupted prompts in the clean ones' place."""
    texts: dict[str, Any] = {"clean_text": task.corrupted_text, "corrupted_text": task.clean_text}
    spans = tuple({name: Span(one.corrupted, one.clean) for name, one in each.items()} for each in task.spans)
    return replace(task, clean=task.corrupted, corrupted=task.clean, **texts, spans=spans)


@gives(GeneralPurpose)
def general_purpose(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    ablation: Ablation = "mean",
    large: float = LARGE,
    small: float = SMALL,
    known: Mapping[str, Scores] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> GeneralPurposeWork:
    """Units that the behaviour needs although the counterfactual does not change them.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: as for `vc.exact`, at all positions; no edges.
        ablation: what takes a unit's own information away: "mean", "zero" or "resample".
        large, small: shares of the gap, 0 < small ≤ large.
        known: exact effects that were computed already: {"counterfactual": Scores, "mean": Scores}.
        out: a folder to keep finished pieces in; an interrupted call continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `GeneralPurpose`, effects as shares of the mean gap.

    Raises:
        MethodError: thresholds, ablation or units out of range; GapError: no gap; others as for `vc.exact`.

    >>> vc.counterfactuals.general_purpose(lm, task, units="mlps").found
    """
    if not 0 < small <= large or ablation not in ("mean", "zero", "resample"):
        raise MethodError(
            f"small={small}, large={large}, ablation={ablation!r}: 0 < small ≤ large, and the ablation is mean, "
            "zero or resample."
        )
    table = resolve_units(lm, units, max(task.lengths))
    if table.positional or table.kind == "edges":
        raise MethodError("General-purpose units are whole units: give no edges and no single positions.")
    return GeneralPurposeWork(lm, task, table, ablation, large, small, dict(known or {}))
