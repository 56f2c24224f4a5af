"""The statistics of task accuracy: numbers in, intervals and p-values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

if TYPE_CHECKING:
    from jaxtyping import Float


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of `right` among n ≥ 1, without continuity correction (Wilson 1927).

    It stays within [0, 1], and 95% hold in 90% or more of draws for all shares but some 2% of them, next to 0 and 1 (in
    84% at the worst), where p̂ ± 1.96 SE falls to nothing.
    """
    interval = binomtest(right, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(lost: int, gained: int) -> float:
    """Exact p-value of H0: as many right answers become wrong as wrong ones right (McNemar 1947).

    Both models saw the same prompts, so only those on which they differ say anything:
    lost ~ Binomial(lost + gained, ½), two-sided. No prompt on which they differ: 1.
    """
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def holm(p: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """p-values corrected for their number (Holm 1979); valid however the tests depend on each other.

    The k-th smallest of m is multiplied by m − k + 1, and none ends below a smaller one.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    corrected = np.empty_like(values)
    corrected[order] = stepped
    return corrected


def paired_error(lost: int, gained: int, n: int) -> float:
    """Standard error of a difference of two accuracies on the same n prompts, (gained − lost) / n; NaN for n = 1."""
    if n < 2:
        return float("nan")
    share = (gained - lost) / n
    return float(np.sqrt(((lost + gained) / n - share**2) / (n - 1)))
