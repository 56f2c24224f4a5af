"""Effects of several draws of noise as one: their mean, and its standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def over_draws(values: Tensor, draws: int) -> tuple[Tensor, Tensor | None]:
    """The mean over draws whose columns are side by side, and its standard error; none of a single draw."""
    return mean_of_draws(values.unflatten(1, (draws, -1)).movedim(1, 0))


def mean_of_draws(each: Float[Tensor, "draws examples units"]) -> tuple[Tensor, Tensor | None]:
    """The same of draws that stand behind each other."""
    draws = len(each)
    return (each[0], None) if draws == 1 else (each.mean(0), each.std(0) / draws**0.5)
