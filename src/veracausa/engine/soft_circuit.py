"""A circuit with a weight on every edge, and the gradient of M with respect to the weights.

    input_v = ablated stream + Σ_u m_uv · δ_u,      ∂M/∂m_uv = δ_u · g_v   in this very run

so the gradient scores every edge, kept or not, where the circuit stands: at m = 1 it is minus the score of EAP. The run
is that of `circuit_forward` (0 and 1 give the same numbers) with everything in the graph; all parts are run. Weights
are those of all rows, or each row's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.cost import Cost
from veracausa.engine.ablated import Ablated
from veracausa.engine.circuit_forward import attend_with, mix_with, project
from veracausa.engine.mixed_writes import MixedWrites
from veracausa.engine.readout import Readout
from veracausa.engine.tape import Tape

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(eq=False)
class SoftCircuit:
    """Runs weighted circuits on the pairs of one bucket; the attention function must be `attention.SUFFIX`."""

    decoder: Decoder
    tape: Tape
    ablated: Ablated
    read: Readout
    cost: Cost

    def run(self, mask: Float[Tensor, "*rows readers writers"], rows: slice) -> Float[Tensor, "rows tail width"]:
        """Final residual at the tail; a `mask` of three axes has weights for each of these rows."""
        decoder, graph, ablated = self.decoder, self.decoder.graph, self.ablated
        written = MixedWrites(decoder, mask)
        written.put(ablated.input_change(rows)[None])

        def mixed(first: int, count: int, stream: Tensor) -> Float[Tensor, "readers rows positions width"]:
            """Inputs of `count` readers."""
            return (written.seen(first, count) + stream).to(stream.dtype)

        for layer, block in enumerate(decoder.blocks):
            at, stream, heads = graph.block(layer), ablated.stream(layer, rows), list[Tensor]()
            if at.count:
                seen = mixed(at.attention.start, at.attention.stop - at.attention.start, stream)
                heads = [self._written(part, seen, stream, rows) for part in block.mixers]
            before, behind = ([], heads) if block.parallel else (heads, [])  # what the block's MLP sees, or does not
            for one in before:
                written.put(one)
            if block.has_mlp:
                seen = mixed(at.mlp_reader.start, 1, ablated.middle(layer, rows))[0]
                behind = [*behind, ablated.mlp_change(layer, block.run_mlp(block.mlp_norm(seen)), rows)[None]]
            for one in behind:
                written.put(one)
        return mixed(graph.readers - 1, 1, ablated.stream(decoder.layers, rows))[0, :, -self.tape.tail :]

    def _written(self, part: Block, seen: Tensor, stream: Tensor, rows: slice) -> Tensor:
        """Changes of what an attention or a mixer writes; `seen`: by all readers that mix the block's positions."""
        at = self.decoder.graph.block(part.layer)
        _, readers = at.of(part.mixing)
        mine = seen[readers.start - at.attention.start : readers.stop - at.attention.start]
        z, output = self._mixing(part, mine, stream, rows)
        return self.ablated.head_changes(part, range(self.decoder.writers_of(part)), z, output, rows)

    def _mixing(
        self, part: Block, seen: Float[Tensor, "readers rows positions width"], stream: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """z and output of a block's attention, each query, key and value from its own input; or of its mixer."""
        decoder, layer, counts = self.decoder, part.layer, self.decoder.graph.attention_readers(part.layer)
        if part.mixing == "mixer":
            return mix_with(part, seen[0], self.tape.call(part))
        normed = part.given(seen)
        split = zip(counts, normed.split([*counts.values()]), strict=True)
        projected = [project(decoder, layer, kind, own, slice(None)).movedim(0, 2) for kind, own in split]
        outputs = part.layout.fused(projected)
        return attend_with(decoder, layer, stream, outputs, self.tape.call(part), self.ablated.past(layer, rows))
