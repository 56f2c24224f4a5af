"""What each writer adds to the residual stream, and how that differs between two runs.

    input: the embeddings;   head h: z_h W_O^h, also of a mixer (one without heads: z W_O);   MLP: its output

with post-norms (Gemma) the share of each head in the normalised sum, scaled by the realised norm, so that all writes
and the constants (output biases) add up to the stream. A bias in front of a post-norm is scaled by it, too, and so no
constant: each of H heads has an H-th of it, z_h W_O^h + b / H. Where the stream is scaled behind blocks, a later place
holds a write times the scales between (`arriving`). Everything is made of ordinary operations of recorded tensors,
so writes carry gradients and tangents when a run does. Sums are taken in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.anatomy.graph import HEAD, INPUT, WRITER_MIXER
from veracausa.engine.norms import norm_form
from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: What a tape must hold of a run so that its writes can be told.
SITES = ("z", "attention", "channels", "mixed", "mlp")


def values_of(state: State, part: Block) -> Tensor:
    """What the output projection of an attention or a mixer reads in a recorded run: heads' values, or channels."""
    return state.sites["channels" if part.mixing == "mixer" else "z"][part.layer]


def output_of(state: State, part: Block) -> Tensor:
    """What the output projection of an attention or a mixer gives in a recorded run."""
    return state.sites["mixed" if part.mixing == "mixer" else "attention"][part.layer]


def head_writes(
    decoder: Decoder, state: State, part: Block, heads: Sequence[int] | None = None
) -> Float[Tensor, "heads examples positions width"]:
    """Writes of heads (default: all) of an attention or a mixer of a recorded run; see `Block.mixers`."""
    return writes_of_heads(decoder, part, values_of(state, part), output_of(state, part), heads)


def writes_of_heads(
    decoder: Decoder, part: Block, z: Tensor, output: Tensor, heads: Sequence[int] | None = None
) -> Float[Tensor, "heads examples positions width"]:
    """Writes of heads, given their values z and the output of the attention's (or mixer's) output projection."""
    return rescaled(decoder, part, with_bias(decoder, part, shares_of_heads(decoder, part, z, heads)), output)


def shares_of_heads(
    decoder: Decoder, part: Block, z: Tensor, heads: Sequence[int] | None = None
) -> Float[Tensor, "heads examples positions width"]:
    """Heads' shares of the attention's (or mixer's) output in front of a post-norm, without its bias."""
    exact = torch.promote_types(z.dtype, torch.float32)
    count = decoder.writers_of(part)
    weights = part.head_weights.to(exact).unflatten(0, (count, -1))
    split = z.to(exact).unflatten(-1, (count, -1))
    if heads is not None:
        weights, split = weights[list(heads)], split[..., list(heads), :]
    return torch.einsum("bshd,hdw->hbsw", split, weights)


def with_bias(decoder: Decoder, block: Block, share: Tensor, heads: float | Tensor = 1) -> Tensor:
    """So many heads' share of the attention's output in front of a post-norm, with theirs of the output's bias."""
    if block.attention_post_norm is None or (bias := block.head_map.bias) is None:
        return share
    return share + bias.to(share.dtype) * (heads / decoder.writers_of(block))


def constant_of(decoder: Decoder, block: Block) -> Float[Tensor, " width"] | None:
    """What an attention or a mixer writes that belongs to no head: its output's bias, or that of a post-norm."""
    if block.attention_post_norm is None:
        return block.head_map.bias
    bias = norm_form(decoder, block.attention_post_norm).bias
    return None if bias is None else bias * block.attention_factor


def arriving(decoder: Decoder, layer: int, writer: Sequence[int] | Tensor, changes: Tensor) -> Tensor:
    """What the stream in front of block `layer` holds of some writers' changes, one row each: see `Decoder.passing`."""
    if decoder.passing is None:
        return changes
    times = torch.as_tensor(decoder.passing[layer], dtype=changes.dtype, device=changes.device)[writer]
    return changes * times.reshape(-1, *[1] * (changes.ndim - 1))


def rescaled(decoder: Decoder, block: Block, share: Tensor, output: Tensor) -> Float[Tensor, "*rows positions width"]:
    """What a share of the attention's output writes behind the post-norm, whose scale is that of the whole output."""
    norm = block.attention_post_norm
    if norm is None:
        return share
    form, written = norm_form(decoder, norm), norm(output).to(share.dtype)
    if form.bias is not None:  # a constant of the stream, of no head
        written = written - form.bias
    rescaled = form.linear(share) * _live_inverse(form.linear(output.to(share.dtype)), written)
    return rescaled * block.attention_factor


def mlp_write(decoder: Decoder, state: State, layer: int) -> Float[Tensor, "examples positions width"]:
    """Write of one MLP."""
    output = state.sites["mlp"][layer]
    return decoder.blocks[layer].mlp_write(output).to(torch.promote_types(output.dtype, torch.float32))


def writes_until(decoder: Decoder, state: State, writers: int) -> Float[Tensor, "writers examples positions width"]:
    """Writes of the first `writers` of the graph, in its order, whole blocks' heads."""
    return torch.cat([*writes_in_turn(decoder, state, range(writers))])


def differences(
    decoder: Decoder, base: State, other: State, writers: range
) -> Float[Tensor, "examples writers positions width"]:
    """Writes of some writers in the other run minus those in the base run; no second copy of them is made.

    Of heads whose write is linear in z: (z' − z) W_O, one product instead of two. `writers`: neighbours in the graph's
    order, of one block either all heads or none.
    """
    exact, found, first = torch.promote_types(base.residual[0].dtype, torch.float32), torch.empty(0), 0
    for part in _in_turn(decoder, writers):
        if part.of is not None and part.of.attention_post_norm is None:
            moved = values_of(other, part.of).to(exact) - values_of(base, part.of).to(exact)
            change = writes_of_heads(decoder, part.of, moved, output_of(base, part.of))
        else:
            change = part.write(other) - part.write(base)
        if not first:
            found = change.new_empty(change.shape[1], len(writers), *change.shape[2:])
        found[:, first : first + len(change)] = change.transpose(0, 1)
        first += len(change)
    return found


@dataclass(frozen=True)
class _Part:
    """`count` writers in a row: how they write in a run, and `of` which attention or mixer they are heads."""

    count: int
    write: Callable[[State], Float[Tensor, "some examples positions width"]]
    of: Block | None = None


def _in_turn(decoder: Decoder, writers: range) -> Iterator[_Part]:
    """Some writers in turn: the input, each block's heads and its MLP."""

    def embedded(state: State) -> Tensor:
        return state.residual[0].to(torch.promote_types(state.residual[0].dtype, torch.float32))[None]

    parts = [_Part(1, embedded)]
    for layer, block in enumerate(decoder.blocks):
        for own in block.mixers:
            parts.append(_Part(decoder.writers_of(own), partial(head_writes, decoder, part=own), own))
        if block.has_mlp:
            parts.append(_Part(1, lambda state, layer=layer: mlp_write(decoder, state, layer)[None]))  # type: ignore[misc]
    first = 0
    for part in parts:
        if writers.start <= first < writers.stop:
            yield part
        first += part.count


def writes_in_turn(
    decoder: Decoder, state: State, writers: range
) -> Iterator[Float[Tensor, "some examples positions width"]]:
    """Writes of some writers in turn: the input's, each block's heads' and its MLP's."""
    for part in _in_turn(decoder, writers):
        yield part.write(state)


def write_changes(
    decoder: Decoder,
    base: State,
    other: State | None,
    writer: Int[Tensor, " rows"],
    example: Int[Tensor, " rows"],
    offset: int = 0,
) -> Float[Tensor, "rows positions width"]:
    """Write in the other run minus write in the base run (other None: minus the write itself, zero ablation).

    Positions from `offset` on, counted from the tape's start.
    """
    shape = base.residual[0][:, offset:].shape
    exact = torch.promote_types(base.residual[0].dtype, torch.float32)
    changes = torch.empty(len(writer), *shape[1:], dtype=exact, device=example.device)
    for one in writer.unique().tolist():
        rows = writer == one
        of = _writing(decoder, base, one)[:, offset:]
        new = torch.zeros_like(of) if other is None else _writing(decoder, other, one)[:, offset:]
        changes[rows] = (new - of)[example[rows]]
    return changes


def _writing(decoder: Decoder, state: State, writer: int) -> Float[Tensor, "examples positions width"]:
    graph = decoder.graph
    layer, kind = int(graph.writer_layer[writer]), graph.writer_kind[writer]
    if kind == INPUT:
        return state.residual[0].to(torch.promote_types(state.residual[0].dtype, torch.float32))
    if kind in (HEAD, WRITER_MIXER):
        block = decoder.blocks[layer]
        part = block.mixer if kind == WRITER_MIXER else block
        assert part is not None
        return head_writes(decoder, state, part, [max(0, int(graph.writer_index[writer]))])[0]
    return mlp_write(decoder, state, layer)


def moving(decoder: Decoder, base: State, other: State | None) -> Float[Tensor, "writers examples positions"]:
    """Whether each writer's activation differs between the runs, position by position (zero ablation: everywhere)."""
    graph = decoder.graph
    shape = base.residual[0].shape[:2]
    if other is None:
        return torch.ones(graph.writers, *shape, dtype=torch.bool, device=base.residual[0].device)
    found = [(base.residual[0] != other.residual[0]).any(-1)[None]]
    for layer in range(decoder.layers):
        for part in decoder.blocks[layer].mixers:
            count = decoder.writers_of(part)
            z = (values_of(base, part) != values_of(other, part)).unflatten(-1, (count, -1)).any(-1).movedim(-1, 0)
            if part.attention_post_norm is not None:  # a sibling's change rescales a head's write
                z = z.any(0, keepdim=True).expand(count, -1, -1)
            found.append(z)
        if decoder.blocks[layer].has_mlp:
            found.append((base.sites["mlp"][layer] != other.sites["mlp"][layer]).any(-1)[None])
    return torch.cat(found)


def _live_inverse(linear: Tensor, output: Tensor) -> Tensor:
    """1 / s of a norm without bias, from γ · (x − mean) and the norm's output, with its gradient."""
    tiny = torch.finfo(linear.dtype).tiny
    return (output * linear).sum(-1, keepdim=True) / linear.square().sum(-1, keepdim=True).clamp_min(tiny)
