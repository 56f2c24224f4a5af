"""Sums over rows of a run: over the points of a path, say, with their weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class RowSums:
    """Sums over rows of a run: `weights[r]` times row r is added to place `into[r]` of `count`.

    Rows of one place stand together. A run that has the first rows alone has its own sums (`of_first`).
    """

    into: Int[Tensor, " rows"]
    weights: Float[Tensor, " rows"]
    count: int

    @classmethod
    def apart(cls, rows: int, device: torch.device) -> RowSums:
        """No sums: every row has its own place."""
        return cls(torch.arange(rows, device=device), torch.ones(rows, device=device), rows)

    def of_first(self, rows: int) -> RowSums:
        """Those of the first so many rows, which are all rows of their places."""
        if rows == len(self.into):
            return self
        return RowSums(self.into[:rows], self.weights[:rows], int(self.into[rows - 1]) + 1 if rows else 0)

    @cached_property
    def single(self) -> bool:
        """Whether each place has one row."""
        return len(self.into) == self.count

    def weighted(self, x: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        """Every row times its weight."""
        return x * self.weights.to(x).reshape(-1, *[1] * (x.ndim - 1))

    def summed(self, x: Float[Tensor, "rows ..."]) -> Float[Tensor, "places ..."]:
        """Sums of rows that have their weights already."""
        return x if self.single else x.new_zeros(self.count, *x.shape[1:]).index_add_(0, self.into, x)

    def beside(self, x: Float[Tensor, "rows ..."]) -> Float[Tensor, "places most ..."]:
        """Rows of one place beside one another, filled up with zeros."""
        first = torch.searchsorted(self.into, self.into)
        rank = torch.arange(len(self.into), device=first.device) - first
        found = x.new_zeros(self.count, int(rank.max()) + 1, *x.shape[1:])
        found[self.into, rank] = x
        return found
