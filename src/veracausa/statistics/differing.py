"""Whether figures of two sets of examples differ: means, or shares of a mean gap, unit by unit.

A figure f with influences uᵢ (what example i adds to n · (f − its true value), to first order; of a mean, xᵢ − mean;
of a share, `ratios.influences`) has SE(f) = sd(u) / √n. For two figures, f of one set and f′ of another:

    paired (the same examples):  SE = sd(u′ᵢ − uᵢ) / √n                 t with n − 1 degrees of freedom
    unpaired:                    SE² = SE(f)² + SE(f′)²                  Welch's degrees of freedom,
                                 SE⁴ / (SE(f)⁴ / (n − 1) + SE(f′)⁴ / (n′ − 1))

p is of H0: the figures are equal (two-sided). For means these are Student's paired test and Welch's. Where nothing
varies, p is 0 for figures that differ and 1 for equal ones; NaN where no error is known, as for a single example.

Unpaired, p is NaN with fewer than `LEAST` examples on either side, too: skewed numbers shift t where sets are small or
of unequal sizes. At 5%, equal means of exponential numbers are told apart in up to 14% of draws of 4 against 4 to 64
and 11% of 8, lognormal ones in 19% and 17%; from 16 on both sides in 8% and 14%, normal ones in 5%
(tests/statistics/test_differing.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from veracausa.statistics.bootstrap import LEAST

if TYPE_CHECKING:
    from jaxtyping import Float


class Differences(NamedTuple):
    """The second set's figures − the first's, their standard errors, and p: [units] each."""

    value: Float[np.ndarray, " units"]
    stderr: Float[np.ndarray, " units"]
    p: Float[np.ndarray, " units"]


def differences(
    figures: tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]],
    influences: tuple[Float[np.ndarray, "examples units"], Float[np.ndarray, "examples units"]],
    *,
    paired: bool,
) -> Differences:
    """The second of two sets of figures − the first; influences are NaN where an example lacks the unit.

    >>> differences((one.mean(0), other.mean(0)), (one - one.mean(0), other - other.mean(0)), paired=True).p
    """
    value = figures[1] - figures[0]
    if paired:
        variance, count = variance_of_mean(influences[1] - influences[0])
        freedom, enough = count - 1.0, count > 1
    else:
        (one, n), (other, m) = map(variance_of_mean, influences)
        variance, enough = one + other, np.minimum(n, m) >= LEAST
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = variance**2 / (one**2 / (n - 1) + other**2 / (m - 1))
    error = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    p = np.where(error == 0, np.where(value == 0, 1.0, 0.0), p)
    return Differences(value, error, np.where(enough, p, np.nan))


def few_apart(n: int, m: int) -> str:
    """Why sets of n and m other examples are not tested against each other, where one has fewer than `LEAST`.

    >>> few_apart(4, 40)
    '4 pairs against 40 other ones, and Welch’s test holds its level from 16 on each side on'
    """
    return f"{n:,} pairs against {m:,} other ones, and Welch’s test holds its level from {LEAST} on each side on"


def variance_of_mean(values: Float[np.ndarray, "examples units"]) -> tuple[np.ndarray, np.ndarray]:
    """SE² of the mean of each column's numbers, NaN under two of them; and how many these are."""
    has = np.isfinite(values)
    count = has.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.where(has, values, 0.0).sum(0) / count
        squares = (np.where(has, values - middle, 0.0) ** 2).sum(0)
        return np.where(count > 1, squares / (count - 1) / count, np.nan), count
