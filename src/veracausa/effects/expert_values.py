"""What experts are replaced by, as a sum over those that a row moves: a whole site would be experts · width wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.replacements import Counterfactual, Replacement, Resample, Zero
from veracausa.engine.routed import Routed, inside
from veracausa.engine.tape import State, Tape
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
    source: Replacement,
    tape: Tape,
    layer: int,
    example: Int[Tensor, " rows"],
    index: Int[np.ndarray, " rows"],
    draws: Int[np.ndarray, "rows 3"] | None = None,
) -> Float[Tensor, "rows positions"]:
    """What these activations are replaced by; where an expert is not chosen, its neurons are 0 in whatever run.

    `draws`: what a donor is drawn by, as `Units.draws`; None: by layer and index.
    """
    if isinstance(source, Counterfactual):
        return own_neurons(source.state(tape), layer, example, index)[0]
    if isinstance(source, Zero):
        return torch.zeros_like(tape.clean.residual[layer][example, :, 0])
    column = torch.as_tensor(column_of(tape.clean, layer, index), device=example.device)
    if isinstance(source, Resample):
        keys = [(layer + 1, int(one) + 1, 0) for one in index] if draws is None else draws.tolist()
        return source.numbers(tape, layer, example, keys, column)
    every = source.rows(tape, "expert_neurons", layer, example, None)
    return every[torch.arange(len(example), device=example.device), :, column]


def column_of(state: State, layer: int, index: Int[np.ndarray, " units"]) -> Int[np.ndarray, " units"]:
    """Which number of the site of all experts' neurons each of these is."""
    expert, neuron = inside_of(index)
    found: np.ndarray = expert * state.sites["inside"][layer].shape[-1] + neuron
    return found


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
