"""Which tokens a write raises: all logits of what a head, a mixer or an MLP writes, the norms' denominators held.

    ℓ_w = W_Uᵀ · γ ⊙ (C w) / s

of the write w as it arrives at the end, s the run's own (`reading.frozen`); of several positions that are read their
mean. The constants of norm and unembedding are no write's, so they are not in it. Their order is that before any cap.

Cost: one product of every write with the whole unembedding; no block is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.engine.norms import norm_form
from veracausa.engine.writes import mlp_write, output_of, rescaled, shares_of_heads, values_of
from veracausa.reading.both_runs import at_places

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Block
    from veracausa.reading.frozen import Frozen

#: Logits that are held at once.
_LOGITS = 1 << 24


def raised(frozen: Frozen, top: int, without: Sequence[int] = ()) -> Int[Tensor, "examples writes top"]:
    """The tokens that each head, mixer and MLP raises most, in the order of the stream; no MLPs of layers `without`."""
    decoder, unembedding = frozen.decoder, frozen.decoder.unembedding_map.weight
    end = at_places(frozen.bucket, frozen.state.residual[-1])
    form = norm_form(decoder, decoder.final_norm)
    hidden = decoder.final_norm(end.to(frozen.state.residual[-1].dtype)).to(end.dtype)
    inverse, counts = form.inverse(end, hidden), frozen.bucket.read.read.to(end.dtype)
    means = []
    for layer, writes in _writes(frozen, without):
        arrived = form.linear(writes * decoder.scale_between(layer, decoder.layers)) * inverse
        means.append((arrived * counts[..., None]).sum(-2) / counts.sum(-1)[:, None])
    every = torch.cat(means).transpose(0, 1)
    rows = every.flatten(0, 1).split(max(1, _LOGITS // unembedding.shape[1]))
    return torch.cat([(some @ unembedding.to(some.dtype)).topk(top, -1).indices for some in rows]).unflatten(
        0, every.shape[:2]
    )


def _writes(frozen: Frozen, without: Sequence[int]) -> Iterator[tuple[int, Float[Tensor, "writes examples places w"]]]:
    """Writes of each layer's heads or mixers, then of its MLP, at the places that are read."""
    for layer, block in enumerate(frozen.decoder.blocks):
        for part in block.mixers:
            yield layer, _of_heads(frozen, part)
        if block.has_mlp and layer not in without:
            yield layer, at_places(frozen.bucket, mlp_write(frozen.decoder, frozen.state, layer))[None]


def _of_heads(frozen: Frozen, part: Block) -> Float[Tensor, "heads examples places width"]:
    """What each head alone adds: of a norm behind the attention the whole output's scale, no bias."""
    decoder, bucket = frozen.decoder, frozen.bucket
    share = shares_of_heads(decoder, part, at_places(bucket, values_of(frozen.state, part)))
    output = at_places(bucket, output_of(frozen.state, part)).to(frozen.state.residual[-1].dtype)
    return rescaled(decoder, part, share, output)
