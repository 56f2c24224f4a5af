"""What `vc.scores.stability` returns: how far the strongest units depend on which examples were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ranking
from veracausa.result import Shown
from veracausa.scores.bundles import write_all
from veracausa.scores.scores import Scores
from veracausa.statistics.bootstrap import too_few

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float

FORMAT = "veracausa-stability-1"


class DrawnAgain(Shown):
    """What is made of `scores` alone, by drawing their examples again: it says whose scores, and what was `ASKED`."""

    scores: Scores
    ASKED: ClassVar[tuple[str, ...]]

    @property
    def model(self) -> dict[str, str]:
        """The model of the scores."""
        return self.scores.model

    @property
    def task(self) -> dict[str, Any]:
        """The task of the scores."""
        return self.scores.task

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked, and how the scores were made."""
        return {name: getattr(self, name) for name in self.ASKED} | {"scores": self.scores.settings}

    @property
    def cost(self) -> None:
        """None: it is made of scores that are there, and no model is run."""


@dataclass(frozen=True, eq=False)
class Stability(DrawnAgain):
    """Stability of the `top` strongest units over examples; see `scores.top_units` for the figures.

    `jaccard`: mean pairwise Jaccard of bootstrap draws of all n examples. `probability[u]`: share of those draws that
    select unit u. `bootstrap`, `fresh`: size n′ → mean Jaccard, by bootstrap and between independent sets.

    >>> found = vc.scores.stability(vc.exact(lm, task, units="heads"), top=10)
    >>> found.jaccard, found.stable
    """

    scores: Scores
    top: int
    by: Ranking
    bar: float
    draws: int
    seed: int
    jaccard: float
    probability: Float[Tensor, " units"]
    bootstrap: dict[int, float]
    fresh: dict[int, float]
    ASKED = ("top", "by", "bar", "draws", "seed")

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.scores.n

    @property
    def needed(self) -> int | None:
        """Examples that it takes for two independent sets to agree better than the bar; None: more than n/2.

        The smallest size tried from which on Jaccard stays above the bar. Sizes grow by about √2, so the least number
        lies between the size tried before and this one.
        """
        return _reached(self.fresh, self.bar)

    @property
    def needed_bootstrap(self) -> int | None:
        """The same by the bootstrap, which is too kind to small sets; None: more than n, for fresh examples too."""
        return _reached(self.bootstrap, self.bar)

    @property
    def stable(self) -> list[str]:
        """Units chosen by at least 95% of the draws, the likeliest first."""
        order = torch.argsort(self.probability, descending=True, stable=True)
        chosen = [int(u) for u in order if self.probability[u] >= 0.95]
        return self.scores.units[chosen].names if chosen else []

    def table(self) -> pd.DataFrame:
        """One row per unit, the likeliest first: name, layer, …, effect, stderr, probability of selection."""
        table = self.scores.units.table()
        table["effect"] = self.scores.mean().numpy()
        table["stderr"] = self.scores.stderr().numpy()
        table["probability"] = self.probability.numpy()
        rank = np.empty(len(table), dtype=np.int64)
        rank[self.scores.ranking(self.by)] = np.arange(len(table))
        order = np.lexsort((rank, -self.probability.numpy()))
        return table.iloc[order].reset_index(drop=True)

    def curve(self) -> pd.DataFrame:
        """Mean Jaccard by size: columns examples, bootstrap, fresh (NaN where 2 · examples > n)."""
        import pandas as pd

        rows = [(size, value, self.fresh.get(size, float("nan"))) for size, value in self.bootstrap.items()]
        return pd.DataFrame(rows, columns=["examples", "bootstrap", "fresh"])

    @property
    def sentences(self) -> tuple[str, ...]:
        """How much of the top other examples would have chosen, and how many it takes."""
        half = max(self.fresh)
        return (
            f"Of {len(self.scores):,} {self.scores.units.kind} the {self.top} strongest by two independent sets of "
            f"{half} examples overlap by {self.fresh[half]:.2f} (Jaccard), by bootstrap draws of all {self.n} by "
            f"{self.jaccard:.2f}.",
            f"It takes {self._needed(self.needed, half)} examples for an overlap over {self.bar:g}.",
            f"{len(self.stable)} of the {self.top} are in at least 95% of the draws.",
        )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in (*self.ASKED, "jaccard")}
        header |= {name: list(getattr(self, name).items()) for name in ("bootstrap", "fresh")}
        return write_all(path, FORMAT, header, {"scores": self.scores}, {"probability": self.probability})

    def describe(self) -> str:
        """The figures in five lines."""
        half = max(self.fresh)
        certain = int((self.probability >= 0.95).sum())
        ever = int((self.probability > 0).sum())
        return "\n".join(
            [
                f"stability of the top {self.top} of {len(self.scores):,} {self.scores.units.kind} by {self.by}, "
                f"{self.scores.method} · {self.n} examples, {self.draws:,} bootstrap draws",
                f"Jaccard {self.jaccard:.3f} between bootstrap draws of {self.n}; {self.fresh[half]:.3f} between "
                f"independent sets of {half}",
                f"needed  for Jaccard > {self.bar:g}: {self._needed(self.needed, half)} examples; "
                f"{self._needed(self.needed_bootstrap, self.n)} by the bootstrap, which is too kind",
                f"chosen  {said_of_draws(self.n, certain, ever)}",
                f"trust   {self.scores.verified}",
            ]
        )

    @staticmethod
    def _needed(size: int | None, most: int) -> str:
        return f"more than {most}" if size is None else str(size)

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"


def said_of_draws(n: int, certain: int, ever: int) -> str:
    """How many units draws agree on; nothing of that under the number of examples that a bootstrap needs."""
    if why := too_few(n):
        return f"{why}: how often draws of {n} choose a unit says little about other pairs"
    return f"in 95% of the draws or more: {certain:,}; in any draw: {ever:,}"


def _reached(curve: dict[int, float], bar: float) -> int | None:
    """The smallest size from which on the curve is above the bar."""
    found = None
    for size in sorted(curve, reverse=True):
        if not curve[size] > bar:
            break
        found = size
    return found
