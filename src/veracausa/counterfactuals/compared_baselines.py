"""Baselines compared: what units are replaced by, in exact effects and in integrated gradients, in one table.

Every ablation asks another question about the same units ("what if this unit took its value in another prompt?", "what
if it said nothing?", "what if it said the one thing that hurts least?"), and integrated gradients along the layer path
to a baseline estimate the exact effect of that ablation. All are noising effects on the same clean prompts, shares of
the counterfactual gap, so they may be laid beside each other: which of them tell the same story, and which estimate
comes close to the exact effect of its own baseline, or of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from veracausa.choices import Ablation
from veracausa.counterfactuals.compared_corruptions import square
from veracausa.effects.replacements import ABLATIONS
from veracausa.errors import MethodError
from veracausa.scores.agreement import Agreement, agreement_across
from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.files import same_table
from veracausa.scores.made_of import MadeOfScores
from veracausa.scores.scores import Scores
from veracausa.storage.files import at
from veracausa.storage.schema import many, one_of, reading, whole
from veracausa.suggestions import not_known
from veracausa.units.kinds import in_words
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

_FORMAT = "veracausa-baselines-2"

How = Literal["exact", "IG"]
BOTH: tuple[How, ...] = ("exact", "IG")
#: How effects were had, and what replaced the units: ("exact", "zero"), ("IG", "zero"), …
Way = tuple[How, Ablation]
#: What others are held against.
_FIRST: Way = ("exact", "counterfactual")


@dataclass(frozen=True, eq=False)
class Baselines(MadeOfScores):
    """Effects of the same units by every ablation, exactly and by IG; see the module's docstring.

    `scores`: way → scores, exact ones first. `top`: how many of the strongest units are compared as sets.

    >>> found.scores["exact", "zero"], found.between(("IG", "zero"), ("exact", "zero")).r
    """

    scores: dict[Way, Scores]
    top: int

    @property
    def parts(self) -> list[Scores]:
        """All its scores."""
        return list(self.scores.values())

    @property
    def settings(self) -> dict[str, Any]:
        """What was compared, and how each of the scores was made."""
        return {"top": self.top, "scores": {label(way): one.settings for way, one in self.scores.items()}}

    @property
    def ways(self) -> list[Way]:
        """What was computed, exact effects first."""
        return list(self.scores)

    @property
    def names(self) -> list[str]:
        """The same in words: "exact, zero", …"""
        return [label(way) for way in self.ways]

    @property
    def one(self) -> Scores:
        """The first of them: model, task and units are the same in all."""
        return next(iter(self.scores.values()))

    @property
    def ablations(self) -> list[Ablation]:
        """What was compared."""
        return [ablation for how, ablation in self.ways if how == "exact"]

    @cached_property
    def agreements(self) -> dict[tuple[Way, Way], Agreement]:
        """Every two of them (first, second in the order of `ways`) compared over all units."""
        return {
            (a, b): agreement_across(self.scores[b], self.scores[a], "replacements")
            for a, b in combinations(self.ways, 2)
        }

    def between(self, a: Way, b: Way) -> Agreement:
        """Agreement of two of them, whatever their order."""
        for way in (a, b):
            if way not in self.scores:
                raise MethodError(f"{label(way)!r} was not computed; there are {', '.join(self.names)}.")
        return self.agreements[(a, b) if (a, b) in self.agreements else (b, a)]

    def correlations(self, by: str = "r") -> pd.DataFrame:
        """All against all: "r", "spearman" (of effects with their sign) or "jaccard" (of the tops)."""
        kinds: dict[str, Callable[[Way, Way], Any]] = {
            "r": lambda a, b: self.between(a, b).r,
            "spearman": lambda a, b: self.between(a, b).spearman,
            "jaccard": lambda a, b: self.between(a, b).jaccard(self.top),
        }
        if by not in kinds:
            raise MethodError(not_known("by", by, kinds))
        return square(self.ways, kinds[by], label)

    def table(self) -> pd.DataFrame:
        """One row per unit: effect and standard error by each, as shares of the gap; strongest first."""
        table: pd.DataFrame = self.one.units.table()
        table["n"] = self.one.n
        for name, scores in zip(self.names, self.scores.values(), strict=True):
            table[f"effect: {name}"] = scores.scaled().numpy()
            table[f"stderr: {name}"] = scores.scaled_stderr().numpy()
        largest = np.max([np.abs(table[f"effect: {name}"]) for name in self.names], axis=0)
        return table.iloc[np.argsort(-largest, kind="stable")].reset_index(drop=True)

    def overview(self) -> pd.DataFrame:
        """One row per ablation: size of effects, r with the counterfactual ones, how well IG estimates it, cost."""
        import pandas as pd

        return pd.DataFrame([self._overview(ablation) for ablation in self.ablations])

    def _overview(self, ablation: Ablation) -> dict[str, object]:
        way: Way = ("exact", ablation)
        estimate: Way = ("IG", ablation)
        effects = self.scores[way].scaled().double().abs().numpy()
        return {
            "ablation": ablation,
            "n": self.one.n,
            "mean |effect|": effects.mean(),
            "largest |effect|": effects.max(),
            "strongest": self.strongest(way)[0],
            "r with counterfactual": self._r(way, _FIRST),
            "r of IG": self._r(estimate, way),
            "r of IG with counterfactual": self._r(estimate, _FIRST),
            "token-layers": self.scores[way].cost.token_layers,
        }

    def _r(self, a: Way, b: Way) -> float:
        known = a in self.scores and b in self.scores
        return 1.0 if known and a == b else self.between(a, b).r if known else float("nan")

    def strongest(self, way: Way) -> list[str]:
        """The `top` strongest units by one of them."""
        return self.scores[way].units[self.scores[way].ranking()[: self.top]].names

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write."""
        said = [*self._exact_ones(), *self._estimates()]
        if missing := [name for name in ABLATIONS if name not in self.ablations]:
            said.append(f"Not compared: {listed(missing)}.")
        if "optimal" in self.ablations:
            said += [note for note in self.scores["exact", "optimal"].notes if "constant" in note]
        return tuple(said)

    def _exact_ones(self) -> list[str]:
        """Which exact effects agree, and which units are strong by both."""
        ways = [way for way in self.ways if way[0] == "exact"]
        if len(ways) < 2:
            return []
        near, far = (pick(combinations(ways, 2), key=lambda pair: self.between(*pair).r) for pick in (max, min))
        said = [
            f"Over {len(self.one):,} {in_words(self.one.units.kind)} and {counted(self.one.n, 'pair')} the exact "
            f"effects that agree best are those of {near[0][1]} and {near[1][1]} "
            f"(r = {_interval(self.between(*near))}), worst those of {far[0][1]} and {far[1][1]} "
            f"(r = {_interval(self.between(*far))})."
        ]
        if _FIRST in ways:
            parts = [f"{way[1]} {self.between(way, _FIRST).jaccard(self.top):.2f}" for way in ways if way != _FIRST]
            said.append(
                f"Jaccard of the {self.top} strongest with those of the counterfactual ablation: {listed(parts)}."
            )
        return said

    def _estimates(self) -> list[str]:
        """How well IG to each baseline gives the exact effects of its own ablation, and the counterfactual ones."""
        said, estimated = [], [ablation for ablation in self.ablations if ("IG", ablation) in self.scores]

        def against(ablation: Ablation, way: Way) -> str:
            return f"{ablation} {_interval(self.between(('IG', ablation), way))}"

        if estimated:
            parts = [against(ablation, ("exact", ablation)) for ablation in estimated]
            said.append(f"IG to a baseline against the exact effect of the same ablation, r: {listed(parts)}.")
        crossed = [ablation for ablation in estimated if ablation != "counterfactual"]
        if crossed and _FIRST in self.scores:
            parts = [against(ablation, _FIRST) for ablation in crossed]
            said.append(f"Against the counterfactual effects, r: {listed(parts)}.")
        return said

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        scores = dict(zip(self.names, self.scores.values(), strict=True))
        return write_all(path, _FORMAT, {"top": self.top, "order": self.names}, scores)

    def describe(self) -> str:
        """What these numbers are."""
        return "\n".join(
            [
                f"baselines compared · {len(self.one):,} {self.one.units.kind} · {', '.join(self.ablations)}",
                f"model   {self.one.model['source']}",
                f"task    {self.one.task['description']}",
                "sign    E = M(clean, unit replaced) − M(clean), share of the counterfactual gap; negative: support",
                f"n       {counted(self.one.n, 'pair')}",
                *(f"caution {caution}" for caution in self.one.cautions),
                "trust   exact effects, and IG compared with them",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def load_baselines(path: str | Path) -> Baselines:
    """Read what `Baselines.save` wrote; FileError for any other file.

    >>> vc.open("baselines.safetensors").overview()
    """
    own, scores = read_all(path, _FORMAT)
    ways: dict[str, Way] = {label((how, ablation)): (how, ablation) for how in BOTH for ablation in ABLATIONS}
    with reading(at(path)):
        names = many(one_of(*scores), least=1)(own["order"])
        same_table(scores)
        known = one_of(*ways)
        return Baselines({ways[known(name)]: scores[name] for name in names}, whole(1)(own["top"]))


def label(way: Way) -> str:
    """ "exact, zero"."""
    return ", ".join(way)


def _interval(found: Agreement) -> str:
    """0.93 (0.88 to 0.96): r with its interval over pairs, where there is one."""
    low, high = found.intervals.get("r", (float("nan"), float("nan")))
    r = number(found.r)
    return f"{r} ({number(low)} to {number(high)})" if np.isfinite(low) else r


def number(r: float) -> str:
    """0.93 or −0.04."""
    return f"{r:.2f}".replace("-", "−")
