"""Two results side by side, the slow way: every figure as a function of the pairs' weights, moved one weight at a time.

What pair i adds to n · (figure − its true value) is, to first order, n · ∂figure/∂wᵢ at equal weights wᵢ = 1/n (the
infinitesimal jackknife). Derivatives are central differences; sums, tests and Holm's correction are loops.
"""

from __future__ import annotations

import math

from scipy import stats

STEP = 1e-5


def figure(values: list[float], gap: list[float] | None, weights: list[float]) -> float:
    """Mean of the values, or Σ w x / Σ w g; pairs without the unit (NaN) are left out."""
    kept = [i for i, value in enumerate(values) if value == value]
    below = sum(weights[i] * (1.0 if gap is None else gap[i]) for i in kept)
    return sum(weights[i] * values[i] for i in kept) / below


def moved(values: list[float], gap: list[float] | None) -> list[float]:
    """Each pair's influence, by moving its weight; nothing of pairs without the unit."""
    n = sum(value == value for value in values)
    found = []
    for i, value in enumerate(values):
        if value == value:
            ends = []
            for sign in (1, -1):
                weights = [1 / n] * len(values)
                weights[i] += sign * STEP
                ends.append(figure(values, gap, weights))
            found.append((ends[0] - ends[1]) / (2 * STEP))
    return found


def variance(numbers: list[float]) -> float:
    """Of their mean."""
    n = len(numbers)
    middle = sum(numbers) / n
    return sum((x - middle) ** 2 for x in numbers) / (n - 1) / n


def tested(one, other, gaps, paired: bool) -> tuple[float, float, float]:
    """Difference, standard error and p of one unit: `one`, `other` its values, `gaps` both gaps or two None."""
    value = figure(other, gaps[1], [1.0] * len(other)) - figure(one, gaps[0], [1.0] * len(one))
    first, second = moved(one, gaps[0]), moved(other, gaps[1])
    if paired:
        squared = variance([b - a for a, b in zip(first, second, strict=True)])
        freedom = len(first) - 1
    else:
        a, b = variance(first), variance(second)
        squared = a + b
        freedom = 1.0 if squared == 0 else squared**2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    error = math.sqrt(squared)
    if not any(first + second):  # nothing moves either
        return value, error, 1.0 if value == 0 else 0.0
    return value, error, 2 * (1 - stats.t.cdf(abs(value) / error, freedom))


def holm(p: list[float]) -> list[float]:
    """The smallest times m, the next times m − 1, …; none under an earlier one, none over 1."""
    order, corrected, largest = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(p) - k)))
        corrected[i] = largest
    return corrected


def ranks(values: list[float]) -> list[int]:
    """1 + how many are larger in size."""
    return [1 + sum(abs(other) > abs(value) for other in values) for value in values]
