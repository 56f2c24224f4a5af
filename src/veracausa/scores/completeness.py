"""How far scores add up to the true change that they should add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Completeness:
    """Σ of scores against the true change that they should add up to, per layer and example.

    `claimed`, `true`: [layers, examples], in units of the metric. The residual is the quadrature's error: it falls as
    nodes are added.
    """

    claimed: Float[Tensor, "layers examples"]
    true: Float[Tensor, "layers examples"]

    @property
    def residual(self) -> Float[Tensor, " layers"]:
        """Mean over examples of |Σ scores − true change|, layer by layer: opposite signs do not cancel."""
        return (self.claimed - self.true).abs().mean(1)

    def shares(self, gap: Float[Tensor, " examples"]) -> Float[Tensor, " layers"]:
        """Mean |residual| / mean |gap|, layer by layer; infinite where every gap is 0 and something is left."""
        return self.residual / gap.abs().mean()

    def relative(self, gap: Float[Tensor, " examples"]) -> float:
        """The largest mean |residual| of any layer, in units of the mean |gap|."""
        return float(self.shares(gap).max())
