"""What experts are replaced by, as a sum over those that a row moves: a whole site would be experts · width wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.replacements import Counterfactual, Replacement, Zero
from veracausa.engine.routed import Routed, inside
from veracausa.engine.tape import State, Tape
from veracausa.errors import MethodError
from veracausa.units.kinds import inside_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def own_sum(
    state: State, layer: int, example: Int[Tensor, " rows"], share: Float[Tensor, "rows experts"]
) -> Float[Tensor, "rows positions width"]:
    """Σ_e share_e · what expert e adds in a run, row by row."""
    return Routed.of(state, layer)[example].summed(share)


def own_neurons(
    state: State, layer: int, example: Int[Tensor, " rows"], index: Int[np.ndarray, " rows"]
) -> tuple[Float[Tensor, "rows positions"], Float[Tensor, "rows positions"]]:
    """The activation of each row's neuron within an expert, and that expert's weight; 0 where it is not chosen."""
    expert, neuron = (torch.as_tensor(one, device=example.device) for one in inside_of(index))
    return inside(state, layer, example, expert, neuron)


def new_neurons(
    source: Replacement, tape: Tape, layer: int, example: Int[Tensor, " rows"], index: Int[np.ndarray, " rows"]
) -> Float[Tensor, "rows positions 1"]:
    """What these activations are replaced by: those of the other run (0 where it does not choose the expert), or 0."""
    if isinstance(source, Counterfactual):
        return own_neurons(source.state(tape), layer, example, index)[0][..., None]
    if not isinstance(source, Zero):
        raise MethodError("A neuron of an expert is replaced by what it is in the other run, or by 0.")
    return torch.zeros_like(tape.clean.residual[layer][example, :, :1])


def new_sum(
    source: Replacement,
    tape: Tape,
    layer: int,
    example: Int[Tensor, " rows"],
    unit: Int[Tensor, " rows"],
    share: Float[Tensor, "rows experts"],
) -> Float[Tensor, "rows positions width"]:
    """The same of what the experts are replaced by; `unit`: as for `Replacement.rows`."""
    if isinstance(source, Counterfactual):
        return own_sum(source.state(tape), layer, example, share)
    if isinstance(source, Zero):
        return torch.zeros_like(tape.clean.sites["mlp"][layer][example])
    values = source.rows(tape, "experts", layer, example, unit).unflatten(-1, (share.shape[1], -1))
    return torch.einsum("re,rsew->rsw", share.to(values), values)
