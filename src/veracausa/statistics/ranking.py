"""How well a ranking finds what is true: area under the ROC curve and average precision, units of equal score together.

Both walk down the ranking, one step per distinct score. After each step, hits are the true units so far and taken all
units so far; precision = hits / taken, recall = hits / K, false positive rate = (taken − hits) / (N − K), over N units
of which K are true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def auroc(true: Bool[np.ndarray, " units"], scores: Float[np.ndarray, " units"]) -> float:
    """The chance that a true unit scores higher than a false one, ties counted as half (Hanley & McNeil 1982).

    The area under recall against false positive rate, summed in whole numbers, so that only the last division rounds;
    0.5 for a random ranking. Needs a true unit and a false one.

    >>> auroc(np.array([True, False, True]), np.array([3.0, 2.0, 1.0]))
    0.5
    """
    hits, taken = _steps(true, scores)
    wrong, before = np.diff(taken - hits, prepend=0), np.append(0, hits[:-1])
    return float((wrong * (before + hits)).sum() / (2 * hits[-1] * (taken - hits)[-1]))


def average_precision(true: Bool[np.ndarray, " units"], scores: Float[np.ndarray, " units"]) -> float:
    """Σ_k (recall_k − recall_{k−1}) · precision_k down the ranking; K / N for a random one. Needs a true unit.

    >>> average_precision(np.array([True, False, True]), np.array([3.0, 2.0, 1.0])).__round__(3)
    0.833
    """
    hits, taken = _steps(true, scores)
    precision, recall = (hits / taken)[::-1], np.append((hits / hits[-1])[::-1], 0.0)
    return float(max(0.0, -np.sum(np.diff(recall) * precision)))


def _steps(
    true: Bool[np.ndarray, " units"], scores: Float[np.ndarray, " units"]
) -> tuple[Int[np.ndarray, " steps"], Int[np.ndarray, " steps"]]:
    """(true units so far, units so far) at the end of every run of equal scores, highest first."""
    order = np.argsort(scores, kind="stable")[::-1]
    last = np.append(np.nonzero(np.diff(scores[order]))[0], len(scores) - 1)
    return np.cumsum(true[order])[last], last + 1
