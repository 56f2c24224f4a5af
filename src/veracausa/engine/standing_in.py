"""A recorded tensor that stands in a run's graph for what was made before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class StandingIn(torch.autograd.Function):
    """`output`, bit for bit, whose gradient goes to `kept` in its place, a sum of it and of constants.

    So the gradient reaches what is kept, and from there what it was made of.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, kept: Tensor) -> Tensor:
        """See above."""
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """See above."""
        return None, gradient
