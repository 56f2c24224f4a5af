"""Means of the columns of a table that is too large to hold, with their standard errors and shares of a gap; one pass.

Blocks of rows are added one after the other. Of each column five numbers are kept: how many rows have it, the means of
its numbers x, of |x| and of the gap g of these rows, and the sum Σ(x − x̄)². Two blocks with n and m rows and means that
differ by δ have together

    Σ = Σ₁ + Σ₂ + δ² · n·m / (n + m)

(Chan, Golub & LeVeque, The American Statistician 37, 1983), in float64: no large sums are subtracted from each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Numbers of a block that are worked on at once.
_CHUNK = 1 << 20


class Running:
    """Five numbers of every column, of all rows that were added so far; NaN in a row: it has no such x.

    >>> running = Running(300)
    >>> running.add(effects, gap, np.arange(300))
    >>> running.mean, running.stderr(), running.share()
    """

    def __init__(self, columns: int) -> None:
        self.count = np.zeros(columns)
        self._mean, self._size, self._gap = np.zeros(columns), np.zeros(columns), np.zeros(columns)
        self._squares = np.zeros(columns)

    def add(
        self, values: Float[np.ndarray, "rows some"], gap: Float[np.ndarray, " rows"], columns: Int[np.ndarray, " some"]
    ) -> None:
        """Add rows of which these columns are known; each column once."""
        step = max(1, _CHUNK // max(1, values.shape[1]))
        for first in range(0, len(values), step):
            self._add(values[first : first + step].astype(np.float64), gap[first : first + step].astype(float), columns)

    def _add(self, values: np.ndarray, gap: np.ndarray, at: np.ndarray) -> None:
        has = ~np.isnan(values)
        rows = has.sum(0)
        some, size = np.maximum(rows, 1), np.where(has, np.abs(values), 0.0).sum(0)
        mean, middle = np.where(has, values, 0.0).sum(0) / some, (gap @ has) / some
        x = np.where(has, values - mean, 0.0)
        before = self.count[at]
        every = np.maximum(before + rows, 1)
        dx, dg, weight = mean - self._mean[at], middle - self._gap[at], before * rows / every
        self._squares[at] += (x * x).sum(0) + dx * dx * weight
        self._mean[at] += dx * rows / every
        self._gap[at] += dg * rows / every
        self._size[at] += (size - self._size[at] * rows) / every
        self.count[at] = before + rows

    @property
    def mean(self) -> Float[np.ndarray, " columns"]:
        """x̄ over the rows that have x; NaN where none has."""
        return np.where(self.count > 0, self._mean, np.nan)

    @property
    def mean_abs(self) -> Float[np.ndarray, " columns"]:
        """The mean of |x|."""
        return np.where(self.count > 0, self._size, np.nan)

    def stderr(self) -> Float[np.ndarray, " columns"]:
        """Standard error of `mean`; NaN where fewer than two rows have x."""
        return self._error(self._squares)

    def share(self) -> Float[np.ndarray, " columns"]:
        """r = x̄ / ḡ, both over the rows that have x."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.count > 0, self._mean / self._gap, np.nan)

    def _error(self, squares: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.count > 1, np.sqrt(squares / (self.count - 1) / self.count), np.nan)
