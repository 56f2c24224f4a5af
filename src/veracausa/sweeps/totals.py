"""What a cell's numbers come to, added up item by item, for sweeps whose scores do not fit into memory.

Means, standard errors and shares are those of the merged `Scores` (to rounding: `statistics.running`). In memory are
one item, a few numbers a unit, the two ends of each pair, and the strongest single numbers that were asked for:

    bytes ≤ 56 · units + 16 · pairs + 24 · strongest + 5 · (the largest item's numbers) + 40 MB
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ranking
from veracausa.cost import Cost
from veracausa.errors import GapError, MethodError
from veracausa.scores.agreement import Agreement, agreed
from veracausa.scores.headers import require_comparable
from veracausa.scores.scores import METRIC, Scores
from veracausa.statistics.running import Running
from veracausa.suggestions import not_known
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.shards import Shard, Shards, require_done

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

#: Mean gaps under this are 0, as in `Scores`.
_ZERO = 1e-12
_RANKINGS: tuple[Ranking, ...] = ("abs_mean", "mean_abs", "importance")


@dataclass(frozen=True, eq=False)
class Totals:
    """A cell's scores in sums: per unit over all pairs, and the strongest single effects.

    `about`: what they are scores of (`units`, `settings`, `model`, `task`, and M(x), M(x′) of every pair); it has no
    effects. `n`: pairs. `strongest`: one row per effect of one unit on one pair, the largest |effect| first. `missed`:
    of estimates that should add up, the largest mean |residual| of a layer over the mean |gap|; None of others.

    >>> totals = sweep.totals(0)
    >>> totals.top(5), totals.strongest
    """

    about: Scores
    running: Running
    n: int
    strongest: pd.DataFrame
    cost: Cost
    missed: float | None

    def mean(self) -> Float[np.ndarray, " units"]:
        """Mean effect of every unit, over the pairs that have it."""
        return self.running.mean

    def stderr(self) -> Float[np.ndarray, " units"]:
        """Its standard error over pairs."""
        return self.running.stderr()

    def scaled(self) -> Float[np.ndarray, " units"]:
        """Mean effect over mean gap; what is no effect on the metric, as it is.

        Raises:
            GapError: the mean gap is zero.
        """
        if self.about.unit != METRIC:
            return self.mean()
        if abs(float(self.about.gap.double().mean())) < _ZERO:
            raise GapError("The mean gap is zero, so effects have no share of it; use `mean()`.")
        return self.running.share()

    def ranking(self, by: Ranking = "abs_mean") -> list[int]:
        """Units from the strongest, as `Scores.ranking`."""
        if by not in _RANKINGS:
            raise MethodError(not_known("ranking", by, _RANKINGS))
        toward = -1 if self.about.signed and self.about.direction == "noising" else 1
        keys = {"abs_mean": np.abs(self.mean()), "mean_abs": self.running.mean_abs, "importance": toward * self.mean()}
        return np.argsort(-np.nan_to_num(keys[by], nan=-np.inf), kind="stable").tolist()

    def table(self) -> pd.DataFrame:
        """One row per unit, with the columns of `Scores.table`."""
        table: pd.DataFrame = self.about.units.table()
        table["effect"], table["stderr"] = self.mean(), self.stderr()
        if self.about.has_shares:
            table["share"] = self.running.share()
        if (self.running.count < self.n).any():
            table["pairs"] = self.running.count.astype(int)
        return table

    def top(self, k: int = 10, *, by: Ranking = "abs_mean") -> pd.DataFrame:
        """The k strongest units as a table."""
        return self.table().iloc[self.ranking(by)[:k]].reset_index(drop=True)

    def agreement(self, exact: Totals) -> Agreement:
        """How these estimates agree with exact effects, as `vc.agreement` of the merged scores, without its intervals.

        Raises:
            MethodError, UnitError: see `vc.agreement`.
        """
        require_comparable(self.about, exact.about)
        theirs = {key: i for i, key in enumerate(exact.about.units.keys)}
        both = [(theirs[key], i) for i, key in enumerate(self.about.units.keys) if key in theirs]
        mine, own = np.array([i for _, i in both], int), np.array([i for i, _ in both], int)
        x, y = exact.scaled()[own], self.scaled()[mine]
        kept = np.isfinite(x) & np.isfinite(y)
        if not kept.any():
            raise MethodError("No unit is in both cells, so there is nothing to compare.")
        fewest = np.minimum(exact.running.count[own], self.running.count[mine])[kept].min()
        names = exact.about.units[own[kept]].names
        how: dict[str, Any] = {"n": exact.n, "fewest": int(fewest), "residual": self.missed}
        return agreed(self.about, exact.about, names, x[kept], y[kept], **how)

    def __repr__(self) -> str:
        top = self.top(5).to_string(index=False, float_format=lambda x: f"{x:+.4f}")
        return f"{self.about.method} · {len(self.about.units):,} {self.about.units.kind} · {self.n:,} pairs\n{top}"


def totals_of(folder: Folder, cell: int, strongest: int = 100) -> Totals:
    """Add up a cell's items in one pass; see `Totals`.

    Raises:
        MethodError: the cell's answer is no scores. FileError: an item is not done, or damaged.
    """
    require_done(folder, cell)
    made = _Adding(Shards(folder, cell), strongest)
    for shard in made.shards:
        made.add(shard)
    return made.totals()


class _Adding:
    """Sums over the items that were seen so far."""

    def __init__(self, shards: Shards, strongest: int) -> None:
        self.shards, self._n = shards, shards.pairs
        self._running = Running(len(shards.frame.units))
        self._ends = torch.full((2, self._n), float("nan"), dtype=torch.float64)
        self._first: dict[str, Any] = {}
        self._cost, self._full = Cost(), dict[Sequence[int] | None, int]()
        self._residuals: np.ndarray | None = None
        self._strong = _Strongest(strongest)

    def add(self, shard: Shard) -> None:
        """Add an item's numbers."""
        tensors, rows = shard.tensors, torch.from_numpy(shard.rows)
        ends = torch.stack([tensors["clean"], tensors["corrupted"]]).double()
        if "claimed" in tensors and self._ends[0, rows].isnan().all():  # of these pairs for the first time
            own = (tensors["claimed"] - tensors["true"]).abs().double().sum(1).numpy()
            self._residuals = own if self._residuals is None else self._residuals + own
        self._ends[:, rows] = ends
        values = tensors["values"].numpy()
        self._running.add(values, (ends[0] - ends[1]).numpy(), shard.columns)
        self._strong.add(values, shard)
        self._first = self._first or shard.header
        cost = Cost.from_dict(shard.header["cost"])
        self._cost += cost
        self._full[shard.item.pairs] = cost.full

    def totals(self) -> Totals:
        """What they come to."""
        frame, first = self.shards.frame, self._first
        clean, corrupted = self._ends
        about = replace(
            frame,
            values=frame.values[:1],
            method=first["method"],
            settings=first["settings"] | frame.settings,
            signed=first["signed"],
            verified=first["verified"],
            clean=clean,
            corrupted=corrupted,
            draw_stderr=None,
            completeness=None,
        )
        cost = replace(self._cost, full=sum(self._full.values()))
        return Totals(about, self._running, self._n, self._strong.table(frame), cost, self._missed(about.gap))

    def _missed(self, gap: Tensor) -> float | None:
        """As `Completeness.relative`."""
        if self._residuals is None:
            return None
        return float(self._residuals.max() / self._n / gap.abs().mean())


class _Strongest:
    """The numbers with the largest |value| among those that were seen, and which pair and unit each is of."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._value, self._pair, self._unit = np.empty(0), np.empty(0, int), np.empty(0, int)

    def add(self, values: np.ndarray, shard: Shard) -> None:
        """Look at an item's numbers."""
        flat = np.abs(np.nan_to_num(values, nan=0.0)).ravel()
        most = min(self._most, flat.size)
        if not most:
            return
        chosen = np.argpartition(-flat, most - 1)[:most]
        row, column = np.divmod(chosen, values.shape[1])
        found = (values[row, column].astype(float), shard.rows[row], shard.columns[column])
        every = [np.concatenate(pair) for pair in zip((self._value, self._pair, self._unit), found, strict=True)]
        order = np.lexsort((every[2], every[1], -np.abs(every[0])))[: self._most]
        self._value, self._pair, self._unit = (each[order] for each in every)

    def table(self, frame: Scores) -> pd.DataFrame:
        """One row per number: pair, unit's name, effect."""
        import pandas as pd

        names: Sequence[str] = frame.units[self._unit].names if len(self._unit) else []
        return pd.DataFrame({"pair": self._pair, "name": names, "effect": self._value})
