"""Which units each counterfactual shows: exact effects under several corruptions of the same clean prompts.

All effects are noising effects of the same clean runs, so they are on one scale: shares of the largest mean gap among
the corruptions. (Each corruption's own gap would not do: one that leaves the answer as it is has almost none.)

Corruption a shows unit u and b hides it, if over the examples both hold (t-tests of both sides, a unit's p-value is the
larger of the two, Holm-corrected for all units and all ordered pairs of corruptions together):

* E_u under a differs from 0 (and is at least `least` of the scale);
* |E_u| under b is less than a third of that under a, example by example paired. (That E_u is significant under a and
  not under b would say nothing yet: a weaker effect may only need more examples.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy import stats

from veracausa.errors import MethodError
from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.files import same_table
from veracausa.scores.made_of import MadeOfScores
from veracausa.scores.scores import Scores
from veracausa.statistics.accuracy import holm
from veracausa.statistics.means import LEVEL, differs, weaker
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import at
from veracausa.storage.schema import many, number, one_of, reading, whole
from veracausa.suggestions import not_known
from veracausa.units.kinds import in_words
from veracausa.words import counted, listed, number_of, share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd


#: An effect under this share of the scale is too small to be called shown.
LEAST = 0.01
#: Hidden: less than this share of the effect under the corruption that shows a unit.
HIDDEN = 1 / 3
#: Units that get a sentence.
SAID = 6
_FORMAT = "veracausa-counterfactuals-2"
Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class CounterfactualComparison(MadeOfScores):
    """Exact effects of the same units under several corruptions; see the module's docstring.

    `scores`: corruption → exact effects. `top`: how many of the strongest units are compared as sets.

    >>> kinds = ("swap", "abc")
    >>> found = vc.counterfactuals.corruptions(lm, {kind: vc.tasks.ioi(lm, n=16, corruption=kind) for kind in kinds})
    >>> found.strongest("abc"), found.contrasts()
    """

    scores: dict[str, Scores]
    top: int
    least: float = LEAST

    @property
    def parts(self) -> list[Scores]:
        """All its scores."""
        return list(self.scores.values())

    @property
    def settings(self) -> dict[str, Any]:
        """What was compared, and how each of the scores was made."""
        scores = {name: one.settings for name, one in self.scores.items()}
        return {"top": self.top, "least": self.least, "scores": scores}

    @property
    def names(self) -> list[str]:
        """The corruptions, in order."""
        return list(self.scores)

    @property
    def one(self) -> Scores:
        """The first corruption's scores: units, model and clean prompts are the same in all."""
        return next(iter(self.scores.values()))

    @property
    def n(self) -> int:
        """Number of clean prompts."""
        return self.one.n

    @property
    def widest(self) -> str:
        """The corruption with the largest mean gap, which is the scale."""
        return max(self.names, key=lambda name: abs(float(self.scores[name].gap.mean())))

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Effects [examples, units] of each corruption as shares of the scale."""
        scale = float(self.scores[self.widest].gap.double().mean())
        return {name: one.values.double().numpy() / scale for name, one in self.scores.items()}

    @cached_property
    def errors(self) -> dict[str, np.ndarray]:
        """Standard errors of `mean` of every unit, those of shares of the scale's gap (`statistics.ratios`)."""
        gap = self.scores[self.widest].gap
        return {name: ratios(one.values, gap)[1].numpy() for name, one in self.scores.items()}

    def mean(self, name: str) -> np.ndarray:
        """Mean effect of every unit under a corruption."""
        return np.asarray(self.values[name].mean(0))

    def rank(self, name: str) -> np.ndarray:
        """Rank of every unit by |mean effect|, 1 the strongest; equal ones share their mean rank."""
        return np.asarray(stats.rankdata(-np.abs(self.mean(name))))

    def correlations(self, by: str = "spearman") -> pd.DataFrame:
        """Corruptions × corruptions: "spearman" of |mean effect|, "r" of mean effects, "jaccard" of the tops."""
        kinds = {"spearman": self._spearman, "r": self._r, "jaccard": self._jaccard}
        if by not in kinds:
            raise MethodError(not_known("by", by, kinds))
        return square(self.names, kinds[by])

    def _spearman(self, a: str, b: str) -> float:
        return float(np.corrcoef(self.rank(a), self.rank(b))[0, 1])

    def _r(self, a: str, b: str) -> float:
        return float(np.corrcoef(self.mean(a), self.mean(b))[0, 1])

    def _jaccard(self, a: str, b: str) -> float:
        tops = [set(self.strongest(name)) for name in (a, b)]
        return len(tops[0] & tops[1]) / len(tops[0] | tops[1])

    def strongest(self, name: str) -> list[str]:
        """The `top` strongest units under a corruption."""
        order = np.argsort(-np.abs(self.mean(name)), kind="stable")[: self.top]
        return self.one.units[order].names

    @cached_property
    def p(self) -> dict[str, np.ndarray]:
        """Holm-corrected p-value of every unit's effect under each corruption."""
        return {name: holm(differs(values).tolist()) for name, values in self.values.items()}

    @cached_property
    def _hidden(self) -> dict[tuple[str, str], np.ndarray]:
        """(a, b) → which units a shows and b hides."""
        pairs = list(permutations(self.names, 2))
        p = [np.maximum(differs(self.values[a]), weaker(self.values[b], self.values[a], HIDDEN)) for a, b in pairs]
        sure = holm(np.concatenate(p).tolist()).reshape(len(pairs), -1) < LEVEL
        large = {name: np.abs(self.mean(name)) >= self.least for name in self.names}
        return {(a, b): one & large[a] for (a, b), one in zip(pairs, sure, strict=True)}

    def shown(self, a: str, b: str) -> list[str]:
        """Units that corruption `a` shows and `b` hides, the strongest first; empty for a single example.

        >>> compared.shown("abc", "swap")
        """
        if (a, b) not in self._hidden:
            raise MethodError(f"shown({a!r}, {b!r}): name two different corruptions among {', '.join(self.names)}.")
        chosen = np.flatnonzero(self._hidden[a, b])
        return self.one.units[chosen[np.argsort(-np.abs(self.mean(a)[chosen]), kind="stable")]].names

    def movers(self, k: int = 5) -> list[str]:
        """Units with an effect that is beyond chance, whose rank moves most among corruptions (ratio of its ranks).

        Beyond chance: under one corruption or more, Holm-corrected for all units and corruptions together.
        """
        ranks = np.stack([self.rank(name) for name in self.names])
        p = holm(np.concatenate([differs(self.values[name]) for name in self.names]).tolist())
        large = np.stack([np.abs(self.mean(name)) >= self.least for name in self.names])
        real = (p.reshape(large.shape) < LEVEL) & large
        moved = np.where(np.any(real, axis=0), ranks.max(0) / ranks.min(0), 0.0)
        chosen = [int(u) for u in np.argsort(-moved, kind="stable")[:k] if moved[u] > 1]
        return self.one.units[chosen].names

    def table(self) -> pd.DataFrame:
        """One row per unit: effect, standard error, rank and corrected p under each corruption; strongest first."""
        table: pd.DataFrame = self.one.units.table()
        table["n"] = self.n
        for name in self.names:
            table[f"effect: {name}"] = self.mean(name)
            table[f"stderr: {name}"] = self.errors[name]
            table[f"rank: {name}"] = self.rank(name)
            table[f"p: {name}"] = self.p[name]
        largest = np.max([np.abs(self.mean(name)) for name in self.names], axis=0)
        return table.iloc[np.argsort(-largest, kind="stable")].reset_index(drop=True)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write."""
        kind, said = in_words(self.one.units.kind), []
        gaps = [f"{name} {number_of(float(self.scores[name].gap.mean()), 2)}" for name in self.names]
        said.append(
            f"On the same {counted(self.n, 'clean prompt')} the mean gap is {listed(gaps)}; effects are shares of the "
            f"largest, that of {self.widest}."
        )
        if len(self.names) > 1:
            jaccard, spearman = self.correlations("jaccard"), self.correlations("spearman")
            pairs = [(a, b) for i, a in enumerate(self.names) for b in self.names[i + 1 :]]
            least, most = (pick(pairs, key=lambda pair: float(jaccard.loc[pair])) for pick in (min, max))
            rho, others = number_of(float(spearman.loc[least]), 2), number_of(float(spearman.loc[most]), 2)
            more = f", {most[0]} and {most[1]} {_common(*map(self.strongest, most))} ({others})" if pairs[1:] else ""
            said.append(
                f"The ranking of {len(self.one):,} {kind} depends on the counterfactual: of the {self.top} strongest, "
                f"{least[0]} and {least[1]} share {_common(*map(self.strongest, least))} (Spearman of all {rho}){more}."
            )
        contrasts = self.contrasts()
        said += [self._contrast(unit, *parts) for unit, parts in list(contrasts.items())[:SAID]]
        if len(contrasts) > SAID:
            said.append(f"So it is with {len(contrasts) - SAID} more {kind}.")
        if self.n == 1:
            said.append(
                "With one prompt there is no standard error, so of no unit can it be said that only one shows it."
            )
        elif not contrasts:
            said.append(f"No unit is shown by one corruption and not by another (n = {self.n}, Holm at {LEVEL:g}).")
        return tuple(said)

    def contrasts(self) -> dict[str, tuple[str, list[str]]]:
        """Unit → the corruption under which it is strongest, and those that hide it; the strongest units first."""
        strongest = np.abs([self.mean(name) for name in self.names]).argmax(0)
        found: dict[int, tuple[str, list[str]]] = {}
        for u, best in enumerate(strongest.tolist()):
            a = self.names[best]
            if hiding := [b for b in self.names if b != a and self._hidden[a, b][u]]:
                found[u] = (a, hiding)
        order = sorted(found, key=lambda u: -abs(float(self.mean(found[u][0])[u])))
        names = self.one.units.names
        return {names[u]: found[u] for u in order}

    def _contrast(self, unit: str, a: str, hiding: list[str]) -> str:
        u = self.one.units.find(unit)
        one, *others = (f"{name} {share(self.mean(name)[u], float(self.errors[name][u]))}" for name in (a, *hiding))
        verb = "does" if len(hiding) == 1 else "do"
        return f"{unit}: shown by {one}; {listed(others)} {verb} not show it (n = {self.n}, Holm at {LEVEL:g})."

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        return write_all(path, _FORMAT, {"top": self.top, "least": self.least, "order": self.names}, self.scores)

    def describe(self) -> str:
        """What these numbers are."""
        return "\n".join(
            [
                f"counterfactuals compared · {len(self.one):,} {self.one.units.kind} · {', '.join(self.names)}",
                f"model   {self.one.model['source']}",
                f"task    {self.one.task['description']}",
                f"sign    E = M(clean, unit replaced) − M(clean), share of {self.widest}'s mean gap; negative: support",
                f"n       {counted(self.n, 'clean prompt')}, the same under every corruption",
                "trust   exact effects",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def load_counterfactual_comparison(path: str | Path) -> CounterfactualComparison:
    """Read what `CounterfactualComparison.save` wrote; FileError for any other file.

    >>> vc.open("corruptions.safetensors").contrasts()
    """
    own, scores = read_all(path, _FORMAT)
    with reading(at(path)):
        names = many(one_of(*scores), least=2)(own["order"])
        same_table(scores)
        least = number(0)(own["least"])
        return CounterfactualComparison({name: scores[name] for name in names}, whole(1)(own["top"]), least)


def square(keys: Sequence[Key], figure: Callable[[Key, Key], float], name: Callable[[Key], str] = str) -> pd.DataFrame:
    """A symmetric table of a figure of two keys, by their names; 1 on the diagonal."""
    import pandas as pd

    rows = [[1.0 if a == b else float(figure(a, b)) for b in keys] for a in keys]
    names = [name(key) for key in keys]
    return pd.DataFrame(rows, index=names, columns=names)


def _common(one: list[str], other: list[str]) -> int:
    return len(set(one) & set(other))
