"""What each expert adds to its MLP's output, as a tape holds it: of the few that each token has chosen, side by side.

A layer's experts are parts of one site, [B, S, experts · width], which is zero but for the chosen ones and is made only
where nothing less will do; sums of some experts, and products with a gradient, are taken of what the tape holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Routed:
    """The experts of one layer in one run. `slots`: what each choice adds; `choice`: which expert it is, of `count`.

    >>> Routed.of(tape.clean, 5).summed(share)  # [B, S, width]
    """

    slots: Float[Tensor, "examples positions chosen width"]
    choice: Int[Tensor, "examples positions chosen"]
    count: int

    @classmethod
    def of(cls, state: State, layer: int) -> Routed:
        """Those of a recorded run."""
        return cls(state.sites["experts"][layer], state.sites["choice"][layer], state.experts)

    def __getitem__(self, example: Tensor | tuple[Tensor, slice]) -> Routed:
        """Those of some examples (and positions)."""
        return Routed(self.slots[example], self.choice[example], self.count)

    def summed(self, share: Float[Tensor, "examples experts"]) -> Float[Tensor, "examples positions width"]:
        """Σ_e share_e · what expert e adds; each example has shares of its own."""
        own = share.gather(1, self.choice.flatten(1)).view_as(self.choice)
        return torch.einsum("bsk,bskw->bsw", own.to(self.slots), self.slots)

    def taken(self, taken: Tensor) -> Float[Tensor, "examples positions width"]:
        """What the experts add that are `taken` [examples, positions, experts]."""
        own = taken.gather(-1, self.choice)
        return torch.einsum("bsk,bskw->bsw", own.to(self.slots), self.slots)

    def site(self) -> Float[Tensor, "examples positions site"]:
        """What every expert adds, side by side, [B, S, experts · width]."""
        width = self.slots.shape[-1]
        found = self.slots.new_zeros(*self.choice.shape[:2], self.count, width)
        found.scatter_add_(2, self.choice[..., None].expand(-1, -1, -1, width), self.slots)
        return found.flatten(2)

    def products(
        self, gradient: Float[Tensor, "examples positions width"]
    ) -> Float[Tensor, "examples positions experts"]:
        """What every expert adds times a gradient, summed over the width."""
        products = torch.einsum("bskw,bsw->bsk", self.slots.to(gradient), gradient)
        return products.new_zeros(*self.choice.shape[:2], self.count).scatter_add_(2, self.choice, products)


def inside(
    state: State, layer: int, example: Int[Tensor, " rows"], expert: Int[Tensor, " rows"], neuron: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, "rows positions"], Float[Tensor, "rows positions"]]:
    """The activation of a neuron of an expert, row by row, and the expert's weight: 0 where it is not chosen."""
    chosen = state.sites["choice"][layer][example] == expert[:, None, None]
    activations = state.sites["inside"][layer][example, :, :, neuron]
    return (activations * chosen).sum(-1), (state.sites["weights"][layer][example] * chosen).sum(-1)


def inside_site(state: State, layer: int) -> Float[Tensor, "examples positions site"]:
    """The activations of every expert's neurons, side by side, [B, S, experts · neurons]; 0 where one is not chosen."""
    inside, choice = state.sites["inside"][layer], state.sites["choice"][layer]
    found = inside.new_zeros(*choice.shape[:2], state.experts, inside.shape[-1])
    return found.scatter_add_(2, choice[..., None].expand_as(inside), inside).flatten(2)


def inside_all(
    state: State, layer: int, expert: Int[Tensor, " units"], neuron: Int[Tensor, " units"]
) -> tuple[Float[Tensor, "examples positions units"], Float[Tensor, "examples positions units"]]:
    """The same of several neurons in every example."""
    chosen = state.sites["choice"][layer][..., None] == expert
    activations, weights = state.sites["inside"][layer][..., neuron], state.sites["weights"][layer][..., None]
    return (activations * chosen).sum(2), (weights * chosen).sum(2)
