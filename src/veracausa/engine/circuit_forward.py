"""A run in which edges outside a circuit carry what ablation puts in their place.

Each reader's input is the stream of a run with every edge ablated, plus what the circuit's edges bring anew:

    input_v = ablated stream + Σ_u m_uv · δ_u,   δ_u = write of u in this run − what ablation puts in its place

(`engine.ablated`; by default that stream is the corrupted run's). With all edges it is the clean run, with none the
ablated one. Only what can differ is run: a writer is live if kept edges lead from it to the logits and, where an
unreached writer writes what is in its place anyway, if it is reached from the input; all others cost nothing. Each live
query, key and value gets its own input and its own slice of the projection; the model's own attention module is then
run with these in place of its projections' outputs, so norms of queries, rotations and masks are its own. The positions
that both prompts share are never run (there δ = 0), and the last MLP runs at the tail alone. A mixer reads as a whole:
its own module is run on its one input.

Every live writer's change stands in memory at the positions that are run at once: W · w numbers a position, which of
long prompts is far more than the run itself (Llama-3-8B: 17 MB a position, 71 GB for 4,096). So positions are run in
stretches where all of them don't fit: all blocks on the first ones, then all blocks on the next, whose attention goes
on from the keys and values before them, 2 · L · g numbers a position. Nothing is computed twice, and nothing else of
one position is needed at another. (Keeping z and making writes anew for every block would cost L / 2 times the products
of W_O.) A model whose blocks cannot go on from keys and values (mixers, cached latents) is run at all positions at
once.

Bound by matrix products: a layer's mixing is [readers × writers] · [writers × positions · width], for the whole graph
of SmolLM2-135M 38% of a forward pass; its projections are those of the model, its norms one for every reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from veracausa.anatomy import Block, Decoder
from veracausa.anatomy.graph import Graph, of_projection
from veracausa.cost import Cost
from veracausa.engine.ablated import Ablated
from veracausa.engine.attention import Past
from veracausa.engine.budget import tokens_per_chunk
from veracausa.engine.footprint import Footprint
from veracausa.engine.guard import hooks
from veracausa.engine.stretches import Stretch, cut_into
from veracausa.engine.tape import Tape, slice_call

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from veracausa.model import Model

#: What a tape must hold.
SITES = ("z", "attention", "channels", "mixed", "mlp", "q_out", "k_out", "v_out")


@dataclass(frozen=True)
class Wiring:
    """Which edges are kept, `mask[reader, writer]`, and what follows from it: what must be run.

    `shared_scale`: heads of a block share a post-norm, so that a change of one rescales what all of them write.
    `settled`: a writer that nothing reaches writes what ablation puts in its place (see `engine.ablated`).
    """

    graph: Graph
    mask: np.ndarray
    shared_scale: bool = False
    settled: bool = True

    @cached_property
    def live(self) -> np.ndarray:
        """Whether each writer's write can differ from what is in its place, and can matter."""
        leading = np.ones(self.graph.readers, dtype=bool) if self.shared_scale else self.graph.leading(self.mask)
        seen = np.any(self.mask & leading[:, None], axis=0)
        return np.asarray(seen & self.graph.reached(self.mask, self.shared_scale) if self.settled else seen)

    @cached_property
    def living(self) -> Bool[np.ndarray, "readers writers"]:
        """Kept edges that lie on a way from a live writer to the logits; without post-norms others change nothing."""
        return np.asarray(self.mask & self.live & self.graph.leading(self.mask)[:, None])

    @property
    def blocks(self) -> int:
        """Blocks with a live part: those that a run goes through."""
        return sum(self.mlp(layer) or len(self.heads(layer)) > 0 for layer in range(self.graph.layers))

    def readers(self, layer: int, kinds: Sequence[int]) -> np.ndarray:
        """Readers of a block with a kept edge from a live writer."""
        graph = self.graph
        chosen = np.flatnonzero((graph.reader_layer == layer) & np.isin(graph.reader_kind, kinds))
        return chosen[(self.mask[chosen] & self.live).any(1)]

    def heads(self, layer: int) -> np.ndarray:
        """Live heads of a block, also of its mixer."""
        return np.flatnonzero(self.live[self.graph.block(layer).heads])

    def mlp(self, layer: int) -> bool:
        """Whether a block has an MLP and it is live."""
        return bool(self.live[self.graph.block(layer).mlp].any())


class Room:
    """Memory that one run after the other writes its changes into: a new piece of that size is laid out page by page.

    >>> changes = room.of(157, 10, 12, 768, like=stream)
    """

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def of(self, *shape: int, like: Tensor) -> Tensor:
        """Room for some numbers, which may be anything; what had it before has it no longer."""
        count, held = prod(shape), self._held
        if held is None or len(held) < count or (held.dtype, held.device) != (like.dtype, like.device):
            self._held = held = None  # the old one goes before the new one comes
            self._held = held = like.new_empty(count)
        return held[:count].view(shape)


@dataclass(eq=False)
class CircuitForward:
    """Runs circuits on the pairs of one bucket; the attention function must be `attention.SUFFIX`.

    `tokens`: how many positions, of all rows together, may be run at once (None: all). `room`: see `Room`.
    """

    decoder: Decoder
    tape: Tape
    ablated: Ablated
    cost: Cost
    tokens: int | None = None
    room: Room = field(default_factory=lambda: Room())

    @classmethod
    def of(cls, lm: Model, tape: Tape, ablated: Ablated, cost: Cost, room: Room | None = None) -> CircuitForward:
        """One that runs so many positions at once as fit into memory."""
        return cls(lm.decoder, tape, ablated, cost, tokens_at_once(lm, tape.length), room or Room())

    def __call__(self, wiring: Wiring, rows: slice) -> Float[Tensor, "rows tail width"]:
        """Final residual at the tail of a range of the bucket's examples."""
        end = self.ablated.stream(self.decoder.layers, rows)
        if not wiring.live.any():
            return end[:, -self.tape.tail :]
        count, positions = end.shape[:2]
        before: dict[int, Past] = {}
        stretches = cut_into(positions, positions_at_once(count, positions, self.tokens))
        parts = [self._at(wiring, rows, at, before) for at in stretches]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _at(self, wiring: Wiring, rows: slice, at: Stretch, before: dict[int, Past]) -> Tensor:
        """The run at some positions: those of the tail in it; `before`: what attention has of those before, by layer.

        The only part of a block that sees other positions is its attention.
        """
        decoder, graph, ablated, tail = self.decoder, wiring.graph, self.ablated.at(at), at.last(self.tape.tail)
        end = ablated.stream(decoder.layers, rows)[:, len(at) - tail :]
        order = np.flatnonzero(wiring.live)
        exact = torch.promote_types(end.dtype, torch.float32)
        place = {int(writer): i for i, writer in enumerate(order)}
        shape = (len(end), len(at), decoder.width)
        changes = self.room.of(len(order), *shape, like=end.new_empty(0, dtype=exact))
        if 0 in place:
            changes[0] = ablated.input_change(rows)

        def mixed(readers: np.ndarray, stream: Tensor) -> Float[Tensor, "readers rows positions width"]:
            """Inputs of readers, given the ablated stream at the positions that they are wanted at."""
            known = order[graph.writer_order[order] <= graph.reader_order[readers[0]]]
            kept = wiring.mask[np.ix_(readers, known)]
            if decoder.passing is not None:  # what the stream is scaled by from a write on
                kept = kept * decoder.passing[graph.reader_layer[readers[0]], known]
            mask = torch.as_tensor(kept, dtype=exact, device=stream.device)
            seen = changes[: len(known), :, len(at) - stream.shape[1] :]
            return (mask @ seen.flatten(1)).unflatten(1, seen.shape[1:]).add_(stream).to(stream.dtype)

        for layer, block in enumerate(decoder.blocks):
            heads, own = wiring.heads(layer), graph.block(layer)
            # behind the last block only the tail is read
            wanted = slice(len(at) - tail if layer == decoder.layers - 1 else 0, None)
            for part in block.mixers:
                writers, _ = own.of(part.mixing)
                mine = np.flatnonzero(wiring.live[writers])
                if not len(mine):
                    continue
                if part.mixing == "mixer":
                    z, output = self._mixer(wiring, part, rows, mixed)
                else:
                    z, output = self._attention(wiring, layer, heads, rows, mixed, at, before)
                if wanted.start < len(at):
                    into = slice(place[writers.start + int(mine[0])], place[writers.start + int(mine[-1])] + 1)
                    written = ablated.head_changes(part, mine.tolist(), z[:, wanted], output[:, wanted], rows)
                    changes[into, :, wanted] = written
            if wiring.mlp(layer) and wanted.start < len(at):
                seen = mixed(np.array([own.mlp_reader.start]), ablated.middle(layer, rows)[:, wanted])[0]
                output = block.run_mlp(block.mlp_norm(seen))
                changes[place[own.mlp.start], :, wanted] = ablated.mlp_change(layer, output, rows)
            if len(heads) or wiring.mlp(layer):
                self.cost.add(*shape[:2])
        return mixed(np.array([graph.readers - 1]), end)[0] if tail else end

    def _attention(
        self,
        wiring: Wiring,
        layer: int,
        heads: np.ndarray,
        rows: slice,
        mixed: Any,
        at: Stretch,
        before: dict[int, Past],
    ) -> tuple[Tensor, Tensor]:
        """z and output of a block's attention, each query, key and value projected from its own reader's input."""
        block, graph, ablated = self.decoder.blocks[layer], wiring.graph, self.ablated.at(at)
        stream, outputs = ablated.stream(layer, rows), ablated.projected(layer, rows)
        readers = self._needed(wiring, layer, heads)
        if len(readers):
            normed = block.given(mixed(readers, stream))
            first = 0
            for kind in graph.attention_readers(layer):
                index = graph.reader_index[readers[graph.reader_kind[readers] == kind]].clip(0)
                self._project(layer, kind, index, normed[first : first + len(index)], outputs)
                first += len(index)
        past = before[layer] if at.first else self.ablated.past(layer, rows)
        call = self.tape.call(block)
        if not at.whole:
            call = slice_call(call, at.first, at.behind)

        def keep(_: Tensor, key: Tensor, value: Tensor, **__: Any) -> None:
            before[layer] = Past(past.before(key, "keys"), past.before(value, "values"))

        if at.behind < at.of:
            call = call | {"keep": keep}
        return attend_with(self.decoder, layer, stream, outputs, call, past)

    def _mixer(self, wiring: Wiring, mixer: Block, rows: slice, mixed: Any) -> tuple[Tensor, Tensor]:
        """Channels and output of a mixer, run on its reader's input."""
        _, readers = wiring.graph.block(mixer.layer).of("mixer")
        stream = self.ablated.stream(mixer.layer, rows)
        return mix_with(mixer, mixed(np.array([readers.start]), stream)[0], self.tape.call(mixer))

    def _needed(self, wiring: Wiring, layer: int, heads: np.ndarray) -> np.ndarray:
        """Readers with live edges that belong to live heads (under a post-norm: to any head, all share its scale)."""
        at, readers = wiring.graph.block(layer), wiring.readers(layer, tuple(wiring.graph.attention_readers(layer)))
        if wiring.shared_scale:
            return readers
        live = np.isin(np.arange(at.count), heads)
        return readers[at.to_readers(live)[readers - at.attention.start]]

    def _project(self, layer: int, kind: int, index: np.ndarray, normed: Tensor, outputs: list[Tensor]) -> None:
        """Put each reader's own slice of its projection into the projections' outputs."""
        if not len(index):
            return
        decoder, block, one = self.decoder, self.decoder.blocks[layer], of_projection(kind)
        count = decoder.graph.attention_readers(layer)[kind]
        chosen = torch.as_tensor(index, device=normed.device) if len(index) < count else slice(None)  # a view
        new = project(decoder, layer, kind, normed, chosen)
        block.layout.put(one, outputs[one], chosen, new.movedim(0, 2), count, block.head_dim)


def tokens_at_once(lm: Model, length: int) -> int | None:
    """Tokens of prompts of `length` that a circuit's run may hold at once; None where it must hold all."""
    return tokens_per_chunk(lm, length, Footprint.of(lm).circuit) if lm.decoder.shares_prefixes else None


def positions_at_once(rows: int, positions: int, tokens: int | None) -> int:
    """Positions of a stretch: all, or where these are too many tokens half as many as might be.

    Attention of a shorter stretch looks at fewer keys in vain, and a stretch's changes stay in the cache (a model of
    width 256, prompts of 2,400 tokens, one core: 7.8 s whole, 5.6 in 1,024, 4.6 in 512, 4.5 in 256).
    """
    if tokens is None or rows * positions <= tokens:
        return positions
    return max(1, tokens // (2 * rows))


def project(
    decoder: Decoder,
    layer: int,
    kind: int,
    normed: Float[Tensor, "readers rows positions width"],
    chosen: Int[Tensor, " readers"] | slice,
) -> Float[Tensor, "readers rows positions numbers"]:
    """What the chosen readers of a kind give, each from its own normed input: queries (keys, values) of heads."""
    block, one = decoder.blocks[layer], of_projection(kind)
    count = decoder.graph.attention_readers(layer)[kind]
    weights = block.projection_weights(one, count, block.head_dim)[:, chosen].movedim(1, 0)
    new = torch.matmul(normed.flatten(1, 2), weights).unflatten(1, normed.shape[1:3])
    bias = block.projection(one).bias
    if bias is None:
        return new
    return new + block.layout.projected(one, bias, count, block.head_dim)[chosen][:, None, None]


def attend_with(
    decoder: Decoder,
    layer: int,
    stream: Float[Tensor, "rows positions width"],
    outputs: Sequence[Float[Tensor, "rows positions channels"]],
    call: Mapping[str, Any],
    past: Past,
) -> tuple[Float[Tensor, "rows positions values"], Float[Tensor, "rows positions width"]]:
    """z and output of a block's own attention module, with these outputs in place of its projections' (fused: the
    first). The output projection is run where its output is read: under a post-norm; elsewhere it is z.
    """
    block = decoder.blocks[layer]
    found: list[Tensor] = []

    def keep(z: Tensor) -> Tensor:
        found.append(z)
        return z

    functions: dict[nn.Module, Callable[[Tensor], Tensor]] = {
        module: partial(_given, output) for module, output in zip(block.projections, outputs, strict=True)
    }
    watching = []
    if block.attention_post_norm is None:
        functions[block.attention_out] = keep
    else:
        watching.append(block.attention_out.register_forward_pre_hook(lambda _, args: found.append(args[0])))
        watching.append(block.attention_out.register_forward_hook(lambda _, __, output: found.append(output)))
    with decoder.found.standing_in(functions), hooks(*watching):
        block.attention(stream, **(dict(call) | {"attention_mask": None, "past": past}))
    return found[0], found[-1]


def mix_with(
    mixer: Block, stream: Float[Tensor, "rows positions width"], call: Mapping[str, Any]
) -> tuple[Float[Tensor, "rows positions channels"], Float[Tensor, "rows positions width"]]:
    """Channels and output of a block's own mixer for a stream at all positions."""
    found = list[Tensor]()
    watching = mixer.attention_out.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with hooks(watching):
        output = mixer.attended(stream, call)
    return found[0], output


def _given(output: Tensor, _: Tensor) -> Tensor:
    return output


def wiring_of(decoder: Decoder, mask: np.ndarray, settled: bool = True) -> Wiring:
    """The wiring of a mask [readers, writers] in a model."""
    shared = any(block.attention_post_norm is not None for block in decoder.blocks)
    return Wiring(decoder.graph, mask, shared, settled)


def all_edges_mask(graph: Graph) -> Bool[np.ndarray, "readers writers"]:
    """The mask of the whole graph."""
    return np.asarray(graph.writer_order[None] <= graph.reader_order[:, None])
