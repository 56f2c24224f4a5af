"""Means over examples and their standard errors; NaN: the example has no such number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def standard_error(values: Float[Tensor, "examples units"]) -> Float[Tensor, " units"]:
    """Standard error of each unit's mean over the examples that have it; NaN where fewer than two do."""
    count = (~values.isnan()).sum(0)
    squares = (values - values.nanmean(0)).square().nansum(0)
    return (squares / (count - 1).clamp_min(0)).sqrt() / count.sqrt()


def mean_of_known(values: Float[Tensor, " examples"]) -> float:
    """Mean over the examples that have the number; NaN where none has."""
    return float(values[~values.isnan()].mean())


#: Level of every test, for all units together.
LEVEL = 0.05


def stderr(values: Float[np.ndarray, "examples units"]) -> Float[np.ndarray, " units"]:
    """Standard error of the mean over examples; NaN for a single one."""
    n = len(values)
    return values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1], np.nan)


def differs(values: Float[np.ndarray, "examples units"], bound: float = 0.0) -> Float[np.ndarray, " units"]:
    """p-values of H0: the mean over examples lies within ±`bound` (two-sided)."""
    return np.minimum(1.0, 2 * np.minimum(exceeds(values, bound), exceeds(-values, bound)))


def exceeds(values: Float[np.ndarray, "examples units"], bound: float) -> Float[np.ndarray, " units"]:
    """p-values of H0: the mean over examples is at most `bound`.

    Where all examples agree to the last digit there is nothing to estimate: 0 if they lie beyond the bound, else 1.
    """
    error, above = stderr(values), values.mean(0) - bound
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf(above / error, len(values) - 1)
    return np.where(error == 0, np.where(above > 0, 0.0, 1.0), p)


def within(values: Float[np.ndarray, "examples units"], bound: float) -> Float[np.ndarray, " units"]:
    """p-values of H0: the mean lies at or beyond ±`bound` (equivalence, two one-sided tests)."""
    return np.maximum(exceeds(values, -bound), exceeds(-values, -bound))


def weaker(
    other: Float[np.ndarray, "examples units"], values: Float[np.ndarray, "examples units"], share: float
) -> Float[np.ndarray, " units"]:
    """p-values of H0: |mean of other| is at least `share` · |mean of values|, both of the same examples (two-sided).

    It is less where share · E + E′ and share · E − E′ have one sign, whichever: both must lie beyond 0 on that side.
    Signs of the means are never taken as known, so H0 is rejected in no more than p, whatever both figures are.
    """
    both = share * values + other, share * values - other
    above, below = (np.maximum(*(exceeds(side * one, 0.0) for one in both)) for side in (1, -1))
    return np.minimum(1.0, 2 * np.minimum(above, below))
