"""What `vc.causes.disagreement` finds: every unit's scores by every method, and their differences.

    curvature    E − AtP          the response to the unit bends between its own value and its replacement
    interaction  IG − E           the unit's effect depends on the others of its site
    pairwise     ½ (F − E)        what the interaction would be if units of a site interacted in pairs only
    downstream   E − D            what later units make of the change; backup where its sign is opposite to D's
    baseline     IG(zero) − IG    zero is another question than the corrupted prompt

E exact (first-in), F last-in, D direct effects; IG along the joint path of the unit's site. All as shares of the mean
gap, with standard errors over examples. **Redundancy** where |F| > |E|: the units of the site cover for each other, so
that each alone matters less than it does when the others are gone. **Synergy** where |F| < |E|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.scores.agreement import agreement_across
from veracausa.scores.scores import Scores
from veracausa.statistics.ratios import Share, share_of_gap
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd


#: Difference → (of, minus, times).
DIFFERENCES: dict[str, tuple[str, str, float]] = {
    "curvature": ("exact", "atp", 1.0),
    "interaction": ("ig", "exact", 1.0),
    "pairwise": ("last-in", "exact", 0.5),
    "downstream": ("exact", "direct", 1.0),
    "baseline": ("ig-zero", "ig", 1.0),
}
#: Methods whose outliers get a cause, in the order in which they are told.
RATED = ("atp", "ig", "ig-zero", "direct")
#: Keys of scores → what tables and sentences call them.
LABELS = {
    "exact": "exact",
    "atp": "atp",
    "ig": "ig",
    "ig-zero": "ig (zero baseline)",
    "last-in": "last-in",
    "direct": "direct",
    "shapley": "Shapley",
}
#: Shares of the gap under this are rounding: it is what runs in float32 are held to.
FLOOR = 1e-4
_FORMAT = "veracausa-disagreement-2"


def clear(share: Share) -> bool:
    """Whether a figure is told apart from 0 (`Share.clear`; of a single pair: more than rounding)."""
    return share.clear and abs(share.value) > FLOOR


@runtime_checkable
class Located(Protocol):
    """Where in the model a unit's curvature arises, as `vc.causes.locate` finds it."""

    @property
    def cause(self) -> str:
        """The kind of nonlinear part: "softmax", "norm", "MLP", "metric", "several"."""

    @property
    def sentence(self) -> str:
        """The same in words, with numbers."""


@dataclass(frozen=True)
class Place:
    """A `Located` that was read back from a file."""

    cause: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Differences:
    """Scores of the same units by several methods, and their differences.

    `scores`: "exact", "atp", "ig", "last-in", "direct" and, where they were asked for, "ig-zero" and "shapley", all of
    noising and of the same units. `locations`: unit → where its curvature arises. `cost`: of what this call computed.

    >>> found = vc.causes.disagreement(lm, task)
    >>> found.share("curvature", "a9.h6")
    """

    scores: Mapping[str, Scores]
    cost: Cost
    locations: Mapping[str, Located] = field(default_factory=dict)

    @property
    def units(self) -> Units:
        """The compared units."""
        return self.scores["exact"].units

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.scores["exact"].n

    @property
    def figures(self) -> list[str]:
        """Names of the scores and of the differences that can be taken of them."""
        taken = [name for name, (of, minus, _) in DIFFERENCES.items() if {of, minus} <= set(self.scores)]
        return [*self.scores, *taken]

    def difference(self, name: str) -> Scores:
        """A score, or a difference of two (see `DIFFERENCES`), pair by pair.

        Raises:
            MethodError: there is no such figure here.
        """
        from dataclasses import replace

        if name in self.scores:
            return self.scores[name]
        if name not in self.figures:
            raise MethodError(f"There is no figure {name!r} here. There are: {', '.join(self.figures)}.")
        of, minus, times = DIFFERENCES[name]
        values = times * (self.scores[of].values - self.scores[minus].values)
        return replace(self.scores[of], values=values, method=name, completeness=None, draw_stderr=None, notes=())

    def shares(self, name: str) -> list[Share]:
        """A score or difference of every unit as a share of the mean gap, with its standard error over pairs."""
        if name not in self._shares:
            found = self.difference(name)
            self._shares[name] = share_of_gap(found.values.T, found.gap)
        return self._shares[name]

    @cached_property
    def _shares(self) -> dict[str, list[Share]]:
        return {}

    def share(self, name: str, unit: str) -> Share:
        """One unit's figure."""
        return self.shares(name)[self.place(unit)]

    def place(self, unit: str) -> int:
        """A unit's place in the table; UnitError if it has none."""
        return self._places[unit] if unit in self._places else self.units.find(unit)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.units.names)}

    def residual(self, name: str, unit: str) -> float:
        """By how much a layer's integrated gradients miss what they should sum to: mean |residual| / mean |gap|."""
        completeness, u = self.scores[name].completeness, self.place(unit)
        if completeness is None:
            return 0.0
        layers = sorted(set(self.units.layer.tolist()))
        return float(completeness.shares(self.scores[name].gap)[layers.index(int(self.units.layer[u]))])

    def kind(self, unit: str) -> str:
        """ "redundancy" where |F| > |E|, "synergy" where |F| < |E|; "" where F − E is within its error."""
        exact, last, pair = (self.share(name, unit) for name in ("exact", "last-in", "pairwise"))
        if not clear(pair):
            return ""
        return "redundancy" if abs(last.value) > abs(exact.value) else "synergy"

    def backed_up(self, unit: str) -> bool:
        """Whether later units clearly work against the unit's own direct effect."""
        direct, downstream = self.share("direct", unit), self.share("downstream", unit)
        return clear(downstream) and clear(direct) and downstream.value * direct.value < 0

    def outliers(self, method: str) -> list[str]:
        """Units that a method gets wrong by more than 1.96 SD of its errors (mean–difference analysis), worst first."""
        # ig-zero is laid beside effects of another replacement on purpose: that is the difference "baseline"
        return agreement_across(self.scores[method], self.scores["exact"], "replacements").outliers

    def table(self) -> pd.DataFrame:
        """One row per unit: every score and difference as a share of the gap, its standard error, n, what they say."""
        table: pd.DataFrame = self.units.table()
        for name in self.figures:
            found = self.shares(name)
            table[name] = [share.value for share in found]
            table[f"stderr: {name}"] = [share.stderr for share in found]
        names = self.units.names
        table["site"] = [self.kind(name) for name in names]
        table["backup"] = [self.backed_up(name) for name in names]
        table["n"] = self.n
        return table

    def strongest(self, most: int) -> list[int]:
        """Units with the largest |E| or |F| or |D|, the strongest first."""
        size = np.max([np.abs([s.value for s in self.shares(name)]) for name in ("exact", "last-in", "direct")], axis=0)
        return np.argsort(-size, kind="stable")[:most].tolist()
