"""Intervals of agreement: how far its figures depend on which pairs were drawn.

Pairs are drawn anew with replacement (the same draw for the estimate and for the exact effects, which are about the
same pairs), both scores are averaged and normalised again, and the figures are taken again. An interval runs from the
2.5th to the 97.5th percentile of these. It says nothing about units or tasks that were not looked at.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats

#: Draws of pairs. Ends of a 95% interval are then known to about a tenth of its width.
DRAWS = 400

Interval = tuple[float, float]


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
    """95% bootstrap intervals over pairs of "r", "spearman", "slope", "jaccard", "median |error|".

    `exact`, `estimate`: effects of the same units, pair by pair; `gaps`: the gaps that they are shares of. NaN for a
    single pair: it cannot tell how another would have come out.

    >>> agreement_intervals(exact, estimate, (gap, gap), signed=True, top=10)["r"]
    """
    pairs = len(exact)
    names = ("r", "spearman", "slope", "jaccard", "median |error|")
    if pairs < 2:
        return dict.fromkeys(names, (float("nan"), float("nan")))
    counts = np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), size=draws).astype(float)
    x, y = (counts @ scores / (counts @ gap)[:, None] for scores, gap in zip((exact, estimate), gaps, strict=True))
    if not signed:
        x, y = np.abs(x), np.abs(y)
    figures = {
        "r": _correlations(x, y),
        "spearman": _correlations(stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)),
        "slope": _covariances(x, y) / _covariances(x, x) if signed else np.full(draws, np.nan),
        "jaccard": _jaccards(np.abs(x), np.abs(y), top),
        "median |error|": np.median(np.abs(y - x), axis=1),
    }
    return {name: _middle(figures[name]) for name in names}


def _middle(drawn: Float[np.ndarray, " draws"]) -> Interval:
    """From the 2.5th to the 97.5th percentile; NaN where a draw has no such figure."""
    if not np.isfinite(drawn).all():
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _covariances(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " draws"]:
    return np.asarray(((x - x.mean(1, keepdims=True)) * (y - y.mean(1, keepdims=True))).mean(1))


def _correlations(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " draws"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_covariances(x, y) / np.sqrt(_covariances(x, x) * _covariances(y, y)))


def _jaccards(x: np.ndarray, y: np.ndarray, top: int) -> Float[np.ndarray, " draws"]:
    tops = [np.argsort(-values, axis=1, kind="stable")[:, :top] for values in (x, y)]
    found = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(*(t.tolist() for t in tops), strict=True)]
    return np.array(found)
