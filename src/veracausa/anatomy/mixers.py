"""Blocks whose positions are not mixed by attention: where the mixer is, and what stands where a block has no sublayer.

A mixer (a state-space layer, a recurrence, a gated convolution, linear attention) takes the place of the attention: it
reads the stream behind the same norm, ends in a linear map (`out`), and writes to the stream. Its channels are the
inputs of that map, as heads' values are an attention's. Unlike an attention it has no keys and values that a run could
go on from: it is run on what it has read before, which every recorded run holds, or from a state that it has come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Mixer:
    """Where a family keeps its mixers, as dotted paths from the block on.

    `module`: the mixer. `out`: its output projection. `heads`: how many heads it has, an attribute of the module; None
    where its channels are not grouped. `state`: numbers that a channel's state has, an attribute of the module, too.
    `gate`: the linear map that gives what each channel is gated with, before any activation, and how many channels
    stand before it in what that gives; None where it is not told apart. `scans`: whether it carries a state from
    position to position, beside what its convolution looks back at. `goes_on`: the argument of a cache from which it
    goes on for any number of tokens; None where it does so for one token alone, or keeps what it carries elsewhere.
    `told_by`: a part that no attention of the family has, where an attention's output projection is called like `out`.

    >>> Mixer("mixer", "mixer.out_proj", heads="num_heads", state="ssm_state_size", gate=("mixer.in_proj", 0))
    """

    module: str
    out: str
    heads: str | None = None
    state: str | None = None
    gate: tuple[str, int] | None = None
    scans: bool = True
    told_by: str | None = None
    goes_on: str | None = None


class NoSublayer(nn.Module):
    """Stands where a block has no attention or mixer, or no MLP: it writes nothing. It is no module of the model."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Zeros."""
        return x.new_zeros(x.shape)
