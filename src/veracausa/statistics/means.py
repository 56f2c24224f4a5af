"""Means over examples and their standard errors; NaN: the example has no such number."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def standard_error(values: Float[Tensor, "examples units"]) -> Float[Tensor, " units"]:
    """Standard error of each unit's mean over the examples that have it; NaN where fewer than two do."""
    count = (~values.isnan()).sum(0)
    squares = (values - values.nanmean(0)).square().nansum(0)
    return (squares / (count - 1).clamp_min(0)).sqrt() / count.sqrt()
