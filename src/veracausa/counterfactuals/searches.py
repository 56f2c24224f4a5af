"""Counterfactual search: the pair that shows a unit best, and whether the same kind of pair shows it on other prompts.

Over a pool of pairs (`tasks.pool`), with exact effects of the unit and of all units of its site:

* by "effect": the pair with the largest |E_u|;
* by "stands out": the pair with the largest margin |E_u| − max |E_v| over the other units v of the site. A difference,
  not a ratio or z-score: a ratio is largest where all effects are tiny.

The largest of many is too large: it was chosen for being so. Therefore half of the prompts are held out. The kind of
the pair that was found (its corruption, or "names 3 → new") is taken on the held-out prompts that share none of the
changed words, and the unit's mean |E| (or margin) there is compared with that under the task's own corruption of the
same prompts, prompt by prompt. The search may pick a kind by a lucky prompt; this figure is free of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from veracausa.errors import MethodError
from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.made_of import MadeOfScores
from veracausa.scores.scores import Scores
from veracausa.statistics.means import exceeds
from veracausa.storage.files import at
from veracausa.storage.schema import flag, many, reading, record, text, whole
from veracausa.tasks.task import Task, task_content
from veracausa.tasks.task_files import task_of
from veracausa.units.kinds import indexed
from veracausa.words import number_of, share

if TYPE_CHECKING:
    import pandas as pd

By = Literal["effect", "stands out"]
BY: tuple[By, ...] = ("effect", "stands out")
_FORMAT = "veracausa-search-2"


@dataclass(frozen=True)
class Check:
    """What a kind of pair does on held-out prompts, against the task's own corruption, prompt by prompt.

    `found`, `own`, `difference`: means over `n` prompts of |E_u| (or of the margin), each with its standard error.
    `p`: of H0: the difference is not above 0 (t-test). All NaN where no held-out prompt has such a pair.
    """

    n: int
    found: tuple[float, float]
    own: tuple[float, float]
    difference: tuple[float, float]
    p: float


@dataclass(frozen=True, eq=False)
class Search(MadeOfScores):
    """What `vc.counterfactuals.search` found; effects are in units of the metric.

    `scores`: exact effects of all units of the searched units' sites on all pairs of the `pool`. `names`: the units
    searched for. `searched[i]`: whether pair i could be chosen (else its prompt was held out).

    >>> pool = vc.counterfactuals.pool(lm, vc.tasks.ioi(lm, n=8))
    >>> vc.counterfactuals.search(lm, pool, units=["a16.h0"]).best("a16.h0")
    """

    scores: Scores
    pool: Task
    names: tuple[str, ...]
    searched: np.ndarray

    @property
    def parts(self) -> list[Scores]:
        """All its scores."""
        return [self.scores]

    @property
    def settings(self) -> dict[str, Any]:
        """What was searched for, and how the scores were made."""
        return {"names": self.names, "scores": self.scores.settings}

    @cached_property
    def _values(self) -> np.ndarray:
        return self.scores.values.double().numpy()

    @cached_property
    def _prompt(self) -> np.ndarray:
        return np.array([int(info["pair"]) for info in self.pool.info])

    @cached_property
    def _how(self) -> np.ndarray:
        return np.array([str(info["how"]) for info in self.pool.info])

    @cached_property
    def _own(self) -> np.ndarray:
        return np.array([bool(info["own"]) for info in self.pool.info])

    def effect(self, unit: str) -> np.ndarray:
        """E_u on every pair of the pool."""
        return self._values[:, self.scores.units.find(unit)]

    def margin(self, unit: str) -> np.ndarray:
        """|E_u| − the largest |E| of the other units of its site, on every pair of the pool."""
        u, units = self.scores.units.find(unit), self.scores.units
        others = np.flatnonzero((units.layer == units.layer[u]) & (np.arange(len(units)) != u))
        if not len(others):
            raise MethodError(f"{unit} is alone in its site, so it cannot stand out from others. Search by effect.")
        return np.abs(self._values[:, u]) - np.abs(self._values[:, others]).max(1)

    def figure(self, unit: str, by: By) -> np.ndarray:
        """What the search maximises: |E_u|, or the margin."""
        return np.abs(self.effect(unit)) if by == "effect" else self.margin(unit)

    def best(self, unit: str, by: By = "effect") -> int:
        """Index of the pair found, into `pool`."""
        candidates = np.flatnonzero(self.searched)
        return int(candidates[self.figure(unit, by)[candidates].argmax()])

    def default(self, unit: str, pair: int) -> float:
        """E_u on the same prompt under the task's own corruption."""
        return float(self.effect(unit)[np.flatnonzero(self._own & (self._prompt == self._prompt[pair]))[0]])

    def check(self, unit: str, by: By = "effect") -> Check:
        """How the kind of the pair found does on held-out prompts that share none of its changed words."""
        best, figure = self.best(unit, by), self.figure(unit, by)
        words = self._changed(best)
        rows = []
        for prompt in dict.fromkeys(self._prompt[~self.searched].tolist()):
            here = np.flatnonzero(self._prompt == prompt)
            kind = [i for i in here[self._how[here] == self._how[best]].tolist() if not self._changed(i) & words]
            own = here[self._own[here]].tolist()
            if kind and own:
                rows.append((figure[kind].mean(), figure[own].mean()))
        if not rows:
            none = (float("nan"), float("nan"))
            return Check(0, none, none, none, float("nan"))
        found, own_figures = np.array(rows).T
        difference = found - own_figures
        p = float(exceeds(difference[:, None], 0.0)[0])
        return Check(len(rows), _mean_error(found), _mean_error(own_figures), _mean_error(difference), p)

    def _changed(self, pair: int) -> set[int]:
        """Tokens of both prompts of a pair at the places where they differ."""
        places = zip(self.pool.clean[pair], self.pool.corrupted[pair], strict=True)
        return {token for a, b in places if a != b for token in (a, b)}

    def kinds(self, unit: str) -> pd.DataFrame:
        """One row per kind of pair: mean E_u, mean |E_u|, its standard error over prompts, mean margin, prompts."""
        import pandas as pd

        alone = not indexed(self.scores.units.kind)
        effect, margin = self.effect(unit), None if alone else self.margin(unit)
        rows = []
        for how in dict.fromkeys(self._how.tolist()):
            members = self._how == how
            prompts = list(dict.fromkeys(self._prompt[members].tolist()))
            sizes = [np.abs(effect[members & (self._prompt == prompt)]).mean() for prompt in prompts]
            mean, error = _mean_error(np.array(sizes))
            row = {"unit": unit, "how": how, "effect": effect[members].mean(), "|effect|": mean, "stderr": error}
            row["margin"] = float("nan") if margin is None else margin[members].mean()
            rows.append(row | {"n": len(prompts)})
        return pd.DataFrame(rows).sort_values("|effect|", ascending=False, ignore_index=True)

    @property
    def by(self) -> tuple[By, ...]:
        """What was searched by: sites of one unit have nothing to stand out from."""
        return BY if indexed(self.scores.units.kind) else BY[:1]

    def table(self) -> pd.DataFrame:
        """One row per unit and criterion: the pair with its texts, effects, and the check on held-out prompts."""
        import pandas as pd

        rows = []
        for unit in self.names:
            for by in self.by:
                best, check = self.best(unit, by), self.check(unit, by)
                row: dict[str, Any] = {"unit": unit, "by": by, "how": str(self._how[best])}
                row |= {"clean": self.pool.clean_text[best], "corrupted": self.pool.corrupted_text[best]}
                row |= {"effect": float(self.effect(unit)[best]), "own": self.default(unit, best)}
                row["margin"] = float(self.margin(unit)[best]) if len(self.by) > 1 else float("nan")
                for name, (mean, error) in (
                    ("held-out", check.found),
                    ("held-out own", check.own),
                    ("difference", check.difference),
                ):
                    row |= {name: mean, f"{name} stderr": error}
                rows.append(row | {"p": check.p, "n": check.n})
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write."""
        prompts = len(set(self._prompt[self.searched].tolist()))
        said = []
        for unit in self.names:
            for by in self.by:
                best = self.best(unit, by)
                what = "is largest" if by == "effect" else "stands out most from its site"
                said.append(
                    f"{unit}: over {int(self.searched.sum())} pairs of {prompts} prompts its effect {what} by "
                    f"{self._how[best]}: {number_of(float(self.effect(unit)[best]), 2)} ({self._words(best)}), against "
                    f"{number_of(self.default(unit, best), 2)} under the task's own corruption of that prompt. "
                    f"{self._held_out(unit, by)}"
                )
        return tuple(said)

    def _held_out(self, unit: str, by: By) -> str:
        if self._own[self.best(unit, by)]:
            return "That is the task's own corruption: there is nothing better in the pool."
        check = self.check(unit, by)
        if not check.n:
            return "No held-out prompt has such a pair, so how far chance chose it is not known."
        word = "|effect|" if by == "effect" else "lead over its site"
        several = "" if check.n == 1 else "s"
        return (
            f"On {check.n} held-out prompt{several} with other words its {word} by that kind is "
            f"{share(*check.found, 2)}, by the task's own {share(*check.own, 2)}: "
            f"difference {share(*check.difference, 2)}."
        )

    def _words(self, pair: int) -> str:
        """ " Mary" becomes " John", for the first places that differ."""
        clean, corrupted = self.pool.tokens(pair)
        changes = [f"{a.strip()} → {b.strip()}" for a, b in zip(clean, corrupted, strict=True) if a != b]
        return ", ".join(changes[:3]) + (", …" if len(changes) > 3 else "")

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        own = {"pool": task_content(self.pool), "names": list(self.names), "searched": self.searched.tolist()}
        return write_all(path, _FORMAT, own, {"scores": self.scores})

    def describe(self) -> str:
        """What these numbers are."""
        held = len(set(self._prompt[~self.searched].tolist()))
        return "\n".join(
            [
                f"counterfactual search · {', '.join(self.names)} · {len(self.pool):,} pairs",
                f"model   {self.scores.model['source']}",
                f"task    {self.scores.task['description']}",
                f"sign    E = M(clean, unit replaced) − M(clean), in units of {self.pool.metric}; negative: support",
                f"n       {len(set(self._prompt.tolist()))} prompts, {held} of them held out",
                "trust   exact effects",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def load_search(path: str | Path) -> Search:
    """Read what `Search.save` wrote; FileError for any other file.

    >>> vc.open("search.safetensors").table()
    """
    own, scores = read_all(path, _FORMAT)
    with reading(at(path)):
        pool, found = task_of(own["pool"], at(path)), scores["scores"]
        names, searched = many(text, least=1)(own["names"]), many(flag, len(pool))(own["searched"])
        for name in names:
            found.units.find(name)
        for info in pool.info:
            record(pair=whole(), how=text, own=flag)(dict(info))
        if found.n != len(pool) or not any(searched):
            raise ValueError(f"{found.n} pairs were run, but the pool has {len(pool)}, {sum(searched)} to search in")
        return Search(found, pool, names, np.array(searched, dtype=bool))


def _mean_error(values: np.ndarray) -> tuple[float, float]:
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error
