"""General-purpose units: they matter, but not for what the counterfactual changes.

A unit that does the same work on both prompts of a pair (opening a sentence, carrying on a list, keeping the stream in
range) has a small counterfactual effect, since nothing of it changes, although the behaviour needs it. It shows when
its own information is taken away: a large effect of mean ablation. Effects are shares of the gap; a unit is listed if
its mean |E by ablation| is over `large` and two statements hold beyond chance (t-tests over examples; a unit's p-value
is the larger of the two; false discovery rate of the list at most 5%, Benjamini–Hochberg over all units):

* |E by ablation| is over `small` (two-sided, since either sign is taken);
* |E by counterfactual| is under `small` (two one-sided tests: equivalence; "not significant" would not do).

For these units the ablation is repeated in the corrupted run, M(x′ with u ablated) − M(x′): needed on both prompts, it
hurts there, too. Where the corruption makes the other answer right, that is an effect of the other sign.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.files import same_table
from veracausa.scores.made_of import MadeOfScores
from veracausa.scores.scores import Scores
from veracausa.statistics.means import LEVEL, differs, within
from veracausa.statistics.ratios import ratios, share_of_gap
from veracausa.storage.files import at
from veracausa.storage.schema import number, reading, text
from veracausa.units.kinds import in_words
from veracausa.words import counted, share

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "veracausa-general-purpose-2"


@dataclass(frozen=True, eq=False)
class GeneralPurpose(MadeOfScores):
    """Both effects of every unit, and which units are of general purpose; see the module's docstring.

    `corrupted`: the ablation's effects in the corrupted run, of the `candidates` alone (None if there are none).

    >>> found = vc.counterfactuals.general_purpose(lm, task, units="mlps")
    >>> found.found, found.table()
    """

    counterfactual: Scores
    ablated: Scores
    corrupted: Scores | None
    large: float
    small: float

    @property
    def parts(self) -> list[Scores]:
        """All its scores."""
        return [one for one in (self.counterfactual, self.ablated, self.corrupted) if one is not None]

    @property
    def settings(self) -> dict[str, Any]:
        """Thresholds, and how the ablation's effects were made."""
        return {"large": self.large, "small": self.small, "ablated": self.ablated.settings}

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.ablated.n

    @property
    def ablation(self) -> str:
        """What units were replaced by."""
        return str(self.ablated.settings["ablation"])

    @cached_property
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Effects by counterfactual and by ablation [examples, units], shares of the mean gap."""
        gap = float(self.counterfactual.gap.double().mean())
        return self.counterfactual.values.double().numpy() / gap, self.ablated.values.double().numpy() / gap

    @cached_property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors of both means of every unit, those of shares of the gap (`statistics.ratios`)."""
        one, other = (ratios(s.values, self.counterfactual.gap)[1].numpy() for s in (self.counterfactual, self.ablated))
        return one, other

    @cached_property
    def p(self) -> np.ndarray:
        """p-value of every unit, adjusted for the false discovery rate; NaN for a single pair."""
        by_counterfactual, by_ablation = self.shares
        both = np.maximum(differs(by_ablation, self.small), within(by_counterfactual, self.small))
        return both if np.isnan(both).any() else np.asarray(stats.false_discovery_control(both))

    @property
    def candidates(self) -> list[str]:
        """Units whose means lie in the region, tested or not, the largest effect of ablation first."""
        return self._named(self._inside)

    @property
    def found(self) -> list[str]:
        """General-purpose units: in the region beyond what chance explains."""
        return self._named(self._inside & (self.p < LEVEL))

    @property
    def _inside(self) -> np.ndarray:
        one, other = (values.mean(0) for values in self.shares)
        return np.asarray((np.abs(other) > self.large) & (np.abs(one) < self.small))

    def _named(self, chosen: np.ndarray) -> list[str]:
        size = np.abs(self.shares[1].mean(0))
        order = [int(u) for u in np.argsort(-size, kind="stable") if chosen[u]]
        return self.ablated.units[order].names

    def table(self) -> pd.DataFrame:
        """One row per unit: both effects with standard errors, the ablation's in the corrupted run, adjusted p."""
        table: pd.DataFrame = self.ablated.units.table()
        table["n"] = self.n
        for name, values, error in zip(("counterfactual", self.ablation), self.shares, self.errors, strict=True):
            table[f"effect: {name}"], table[f"stderr: {name}"] = values.mean(0), error
        for column in ("effect", "stderr"):
            table[f"{column}: {self.ablation}, corrupted run"] = np.nan
        for name in self.candidates:
            at = table["name"] == name
            effect, spread = self.followed(name)
            table.loc[at, f"effect: {self.ablation}, corrupted run"] = effect
            table.loc[at, f"stderr: {self.ablation}, corrupted run"] = spread
        table["p"] = self.p
        found = self.found
        table["general purpose"] = [name in found for name in table["name"]]
        order = np.argsort(-np.abs(self.shares[1].mean(0)), kind="stable")
        return table.iloc[order].reset_index(drop=True)

    def followed(self, name: str) -> tuple[float, float]:
        """Mean effect of ablating a unit in the corrupted run and its standard error; NaN if it was not followed."""
        if self.corrupted is None or name not in self.corrupted.units.names:
            return float("nan"), float("nan")
        share = share_of_gap(self.corrupted.values[:, self.corrupted.units.find(name)], self.counterfactual.gap)[0]
        return share.value, share.stderr

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write."""
        kind, found, candidates = in_words(self.ablated.units.kind), self.found, self.candidates
        rule = (
            f"{self.ablation} ablation over {self.large:.0%} of the gap, counterfactual effect under {self.small:.0%}"
        )
        if self.n == 1:
            return (f"{len(candidates)} of {len(self.ablated):,} {kind} have {rule}; one pair, so nothing is tested.",)
        plural = "is" if len(found) == 1 else "are"
        said = [
            f"{len(found) or 'None'} of {len(self.ablated):,} {kind} {plural} of general purpose ({rule}; tested over "
            f"{self.n} pairs, false discovery rate {LEVEL:g}); of {len(candidates)} the means lie there."
        ]
        by_counterfactual, by_ablation = self.shares
        for name in found[:5]:
            u = self.ablated.units.find(name)
            effects = [
                share(float(v[:, u].mean()), float(error[u]))
                for v, error in ((by_ablation, self.errors[1]), (by_counterfactual, self.errors[0]))
            ]
            after, error = self.followed(name)
            there = f", and in the corrupted run by {share(after, error)}" if np.isfinite(after) else ""
            said.append(
                f"{name}: {self.ablation} ablation changes the metric by {effects[0]} of the gap{there}; its value in "
                f"the corrupted run by {effects[1]} only."
            )
        return tuple(said)

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        scores = {"counterfactual": self.counterfactual, "ablated": self.ablated}
        if self.corrupted is not None:
            scores["corrupted"] = self.corrupted
        return write_all(path, _FORMAT, {"large": self.large, "small": self.small}, scores)

    def describe(self) -> str:
        """What these numbers are."""
        return "\n".join(
            [
                f"general-purpose units · {len(self.ablated):,} {self.ablated.units.kind} · ablation {self.ablation}",
                f"model   {self.ablated.model['source']}",
                f"task    {self.ablated.task['description']}",
                "sign    E = M(run, unit replaced) − M(run), share of the mean gap",
                f"n       {counted(self.n, 'pair')}",
                "trust   exact effects",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def load_general_purpose(path: str | Path) -> GeneralPurpose:
    """Read what `GeneralPurpose.save` wrote; FileError for any other file.

    >>> vc.open("general.safetensors").found
    """
    own, scores = read_all(path, _FORMAT)
    with reading(at(path)):
        both = {name: scores[name] for name in ("counterfactual", "ablated")}
        same_table(both)
        text(scores["ablated"].settings["ablation"])
        if "corrupted" in scores:
            same_table({name: replace(one, units=both["ablated"].units) for name, one in scores.items()})
        large, small = (number(0)(own[name]) for name in ("large", "small"))
        return GeneralPurpose(both["counterfactual"], both["ablated"], scores.get("corrupted"), large, small)
