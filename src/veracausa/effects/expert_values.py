"""What experts are replaced by, as a sum over those that a row moves: a whole site would be experts · width wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.effects.replacements import Counterfactual, Replacement, Zero
from veracausa.engine.routed import Routed
from veracausa.engine.tape import State, Tape

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def own_sum(
    state: State, layer: int, example: Int[Tensor, " rows"], share: Float[Tensor, "rows experts"]
) -> Float[Tensor, "rows positions width"]:
    """Σ_e share_e · what expert e adds in a run, row by row."""
    return Routed.of(state, layer)[example].summed(share)


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
