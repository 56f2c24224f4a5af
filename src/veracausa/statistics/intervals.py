"""Figures of agreement of two tables of effects, and 95% intervals of them over pairs.

One function computes the figures of the pairs as they are and of every draw. Pairs are drawn anew with replacement (the
same draw for both tables, which are about the same pairs); means of both are taken again over the pairs of the draw
that have the unit (NaN: a pair without that position), divided by the mean gap of these same pairs; a unit that no pair
of the draw has is left out of that draw's figures, as a unit that no pair has is of the figures themselves.

Means of few pairs hold noise, which lowers r, and means of draws hold it twice. So intervals of r and of the slope are
pivotal, 2 · figure − percentiles of the draws (97.5th and 2.5th), r on Fisher's scale; that of Jaccard runs between the
percentiles. Simulated (benchmarks/coverage.py), nominal 95% holds in 90% or more from `LEAST_OF` pairs on (r: in 89, 95
and 96% of three populations at 64), which each compared unit must have; below there is no interval. Spearman's r and
the median |error| hang on the many weak units, which are mostly noise: theirs held in 87% and 80% with as many pairs or
more, so they have none. No interval says anything about units or tasks that were not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from veracausa.statistics.bootstrap import LEAST, with_replacement

if TYPE_CHECKING:
    from jaxtyping import Float

#: Draws of pairs. Ends of a 95% interval are then known to about a tenth of its width.
DRAWS = 400
FIGURES = ("r", "spearman", "slope", "jaccard", "median |error|")

#: Figures that have an interval → fewest pairs that it is given for.
LEAST_OF = {"r": 64, "slope": LEAST, "jaccard": LEAST}

Interval = tuple[float, float]
#: r is taken as this at most, where Fisher's scale ends.
_ONE = 1 - 1e-12
NO_INTERVAL: Interval = (float("nan"), float("nan"))


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
            "slope": _covariances(x, y) / _covariances(x, x) if signed else np.full(len(x), np.nan),
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
    weights = with_replacement(pairs, pairs, draws, seed)
    x, y = (
        shares(values, gap, np.vstack([np.ones((1, pairs)), weights]))  # the pairs as they are, and then the draws
        for values, gap in zip((exact, estimate), gaps, strict=True)
    )
    if not signed:
        x, y = np.abs(x), np.abs(y)
    every = figures(x, y, signed=signed, top=top)
    return found | {name: _interval(name, every[name]) for name, least in LEAST_OF.items() if known >= least}


def fewest(*tables: Float[np.ndarray, "pairs units"]) -> int:
    """The smallest number of pairs that any of the units has in all tables."""
    has = np.logical_and.reduce([~np.isnan(values) for values in tables])
    return int(has.sum(0).min())


def _interval(name: str, found: Float[np.ndarray, " draws"]) -> Interval:
    """The interval of a figure, given it and then its draws; NaN where one of them has no such figure."""
    if not np.isfinite(found).all():
        return NO_INTERVAL
    if name == "jaccard":
        low, high = np.quantile(found[1:], [0.025, 0.975])
        return float(low), float(high)
    scaled = np.arctanh(np.clip(found, -_ONE, _ONE)) if name == "r" else found
    low, high = np.quantile(scaled[1:], [0.025, 0.975])
    ends = 2 * scaled[0] - high, 2 * scaled[0] - low
    low, high = np.tanh(ends) if name == "r" else ends
    return float(low), float(high)


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
