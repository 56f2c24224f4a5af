"""What stands in the place of ablated edges: the stream of a run in which every edge is ablated.

    stream of block l = Σ_u c_u + constants,   over the writers u before it; constants are output biases

(times what the stream is scaled by between, in families that scale it).

`OtherRun`: c_u is u's write in another run of the same length (the corrupted one), so this stream is that run's own
and a writer that nothing reaches keeps δ_u = 0. `Constants`: c_u is a vector for each writer (zero, a mean, an optimal
constant), so the stream is the same for every pair, and a writer that nothing reaches writes what such a stream makes
of it: δ_u ≠ 0. Constants may carry a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.engine.attention import Past
from veracausa.engine.stretches import Stretch
from veracausa.engine.tape import Tape
from veracausa.engine.writes import constant_of, head_writes, mlp_write, values_of, writes_of_heads

if TYPE_CHECKING:
    from jaxtyping import Float


class Ablated(Protocol):
    """Streams in which all edges are ablated, and how far writes are from what stands in their place."""

    #: Whether writers that nothing reaches write what stands in their place.
    settled: bool

    def at(self, stretch: Stretch) -> Ablated:
        """The same at some positions alone, all but what is before those that are run (`past`)."""
        ...

    def stream(self, layer: int, rows: slice) -> Float[Tensor, "rows positions width"]:
        """What a block's attention (or mixer) reads; layer L: what the logits read."""
        ...

    def middle(self, layer: int, rows: slice) -> Float[Tensor, "rows positions width"]:
        """What a block's MLP reads."""
        ...

    def projected(self, layer: int, rows: slice) -> list[Float[Tensor, "rows positions channels"]]:
        """Outputs of a block's query, key and value projections there, to write into."""
        ...

    def past(self, layer: int, rows: slice) -> Past:
        """Keys and values of the positions before those that are run."""
        ...

    def input_change(self, rows: slice) -> Float[Tensor, "rows positions width"]:
        """Embeddings of the clean prompt minus what stands in their place."""
        ...

    def head_changes(
        self, part: Block, heads: Sequence[int], z: Tensor, output: Tensor, rows: slice
    ) -> Float[Tensor, "heads rows positions width"]:
        """Writes of heads, given z and the output of the attention (mixer), minus what stands in their place.

        `part`: the attention or the mixer; see `Block.mixers`.
        """
        ...

    def mlp_change(self, layer: int, output: Tensor, rows: slice) -> Float[Tensor, "rows positions width"]:
        """An MLP's write, given its output, minus what stands in its place. Fewer positions are the last ones."""
        ...


@dataclass(eq=False)
class OtherRun:
    """The corrupted run of a tape."""

    decoder: Decoder
    tape: Tape
    settled: bool = True

    def at(self, stretch: Stretch) -> OtherRun:
        """See `Ablated`."""
        return self if stretch.whole else OtherRun(self.decoder, stretch.tape(self.tape), self.settled)

    def stream(self, layer: int, rows: slice) -> Tensor:
        """See `Ablated`."""
        return self.tape.corrupted.residual[layer][rows]

    def middle(self, layer: int, rows: slice) -> Tensor:
        """See `Ablated`."""
        return self.tape.corrupted.middle[layer][rows]

    def projected(self, layer: int, rows: slice) -> list[Tensor]:
        """See `Ablated`."""
        sites = self.tape.corrupted.sites
        return _copies(self.decoder, layer, [sites[site][layer][rows] for site in ("q_out", "k_out", "v_out")])

    def past(self, layer: int, rows: slice) -> Past:
        """See `Ablated`."""
        other, start = self.tape.corrupted, self.tape.start
        return Past(other.keys[layer][rows, :, :start], other.values[layer][rows, :, :start])

    def input_change(self, rows: slice) -> Tensor:
        """See `Ablated`."""
        other = self.tape.corrupted
        return _exact((self.tape.clean.residual[0] - other.residual[0])[rows])

    def head_changes(self, part: Block, heads: Sequence[int], z: Tensor, output: Tensor, rows: slice) -> Tensor:
        """See `Ablated`."""
        decoder, other, positions = self.decoder, self.tape.corrupted, z.shape[1]
        if part.attention_post_norm is not None:
            new = writes_of_heads(decoder, part, z, output, heads)
            return new - head_writes(decoder, other, part, heads)[:, rows, -positions:]
        moved = z - values_of(other, part)[rows, -positions:]  # linear in z: one product of the difference
        return writes_of_heads(decoder, part, moved, output, heads)

    def mlp_change(self, layer: int, output: Tensor, rows: slice) -> Tensor:
        """See `Ablated`."""
        new = _exact(self.decoder.blocks[layer].mlp_write(output))
        return new - mlp_write(self.decoder, self.tape.corrupted, layer)[rows, -output.shape[1] :]


@dataclass(eq=False)
class Constants:
    """One vector a writer, at every position or at each; whole prompts are run, nothing is shared."""

    decoder: Decoder
    tape: Tape
    writes: Float[Tensor, "writers positions width"]
    settled: bool = False

    def at(self, stretch: Stretch) -> Constants:
        """See `Ablated`."""
        if stretch.whole:
            return self
        own = self.writes if self.writes.shape[1] == 1 else stretch.cut(self.writes)
        return Constants(self.decoder, stretch.tape(self.tape), own, self.settled)

    @cached_property
    def _streams(self) -> tuple[list[Tensor], list[Tensor]]:
        """What attention (and logits) and MLPs read, [positions or 1, width] of each block."""
        decoder, graph = self.decoder, self.decoder.graph
        stream, streams, middles = self.writes[0], [], []
        for layer, block in enumerate(decoder.blocks):
            streams.append(stream)
            at, biases = graph.block(layer), [constant_of(decoder, one) for one in block.mixers]
            behind = sum((one for one in biases if one is not None), stream + self.writes[at.heads].sum(0))
            middles.append(stream if block.parallel else behind)
            stream = block.behind(behind + self.writes[at.mlp].sum(0))
        return [*streams, stream], middles

    def _rows(self, one: Tensor, rows: slice) -> Tensor:
        """The same stream for every row."""
        return one.expand_as(self.tape.clean.residual[0][rows]).to(self.tape.clean.residual[0].dtype)

    def stream(self, layer: int, rows: slice) -> Tensor:
        """See `Ablated`."""
        return self._rows(self._streams[0][layer], rows)

    def middle(self, layer: int, rows: slice) -> Tensor:
        """See `Ablated`."""
        return self._rows(self._streams[1][layer], rows)

    def projected(self, layer: int, rows: slice) -> list[Tensor]:
        """See `Ablated`."""
        block, stream = self.decoder.blocks[layer], self.stream(layer, rows)
        normed = block.given(stream[:1])
        once = {module: module(normed) for module in block.projections}
        return _copies(self.decoder, layer, [once[one].expand(len(stream), -1, -1) for one in block.projections])

    def past(self, layer: int, rows: slice) -> Past:
        """See `Ablated`."""
        run = self.tape.clean
        return Past(run.keys[layer][rows, :, :0], run.values[layer][rows, :, :0])

    def input_change(self, rows: slice) -> Tensor:
        """See `Ablated`."""
        return _exact(self.tape.clean.residual[0][rows]) - self.writes[0]

    def head_changes(self, part: Block, heads: Sequence[int], z: Tensor, output: Tensor, rows: slice) -> Tensor:
        """See `Ablated`."""
        writers, _ = self.decoder.graph.block(part.layer).of(part.mixing)
        own = self.writes[writers][list(heads), None]
        return writes_of_heads(self.decoder, part, z, output, heads) - own[:, :, -z.shape[1] :]

    def mlp_change(self, layer: int, output: Tensor, rows: slice) -> Tensor:
        """See `Ablated`."""
        own = self.writes[self.decoder.graph.block(layer).mlp.start]
        return _exact(self.decoder.blocks[layer].mlp_write(output)) - own[-output.shape[1] :]


def _copies(decoder: Decoder, layer: int, outputs: list[Tensor]) -> list[Tensor]:
    """Tensors of their own; one for all three (for keys and values) where one module gives them."""
    projections = decoder.blocks[layer].projections
    own = {module: output.clone() for module, output in dict(zip(projections, outputs, strict=True)).items()}
    return [own[module] for module in projections]


def _exact(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
