"""Shares of the gap with their standard errors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Share(NamedTuple):
    """A mean effect as a share of the mean gap, and its standard error over examples (NaN for a single pair)."""

    value: float
    stderr: float

    @property
    def clear(self) -> bool:
        """Whether it is more than two standard errors from 0; a single pair knows no error and is taken as it is."""
        return not abs(self.value) <= 2 * self.stderr

    def __str__(self) -> str:
        spread = f" ± {self.stderr:.3f}" if self.stderr == self.stderr else ""
        return f"{self.value:+.3f}{spread}".replace("-", "−")


def share_of_gap(values: Float[Tensor, "*figures examples"], gap: Float[Tensor, " examples"]) -> list[Share]:
    """Mean of each figure over mean gap; the error of that ratio to first order, sd(x − r · gap) / (√n |mean gap|)."""
    flat, gap = values.reshape(-1, values.shape[-1]).double(), gap.double()
    n, size = len(gap), gap.mean()
    ratio = flat.mean(1) / size
    rest = flat - ratio[:, None] * gap
    spread = rest.std(1) / (n**0.5 * size.abs()) if n > 1 else torch.full_like(ratio, float("nan"))
    return [Share(float(r), float(s)) for r, s in zip(ratio, spread, strict=True)]


def pairs_in_words(n: int) -> str:
    """How many pairs a figure and its error come from: "16 pairs"."""
    return f"{n:,} pairs" if n > 1 else "one pair: no error known"
