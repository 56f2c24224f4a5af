"""A mixture of experts: an MLP whose router chooses, token by token, the few experts that add to its output.

    MLP(x) = scale · Σ_j w_j(x) · expert_{c_j(x)}(x) + shared(x),   j = 1 … how many are chosen

The router gives the choice c and the weights w; what is not the chosen experts' is `shared`: an expert that sees every
token, or nothing. The experts' own module is called as it is, so none of its forward code is re-implemented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from veracausa.anatomy.anatomy import part_of
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


class _Down(TorchFunctionMode):
    """What each expert's down projection is multiplied with, as a call of the experts gets there."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.current, self.seen = weights, (-1, weights), dict[int, Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        expert, taken = self.current
        if expert >= 0 and len(args) > 1 and args[1] is taken:
            self.seen[expert], self.current = args[0], (-1, self.weights)
        found = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__ and _same(args[0], self.weights):
            self.current = int(args[1]), found
        return found


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether both are one tensor, or views of one that look at the same."""
    return one is other or (one.shape == other.shape and one.data_ptr() == other.data_ptr())


@contextmanager
def _one_by_one(experts: nn.Module) -> Iterator[None]:
    """Experts that are called one after the other, as their family writes it, not by one grouped product."""
    config: Any = getattr(experts, "config", None)
    before = getattr(config, "_experts_implementation", None)
    try:
        if before is not None:
            config._experts_implementation = "eager"
        yield
    finally:
        if before is not None:
            config._experts_implementation = before


@dataclass(frozen=True, eq=False)
class Mixture:
    """The experts of one block's MLP.

    `experts`: the module that is called with tokens, each one's choice and weights. `router`: the module that makes
    these. `has_shared`: whether an expert that sees every token stands beside them. `scale`: what the MLP multiplies
    the experts' sum with. `below`: where the down projections lie below one another; see `Anatomy.experts_down`.
    """

    experts: nn.Module
    router: nn.Module
    has_shared: bool
    scale: float
    below: str | None = None

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
        return self.scale * self._apart(found, tokens, choice, weights).unflatten(0, choice.shape)

    def _apart(self, found: Found, tokens: Tensor, choice: Tensor, weights: Tensor) -> Tensor:
        """What the experts' own module gives for one choice a token, [tokens · chosen, width]."""
        each = tokens.repeat_interleave(choice.shape[1], 0)
        output: Tensor = found.run(self.experts, each, choice.reshape(-1, 1), weights.reshape(-1, 1))
        return output.reshape(each.shape)

    @property
    def neurons(self) -> int:
        """How many neurons an expert has; 0 where its down projection is not told."""
        down = self._down
        return int(down.shape[1 if self._turned else 2]) if isinstance(down, Tensor) and down.ndim == 3 else 0

    @property
    def _turned(self) -> bool:
        return self.below is not None or bool(getattr(self.experts, "is_transposed", False))

    @property
    def _down(self) -> Any:
        """The experts' down projections, [experts, width, neurons], or turned; None where they are not told."""
        found = part_of(self.experts, self.below or "down_proj")
        return found if self.below is None else found.view(self.count, -1, found.shape[-1])

    def written(self, expert: Int[Tensor, " rows"], neuron: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """What neurons of experts write, at a routing weight of 1: their part of the down projection, times `scale`."""
        down = self._down
        return self.scale * (down[expert, neuron] if self._turned else down[expert, :, neuron])

    def summed(
        self, choice: Int[Tensor, " tokens"], inside: Float[Tensor, "tokens neurons"]
    ) -> Float[Tensor, "tokens width"]:
        """What all neurons of one expert a token write, together; see `written`."""
        down = self._down
        found = inside.new_zeros(len(choice), down.shape[2 if self._turned else 1])
        for expert in choice.unique().tolist():
            own = down[expert] if self._turned else down[expert].T
            found[choice == expert] = inside[choice == expert] @ own.to(inside)
        return self.scale * found

    @torch.no_grad()
    def activations(
        self,
        found: Found,
        tokens: Float[Tensor, "tokens width"],
        choice: Int[Tensor, "tokens chosen"],
        weights: Float[Tensor, "tokens chosen"],
    ) -> Float[Tensor, "tokens chosen neurons"]:
        """The activations of each chosen expert's neurons, before its down projection; see `contributions`.

        Raises:
            ArchitectureError: an expert that was chosen multiplies nothing with its down projection.
        """
        if self._down.is_meta:
            raise ArchitectureError(
                f"The weights of {type(self.experts).__name__} are offloaded, and neurons within experts need them in "
                "place. Load the model on one device, or ask for whole experts."
            )
        with _one_by_one(self.experts), _Down(self._down) as down:
            self._apart(found, tokens, choice, weights)
        inside = tokens.new_zeros(*choice.shape, self.neurons)
        for expert in choice.unique().tolist():
            if expert not in down.seen:
                raise ArchitectureError(
                    f"{type(self.experts).__name__} does not multiply an expert's activations with its `down_proj`, so "
                    "neurons within experts cannot be told and nothing is returned."
                )
            inside[choice == expert] = down.seen[expert]
        return inside

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
