"""Figures of agreement of two tables of effects, and 95% intervals of them over pairs.

One function computes the figures of the pairs as they are and of every draw. Pairs are drawn anew with replacement (the
same draw for both tables, which are about the same pairs); means of both are taken again over the pairs of the draw
that have the unit (NaN: a pair without that position), divided by the mean gap of these same pairs; a unit that no pair
of the draw has is left out of that draw's figures, as a unit that no pair has is of the figures themselves.

Means of few pairs hold noise, which lowers r and the slope. So their intervals are Tukey's jackknife, r on Fisher's
scale: with θ₋ᵢ the figure without pair i, and θ̄ the mean of these,

    n · θ − (n − 1) · θ̄ ± t · √((n − 1) / n · Σ (θ₋ᵢ − θ̄)²)          t: Student's, n − 1 degrees of freedom

which takes out what noise does to first order. Where noise is more than that, no interval of so few pairs holds: there
is none unless both tables are `reliability` .95 or more. That of Jaccard runs between percentiles of bootstrap draws.
Drawn from populations of real effects (benchmarks/coverage.py), nominal 95% then holds in 90% or more from `LEAST_OF`
pairs on, which each compared unit must have; below there is no interval. Spearman's r and the median |error| hang on
the many weak units, which are mostly noise: theirs held in 87% and 80% with as many pairs or more, so they have none.
No interval says anything about units or tasks that were not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from veracausa.statistics.bootstrap import with_replacement
from veracausa.statistics.ratios import ratios

if TYPE_CHECKING:
    from jaxtyping import Float

#: Draws of pairs. Ends of a 95% interval are then known to about a tenth of its width.
DRAWS = 400
FIGURES = ("r", "spearman", "slope", "jaccard", "median |error|")

#: Figures that have an interval → fewest pairs that it is given for.
LEAST_OF = {"r": 64, "slope": 64, "jaccard": 32}
#: Share of the spread of units' means that must be more than noise of the pairs, for an interval of r or of the slope.
RELIABLE = 0.95

Interval = tuple[float, float]
#: r is taken as this at most, where Fisher's scale ends.
_ONE = 1 - 1e-12
NO_INTERVAL: Interval = (float("nan"), float("nan"))
#: Numbers of one block of shares without single pairs.
_BLOCK = 4_000_000


def shares(
    values: Float[np.ndarray, "pairs units"],
    gap: Float[np.ndarray, " pairs"],
    weights: Float[np.ndarray, "draws pairs"],
) -> Float[np.ndarray, "draws units"]:
    """Weighted mean effect over weighted mean gap, both over the pairs that have the unit; NaN where none has it."""
    has = ~np.isnan(values)
    above = weights @ np.where(has, values, 0.0)
    below = (weights @ gap)[:, None] if has.all() else weights @ (gap[:, None] * has)
    there = np.ones((1, 1), bool) if has.all() else weights @ has > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, above / below, np.nan)


def figures(
    x: Float[np.ndarray, "draws units"], y: Float[np.ndarray, "draws units"], *, signed: bool, top: int
) -> dict[str, Float[np.ndarray, " draws"]]:
    """The `FIGURES` of every draw, over the units that both have a number for; see `scores.agreement`.

    Not `signed`: x and y are magnitudes, which have no slope.
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y = (np.where(both, values, np.nan) for values in (x, y))
    ranks = [np.where(both, stats.rankdata(np.where(both, v, np.inf), axis=1), np.nan) for v in (x, y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "r": _correlations(x, y),
            "spearman": _correlations(*ranks),
            "slope": _slopes(x, y) if signed else np.full(len(x), np.nan),
            "jaccard": _jaccards(np.abs(x), np.abs(y), top),
            "median |error|": np.nanmedian(np.abs(y - x), axis=1) if both.any(1).all() else np.full(len(x), np.nan),
        }


def agreement_intervals(
    exact: Float[np.ndarray, "pairs units"],
    estimate: Float[np.ndarray, "pairs units"],
    gaps: tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]],
    *,
    signed: bool,
    top: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """95% intervals over pairs of the `FIGURES`, NaN where there is none; see the module.

    `exact`, `estimate`: effects of the same units, pair by pair; `gaps`: what each is divided by (ones: by nothing).

    >>> agreement_intervals(exact, estimate, (gap, gap), signed=True, top=10)["r"]
    """
    pairs, known = len(exact), fewest(exact, estimate)
    found = dict.fromkeys(FIGURES, NO_INTERVAL)
    if known < min(LEAST_OF.values()):
        return found
    tables = tuple(zip((exact, estimate), gaps, strict=True))
    if known >= LEAST_OF["jaccard"]:
        weights = with_replacement(pairs, pairs, draws, seed)
        x, y = (np.abs(shares(values, gap, weights)) for values, gap in tables)
        found["jaccard"] = _percentiles(_jaccards(x, y, top))
    if known >= LEAST_OF["r"] and min(reliability(*table) for table in tables) >= RELIABLE:
        found |= {name: _jackknifed(name, each) for name, each in _without_each(tables, signed).items()}
    return found


def reliability(values: Float[np.ndarray, "pairs units"], gap: Float[np.ndarray, " pairs"]) -> float:
    """1 − mean SE² / variance over units, of units' shares: how much of their spread is more than noise of the pairs.

    1: every pair says the same of every unit; 0 or below: units differ by no more than chance. NaN: no error is known.
    """
    found, error, _ = (each.numpy() for each in ratios(torch.from_numpy(values), torch.from_numpy(gap)))
    spread = float(found.var())
    return 1 - float(np.square(error).mean()) / spread if spread > 0 else float("nan")


def _without_each(tables: Any, signed: bool) -> dict[str, Float[np.ndarray, " rows"]]:
    """r and, if signed, the slope over all pairs, and then without each one of them."""
    pairs, units = tables[0][0].shape
    each, rows = np.vstack([np.ones((1, pairs)), 1 - np.eye(pairs)]), max(1, _BLOCK // units)
    r, slope = [], []
    for first in range(0, len(each), rows):
        x, y = (shares(values, gap, each[first : first + rows]) for values, gap in tables)
        with np.errstate(invalid="ignore", divide="ignore"):
            r.append(_correlations(x, y) if signed else _correlations(np.abs(x), np.abs(y)))
            slope.append(_slopes(x, y))
    return {"r": np.concatenate(r)} | ({"slope": np.concatenate(slope)} if signed else {})


def fewest(*tables: Float[np.ndarray, "pairs units"]) -> int:
    """The smallest number of pairs that any of the units has in all tables."""
    has = np.logical_and.reduce([~np.isnan(values) for values in tables])
    return int(has.sum(0).min())


def _percentiles(draws: Float[np.ndarray, " draws"]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _jackknifed(name: str, found: Float[np.ndarray, " rows"]) -> Interval:
    """The interval of a figure, given it and then itself without each pair; NaN where one has no such figure."""
    if not np.isfinite(found).all():
        return NO_INTERVAL
    scaled = np.arctanh(np.clip(found, -_ONE, _ONE)) if name == "r" else found
    n, without = len(found) - 1, scaled[1:]
    middle = n * scaled[0] - (n - 1) * without.mean()
    half = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    ends = np.array([middle - half, middle + half])
    low, high = np.tanh(ends) if name == "r" else ends
    return float(low), float(high)


def _slopes(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " draws"]:
    return np.asarray(_covariances(x, y) / _covariances(x, x))


def _covariances(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " draws"]:
    count = np.isfinite(x).sum(1)
    dx, dy = (v - (np.nansum(v, 1) / count)[:, None] for v in (x, y))
    return np.asarray(np.nansum(dx * dy, 1) / count)


def _correlations(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " draws"]:
    return np.asarray(_covariances(x, y) / np.sqrt(_covariances(x, x) * _covariances(y, y)))


def _jaccards(x: np.ndarray, y: np.ndarray, top: int) -> Float[np.ndarray, " draws"]:
    """|∩| / |∪| of the units with the `top` largest x and y; equal ones in the table's order."""
    tops = []
    for values in (x, y):
        first = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=1, kind="stable")[:, :top]
        chosen = np.zeros(values.shape, bool)
        np.put_along_axis(chosen, first, True, axis=1)
        tops.append(chosen & np.isfinite(values))
    return np.asarray((tops[0] & tops[1]).sum(1) / (tops[0] | tops[1]).sum(1))
