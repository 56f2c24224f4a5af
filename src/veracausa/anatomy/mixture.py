"""A mixture of experts: an MLP whose router chooses, token by token, the few experts that add to its output.

    MLP(x) = scale · Σ_j w_j(x) · expert_{c_j(x)}(x) + shared(x),   j = 1 … how many are chosen

The router gives the choice c and the weights w; what is not the chosen experts' is `shared`: an expert that sees every
token, or nothing. The experts' own module is called as it is, so none of its forward code is re-implemented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy.found import Found

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Mixture:
    """The experts of one block's MLP.

    `experts`: the module that is called with tokens, each one's choice and weights. `router`: the module that makes
    these. `has_shared`: whether an expert that sees every token stands beside them. `scale`: what the MLP multiplies
    the experts' sum with.
    """

    experts: nn.Module
    router: nn.Module
    has_shared: bool
    scale: float

    @property
    def count(self) -> int:
        """How many experts there are, without the shared one."""
        return int(self.experts.num_experts)  # type: ignore[arg-type]

    @property
    def chosen(self) -> int:
        """How many of them each token takes."""
        return int(getattr(self.router, "top_k", self.count))

    @torch.no_grad()
    def contributions(
        self,
        found: Found,
        tokens: Float[Tensor, "tokens width"],
        choice: Int[Tensor, "tokens chosen"],
        weights: Float[Tensor, "tokens chosen"],
    ) -> Float[Tensor, "tokens chosen width"]:
        """What each chosen expert adds to the MLP's output, by calling the experts with one choice a token.

        It costs as much as the experts' own call. `found`: how the user left the module, whose hooks are a part of it.

        >>> block.mixture.contributions(block.found, *args).sum(1)  # the experts' output, times `scale`
        """
        each = tokens.repeat_interleave(choice.shape[1], 0)
        output = found.run(self.experts, each, choice.reshape(-1, 1), weights.reshape(-1, 1))
        return self.scale * output.unflatten(0, choice.shape)
