"""A mixture of experts: an MLP whose router chooses, token by token, the few experts that add to its output.

    MLP(x) = scale · Σ_j w_j(x) · expert_{c_j(x)}(x) + shared(x),   j = 1 … how many are chosen

The router gives the choice c and the weights w; what is not the chosen experts' is `shared`: an expert that sees every
token, or nothing. The experts' own module is called as it is, so none of its forward code is re-implemented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from veracausa.anatomy.found import Found
from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class _Linear(TorchFunctionMode):
    """What linear maps give passes through `change`."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.seen = change, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is not nn.functional.linear:
            return found
        self.seen += 1
        return self.change(found)


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

    def routing(self, change: Callable[[Tensor], Tensor]) -> list[Any]:
        """Hooks that pass the router's logits through `change`; its own code makes choice and weights of those.

        A router makes its logits by one linear map, wherever its family keeps the weights of it, and in the shape in
        which `change` is given them: [tokens, experts], or with rows and positions apart.

        Raises:
            ArchitectureError: (in the run) a router that does it otherwise.
        """
        entered: list[_Linear] = []

        def enter(*_: Any) -> None:
            entered.append(_Linear(change).__enter__())

        def leave(router: nn.Module, _: Any, __: Any) -> None:
            mode = entered.pop()
            mode.__exit__(None, None, None)
            if mode.seen != 1:
                raise ArchitectureError(
                    f"{type(router).__name__} makes the logits of its experts by {mode.seen} linear maps, not by one, "
                    "so they cannot be told and nothing is returned."
                )

        return [
            self.router.register_forward_pre_hook(enter),
            self.router.register_forward_hook(leave, prepend=True, always_call=True),
        ]
