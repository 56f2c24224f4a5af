"""Two results laid side by side: which units have another effect in the second, and is that more than chance?

Unit by unit, A the first result and B the second, on one scale (shares of the mean gap, where both have them):

* difference: B − A, with its standard error and p of H0: none (`statistics.differing`). Over the same pairs the test is
  paired; else it takes both sets of pairs as drawn on their own. Holm's correction is over all units compared together.
* rank: 1 is the unit of the largest |value|; a rise from rank 40 to 3 is a change of +37.

Effects of one direction are compared as they are. Of a noising and a denoising result *importances* are (−E of noising,
+E of denoising: positive supports), and where one has magnitudes only, means over pairs of |E|.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from veracausa.result import ROWS, Paged
from veracausa.scores.agreement import strongest_of
from veracausa.scores.mismatches import mismatches
from veracausa.scores.scores import METRIC, UNPAIRED, Scores
from veracausa.statistics.accuracy import holm
from veracausa.statistics.bootstrap import LEAST
from veracausa.statistics.differing import Differences, differences, few_apart, variance_of_mean
from veracausa.statistics.means import LEVEL
from veracausa.statistics.ratios import influences, ratios, unseparated
from veracausa.units.kinds import singular
from veracausa.words import counted, listed, number_of, p_value, share

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Bool, Float, Int

FORMAT = "veracausa-comparison-1"
#: Units that a sentence names.
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Compared:
    """The same units in A and in B.

    `one`, `other`: their scores, of the same units in the same order. `paired`: whether their pairs are the same, in
    the same order. `alone`: how many units only A has, and only B.
    """

    title: str
    one: Scores
    other: Scores
    paired: bool
    alone: tuple[int, int] = (0, 0)

    @property
    def names(self) -> list[str]:
        """The units."""
        return self.one.units.names

    @property
    def shares(self) -> bool:
        """Whether the values are shares of the mean gap; else they are in the unit of the scores."""
        return self.one.has_shares and self.other.has_shares

    @property
    def meaning(self) -> str:
        """What is compared: "effect", "importance" (of two directions) or "magnitude"; see the module."""
        if not (self.one.signed and self.other.signed):
            return "magnitude"
        return "effect" if self.one.direction == self.other.direction else "importance"

    @property
    def unit(self) -> str:
        """What the values are, in words: "effect, share of the gap"."""
        plain = {METRIC: f"{self.meaning} on {self.one.task['metric']}", UNPAIRED: f"{self.meaning} on the metric"}
        return f"{self.meaning}, share of the gap" if self.shares else plain.get(self.one.unit, self.one.unit)

    @property
    def supports(self) -> int:
        """The sign of what supports the behaviour: −1 or 1; 0 of magnitudes, and of what is no effect."""
        if self.meaning == "magnitude" or self.one.unit not in (METRIC, UNPAIRED):
            return 0
        return -1 if self.meaning == "effect" and self.one.direction == "noising" else 1

    @cached_property
    def values(self) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
        """A's and B's value of every unit."""
        return self._figures[0][0], self._figures[1][0]

    @cached_property
    def errors(self) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
        """Their standard errors over pairs; NaN where they are not known."""
        one, other = (np.sqrt(variance_of_mean(each)[0]) for each in self._influences)
        return one, other

    @cached_property
    def found(self) -> Differences:
        """B − A, its standard error and p, unit by unit."""
        return differences(self.values, self._influences, paired=self.paired)

    @cached_property
    def p_holm(self) -> Float[np.ndarray, " units"]:
        """p after Holm's correction over all these units; NaN where p is not known."""
        p, corrected = self.found.p, np.full(len(self.names), np.nan)
        known = np.isfinite(p)
        if known.any():
            corrected[known] = holm(p[known].tolist())
        return corrected

    @property
    def differs(self) -> Bool[np.ndarray, " units"]:
        """Which units differ significantly, at the 5 % level for all of them together."""
        return np.nan_to_num(self.p_holm, nan=1.0) <= LEVEL

    @cached_property
    def ranks(self) -> tuple[Int[np.ndarray, " units"], Int[np.ndarray, " units"]]:
        """A's and B's rank of every unit by |value|, from 1."""
        return _ranks(self.values[0]), _ranks(self.values[1])

    @property
    def _influences(self) -> tuple[np.ndarray, np.ndarray]:
        return self._figures[0][1], self._figures[1][1]

    @cached_property
    def _figures(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return self._of(self.one), self._of(self.other)

    def _of(self, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
        """Every unit's value; and what each pair adds to it (NaN throughout where scores are one for all pairs)."""
        values = scores.values.double()
        if self.meaning == "importance" and scores.direction == "noising":
            values = -values
        if self.meaning == "magnitude":
            values = values.abs()
        if self.shares:
            figures, parts = ratios(values, scores.gap)[0], influences(values, scores.gap)
        else:
            figures = values.nanmean(0)
            parts = values - figures
        return figures.numpy(), (parts if scores.per_example else torch.full_like(parts, torch.nan)).numpy()

    def table(self) -> pd.DataFrame:
        """One row per unit: name, layer and the like, A, B, difference, stderr, p, p (Holm), differs, ranks, change."""
        table = self.one.units.table()
        (table["A"], table["B"]), found = self.values, self.found
        table["difference"], table["stderr"], table["p"] = found.value, found.stderr, found.p
        table["p (Holm)"], table["differs"] = self.p_holm, self.differs
        table["rank in A"], table["rank in B"] = self.ranks
        table["change of rank"] = self.ranks[0] - self.ranks[1]
        return table

    @property
    def how(self) -> str:
        """The test in words."""
        n, m = self.one.n, self.other.n
        if not np.isfinite(self.found.p).any():
            return f"no test: {self._untested()}"
        if self.paired:
            return f"paired over the same {n:,} pairs, Student’s test, Holm’s correction over all units"
        return f"unpaired, {n:,} pairs against {m:,}, Welch’s test, Holm’s correction over all units"

    def _untested(self) -> str:
        """Why no difference has a p."""
        if min(self.one.n, self.other.n) == 1:
            return "one pair tells no difference from chance"
        if not (self.one.per_example and self.other.per_example):
            return "scores that are one for all pairs have no error"
        gaps = [why for scores in (self.one, self.other) if (why := unseparated(scores.gap))]
        if gaps:
            return gaps[0]
        if not self.paired and min(self.one.n, self.other.n) < LEAST:
            return few_apart(self.one.n, self.other.n)
        return "no error is known"

    @property
    def sentences(self) -> tuple[str, ...]:
        """How many units differ and how that was tested; the largest differences; the same strongest, changed ranks."""
        units = counted(len(self.names), singular(self.one.units.kind))
        count = int(self.differs.sum())
        differ = f"{count:,} of {units} differ{'s' if count == 1 else ''} significantly ({self.how})"
        if not np.isfinite(self.found.p).any():
            differ = f"{units} are compared; {self.how}"
        left = [
            f"{n:,} {'is' if n == 1 else 'are'} in {name} only" for n, name in zip(self.alone, "AB", strict=True) if n
        ]
        first = f"{self.title}: {differ}{''.join(f'; {one}' for one in left)}."
        return (f"{first}{self._alone()}", self._largest(), *self._ranked())

    def _alone(self) -> str:
        """How many differ if each test stood alone, beside how many would by chance: Holm's rule is strict."""
        known = self.found.p[np.isfinite(self.found.p)]
        if len(known) < 2:
            return ""
        below, chance = int((known <= LEVEL).sum()), LEVEL * len(known)
        expected = f"where chance alone gives about {max(1, round(chance)):,}"
        return f" Each by itself, {below:,} have p under {LEVEL:g}, {expected}."

    def _largest(self) -> str:
        value, error, _ = self.found
        order = np.argsort(-np.abs(value), kind="stable")[:_NAMED]
        named = [
            f"{self.names[i]} {number_of(self.values[0][i])} in A and {number_of(self.values[1][i])} in B (difference "
            f"{share(value[i], error[i])}{self._corrected(i)})"
            for i in order.tolist()
        ]
        return f"The largest differences in {self.unit}: {listed(named)}."

    def _corrected(self, i: int) -> str:
        p = float(self.p_holm[i])
        return f", {p_value(p)} after correction" if np.isfinite(p) else ""

    def _ranked(self) -> list[str]:
        """Whether both name the same strongest units, and which of these moved most."""
        count = len(self.names)
        if count < 2:
            return []
        top = strongest_of(count)
        tops = [set(np.flatnonzero(ranks <= top).tolist()) for ranks in self.ranks]
        sizes = [np.abs(values) for values in self.values]
        varied = all(np.ptp(one) > 0 for one in sizes)
        rho = f"; sizes have a Spearman correlation of {number_of(stats.spearmanr(*sizes).statistic)}" if varied else ""
        said = f"{len(tops[0] & tops[1])} of the {top} strongest are the same{rho}."
        among = np.array(sorted(tops[0] | tops[1]))
        change = np.abs(self.ranks[0] - self.ranks[1])[among]
        if not change.any():
            return [said]
        i = int(among[change.argmax()])
        return [f"{said[:-1]}; of the strongest of both, {self.names[i]} moves most, from rank {self.ranks[0][i]:,} in "
                f"A to {self.ranks[1][i]:,} in B."]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Comparison(Paged):
    """Two results side by side, A and B: what differs in how they were made, and what differs in what they found.

    `compared`: one entry per kind of unit (and per task, of studies). `left`: what only one of both has, in words.

    >>> found = vc.open("out/base") | vc.open("out/tuned")
    >>> found.table()
    """

    compared: tuple[Compared, ...]
    left: tuple[str, ...] = ()

    @property
    def model(self) -> dict[str, str]:
        """The model of A, and that of B where it is another."""
        one, other = self.compared[0].one.model, self.compared[0].other.model
        return {name: _both(one.get(name, ""), other.get(name, "")) for name in one | other}

    @property
    def task(self) -> dict[str, Any]:
        """The same of the task."""
        one, other = self.compared[0].one.task, self.compared[0].other.task
        return one | {
            name: _both(str(one[name]), str(other[name])) for name in ("name", "description", "digest", "metric")
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Whether each is paired."""
        return {"paired": {one.title: one.paired for one in self.compared}}

    @property
    def cost(self) -> None:
        """None: both results have their own, and comparing them runs no model."""

    @property
    def mismatches(self) -> list[tuple[str, str, str]]:
        """What differs in how A and B were made: (what, in A, in B); each once."""
        return list(dict.fromkeys(row for one in self.compared for row in mismatches(one.one, one.other)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What differs in how they were made, in words; that nothing does."""
        said = [f"{what}: {one} in A, {other} in B." for what, one, other in self.mismatches]
        if not all(one.paired for one in self.compared):
            said.append(
                "The pairs are not the same, or not in the same order, so that differences between pairs count as "
                "chance; the same pairs in the same order would tell smaller differences."
            )
        return (*(said or ["Both were made alike: headers do not differ."]), *self.left)

    @property
    def sentences(self) -> tuple[str, ...]:
        """First what differs in how both were made, then what differs in what they found."""
        return (*self.warnings, *(said for one in self.compared for said in one.sentences))

    def table(self) -> pd.DataFrame:
        """One row per unit, see `Compared.table`; first the title of what is compared, where there are several."""
        import pandas as pd

        tables = [one.table() for one in self.compared]
        if len(tables) == 1:
            return tables[0]
        for one, table in zip(self.compared, tables, strict=True):
            table.insert(0, "compared", one.title)
        return pd.concat(tables, ignore_index=True)

    def largest(self, k: int = ROWS) -> pd.DataFrame:
        """The k largest differences: what differs significantly first."""
        table = self.table()
        order = np.lexsort((-table["difference"].abs().to_numpy(), ~table["differs"].to_numpy()))
        return table.iloc[order[:k]]

    def head(self) -> pd.DataFrame:
        """The ten largest differences."""
        return self.largest()

    def describe(self) -> str:
        """What A and B are, and what is compared, line by line."""
        both = self.compared[0].one, self.compared[0].other
        lines = [
            f"{name}       {one.method} · {one.model['source']} · {one.task['description']}"
            for name, one in zip("AB", both, strict=True)
        ]
        lines += [f"units   {one.title}: {len(one.names):,}, {one.unit}; {one.how}" for one in self.compared]
        return "\n".join(["Two results side by side", *lines])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        from veracausa.scores.bundles import write_all

        rows = [{"title": one.title, "paired": one.paired, "alone": list(one.alone)} for one in self.compared]
        parts = {f"{name}{i}": getattr(one, name) for i, one in enumerate(self.compared) for name in ("one", "other")}
        return write_all(path, FORMAT, {"compared": rows, "left": list(self.left)}, parts)

    def page(self, path: str | Path) -> Path:
        """Write it as one offline page, with the map, panel and marks of a study's; returns its path."""
        from veracausa.doors import through

        written: Path = through("Comparison.page", self, path)
        return written

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def _both(one: str, other: str) -> str:
    return one if one == other else f"{one} and {other}"


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), dtype=int)
    ranks[np.argsort(-np.abs(values), kind="stable")] = np.arange(1, len(values) + 1)
    return ranks
