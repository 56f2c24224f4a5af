"""A run in which edges outside a circuit carry the corrupted run's writes.

Each reader's input is the corrupted stream plus what the circuit's edges bring anew:

    input_v = stream′ + Σ_u m_uv · δ_u,   δ_u = write of u in this run − write of u in the corrupted run

With all edges it is the clean run, with none the corrupted one. Only what can differ is run: a writer is live if it is
reached from the input through kept edges and has a kept edge out; all others keep δ = 0 and cost nothing. Each live
query, key and value gets its own input and its own slice of the projection; the model's own attention module is then
run with these projections in place, so norms of queries, rotations and masks are its own. The positions that both
prompts share are never run (there δ = 0).

Bound by matrix products: a layer's mixing is [readers × writers] · [writers × positions · width], for the whole graph
of SmolLM2-135M 38% of a forward pass; its projections are those of the model, its norms one for every reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import Graph, K, Q, V
from veracausa.engine.attention import Past
from veracausa.engine.cost import Cost
from veracausa.engine.guard import hooks
from veracausa.engine.tape import Tape
from veracausa.engine.writes import head_writes, mlp_write, writes_of_heads

#: What a tape must hold.
SITES = ("z", "attention", "mlp", "q_out", "k_out", "v_out")


@dataclass(frozen=True)
class Wiring:
    """Which edges are kept, `mask[reader, writer]`, and what follows from it: what must be run.

    `shared_scale`: heads of a block share a post-norm, so that a change of one rescales what all of them write.
    """

    graph: Graph
    mask: np.ndarray
    shared_scale: bool = False

    @cached_property
    def live(self) -> np.ndarray:
        """Whether each writer's write can differ from the corrupted run's, and is seen by a kept edge."""
        return np.asarray(self.graph.reached(self.mask, self.shared_scale) & np.any(self.mask, axis=0))

    @cached_property
    def living(self) -> Bool[np.ndarray, "readers writers"]:
        """Kept edges that lie on a way from the input to the logits; without post-norms all others change nothing."""
        return np.asarray(self.mask & self.live & self.graph.leading(self.mask)[:, None])

    def readers(self, layer: int, kinds: Sequence[int]) -> np.ndarray:
        """Readers of a block with a kept edge from a live writer."""
        graph = self.graph
        chosen = np.flatnonzero((graph.reader_layer == layer) & np.isin(graph.reader_kind, kinds))
        return chosen[(self.mask[chosen] & self.live).any(1)]

    def heads(self, layer: int) -> np.ndarray:
        """Live heads of a block."""
        return np.flatnonzero(self.live[self.graph.block(layer).heads])

    def mlp(self, layer: int) -> bool:
        """Whether a block's MLP is live."""
        return bool(self.live[self.graph.block(layer).mlp])


@dataclass(eq=False)
class CircuitForward:
    """Runs circuits on the pairs of one bucket; the attention function must be `attention.SUFFIX`."""

    decoder: Decoder
    tape: Tape
    cost: Cost

    def __call__(self, wiring: Wiring, example: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """Final residual at the last position of some examples."""
        decoder, graph, other = self.decoder, wiring.graph, self.tape.corrupted
        exact = torch.promote_types(other.residual[0].dtype, torch.float32)
        order = np.flatnonzero(wiring.live)
        place = {int(writer): i for i, writer in enumerate(order)}
        shape = (len(example), *other.residual[0].shape[1:])
        changes = torch.zeros(len(order), *shape, dtype=exact, device=example.device)
        if 0 in place:
            changes[0] = (self.tape.clean.residual[0] - other.residual[0])[example].to(exact)

        def mixed(readers: np.ndarray) -> Float[Tensor, "readers rows positions width"]:
            known = [writer for writer in order if graph.writer_order[writer] <= graph.reader_order[readers[0]]]
            mask = torch.as_tensor(wiring.mask[np.ix_(readers, known)], dtype=exact, device=example.device)
            return (mask @ changes[: len(known)].flatten(1)).unflatten(1, shape)

        for layer, block in enumerate(decoder.blocks):
            heads, at = wiring.heads(layer), graph.block(layer)
            if len(heads):
                ran = self._attention(wiring, layer, heads, example, mixed)
                into = [place[at.heads.start + int(head)] for head in heads]
                changes[into] = self._head_changes(layer, heads, ran, example)
            if wiring.mlp(layer):
                reader = np.array([at.mlp_reader])
                seen = other.middle[layer][example]
                output = block.mlp(block.mlp_norm(seen + mixed(reader)[0].to(seen.dtype)))
                write = block.mlp_write(output).to(exact) - mlp_write(decoder, other, layer)[example]
                changes[place[at.mlp]] = write
            if len(heads) or wiring.mlp(layer):
                self.cost.add(len(example), shape[1])
        last = other.residual[-1][example, -1]
        end = np.array([graph.readers - 1])
        if not wiring.mask[end].any():
            return last
        known = torch.as_tensor(wiring.mask[end[0], order], dtype=exact, device=example.device)
        return last + torch.einsum("w,wrd->rd", known, changes[:, :, -1]).to(last.dtype)

    def _attention(
        self, wiring: Wiring, layer: int, heads: np.ndarray, example: Tensor, mixed: Any
    ) -> tuple[Tensor, Tensor]:
        """z and output of a block's attention, each query, key and value projected from its own reader's input."""
        decoder, other, graph = self.decoder, self.tape.corrupted, wiring.graph
        block = decoder.blocks[layer]
        outputs = [other.sites[site][layer][example].clone() for site in ("q_out", "k_out", "v_out")]
        if block.projections[0] is block.projections[1]:
            outputs = [outputs[0]] * 3  # one module: one output
        readers = self._needed(wiring, layer, heads)
        if len(readers):
            stream = other.residual[layer][example]
            normed = block.attention_norm(stream + mixed(readers).to(stream.dtype))
            for kind in (Q, K, V):
                mine = graph.reader_kind[readers] == kind
                if mine.any():
                    own = normed[torch.as_tensor(mine, device=normed.device)]
                    self._project(layer, kind, graph.reader_index[readers[mine]], own, outputs)
        return attend_with(decoder, self.tape, layer, example, outputs)

    def _needed(self, wiring: Wiring, layer: int, heads: np.ndarray) -> np.ndarray:
        """Readers with live edges that belong to live heads (under a post-norm: to any head, all share its scale)."""
        graph, share = wiring.graph, wiring.graph.heads // wiring.graph.kv_heads
        readers = wiring.readers(layer, (Q, K, V))
        if wiring.shared_scale:
            return readers
        index, kind = graph.reader_index[readers], graph.reader_kind[readers]
        return readers[np.where(kind == Q, np.isin(index, heads), np.isin(index, heads // share))]

    def _project(self, layer: int, kind: int, index: np.ndarray, normed: Tensor, outputs: list[Tensor]) -> None:
        """Put each reader's own slice of its projection into the projections' outputs."""
        decoder, block = self.decoder, self.decoder.blocks[layer]
        count = decoder.heads if kind == Q else decoder.kv_heads
        chosen = torch.as_tensor(index, device=normed.device)
        new = project(decoder, layer, kind, normed, chosen)
        block.projected(kind, outputs[kind], count, decoder.head_dim)[:, :, chosen] = new.movedim(0, 2)

    def _head_changes(
        self, layer: int, heads: np.ndarray, ran: tuple[Tensor, Tensor], example: Tensor
    ) -> Float[Tensor, "heads rows positions width"]:
        """Writes of live heads minus those of the corrupted run; `ran`: z and output of the block's attention."""
        decoder, other, (z, output) = self.decoder, self.tape.corrupted, ran
        block = decoder.blocks[layer]
        if block.attention_post_norm is not None:
            new = writes_of_heads(decoder, layer, z, output, heads.tolist())
            return new - head_writes(decoder, other, layer, heads.tolist())[:, example]
        exact = torch.promote_types(z.dtype, torch.float32)  # linear in z: one product of the difference
        moved = (z - other.sites["z"][layer][example]).to(exact).unflatten(-1, (decoder.heads, -1))[:, :, heads]
        weights = block.head_weights.to(exact).unflatten(0, (decoder.heads, -1))[heads]
        return torch.einsum("rshd,hdw->hrsw", moved, weights)


def project(
    decoder: Decoder,
    layer: int,
    kind: int,
    normed: Float[Tensor, "readers rows positions width"],
    chosen: Int[Tensor, " readers"],
) -> Float[Tensor, "readers rows positions head_dim"]:
    """Queries (keys, values) of the chosen heads, each from the normed input of its own reader."""
    block = decoder.blocks[layer]
    count = decoder.heads if kind == Q else decoder.kv_heads
    weights = block.projection_weights(kind, count, decoder.head_dim)[:, chosen].movedim(1, 0)
    new = torch.matmul(normed.flatten(1, 2), weights).unflatten(1, normed.shape[1:3])
    bias = getattr(block.projections[kind], "bias", None)
    if bias is None:
        return new
    return new + block.projected(kind, bias, count, decoder.head_dim)[chosen][:, None, None]


def attend_with(
    decoder: Decoder, tape: Tape, layer: int, example: Int[Tensor, " rows"], outputs: Sequence[Tensor]
) -> tuple[Float[Tensor, "rows positions values"], Float[Tensor, "rows positions width"]]:
    """z and output of a block's own attention module, run with these outputs in place of its projections'."""
    block, base = decoder.blocks[layer], tape.corrupted
    past = Past(base.keys[layer][:, :, : tape.start], base.values[layer][:, :, : tape.start], example)
    found: list[Tensor] = []
    handles: list[Any] = [
        module.register_forward_hook(lambda _, __, ___, new=new: new)
        for module, new in dict(zip(block.projections, outputs, strict=True)).items()
    ]
    handles.append(block.attention_out.register_forward_pre_hook(lambda _, args: found.append(args[0])))
    handles.append(block.attention_out.register_forward_hook(lambda _, __, output: found.append(output)))
    call = tape.calls[layer] | {"attention_mask": None, "past": past}
    with hooks(*handles):
        block.attention(block.attention_norm(base.residual[layer][example]), **call)
    return found[0], found[1]


def wiring_of(decoder: Decoder, mask: np.ndarray) -> Wiring:
    """The wiring of a mask [readers, writers] in a model."""
    return Wiring(decoder.graph, mask, decoder.blocks[0].attention_post_norm is not None)


def all_edges_mask(graph: Graph) -> Bool[np.ndarray, "readers writers"]:
    """The mask of the whole graph."""
    return np.asarray(graph.writer_order[None] <= graph.reader_order[:, None])


def kept_by(graph: Graph, writer: np.ndarray, reader: np.ndarray) -> Bool[np.ndarray, "readers writers"]:
    """The mask of some edges."""
    mask = np.zeros((graph.readers, graph.writers), dtype=bool)
    mask[reader, writer] = True
    return mask
