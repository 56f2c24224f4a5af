"""A circuit with a weight on every edge, and the gradient of M with respect to the weights.

    input_v = stream′ + Σ_u m_uv · δ_u,      ∂M/∂m_uv = δ_u · g_v   in this very run

so the gradient scores every edge, kept or not, where the circuit stands: at m = 1 it is minus the score of EAP. The run
is that of `circuit_forward` (0 and 1 give the same numbers) with everything in the graph; all parts are run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import K, Q, V
from veracausa.engine.circuit_forward import attend_with, project
from veracausa.engine.cost import Cost
from veracausa.engine.measure import Readout
from veracausa.engine.tape import Tape
from veracausa.engine.writes import head_writes, mlp_write, writes_of_heads


@dataclass(eq=False)
class SoftCircuit:
    """Runs weighted circuits on the pairs of one bucket; the attention function must be `attention.SUFFIX`."""

    decoder: Decoder
    tape: Tape
    read: Readout
    cost: Cost

    def gradient(
        self, mask: Float[Tensor, "readers writers"], example: Int[Tensor, " rows"]
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "readers writers"]]:
        """M of every row, and ∂(Σ M)/∂mask. Weights of edges that do not exist are never read."""
        leaf = mask.detach().clone().requires_grad_()
        with torch.enable_grad():
            metric = self.read(self.run(leaf, example), example)
            (slope,) = torch.autograd.grad(metric.sum(), leaf)
        self.cost.add(len(example), (self.tape.length - self.tape.start) * self.decoder.layers, backward=True)
        return metric.detach(), slope

    def run(self, mask: Float[Tensor, "readers writers"], example: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """Final residual at the last position."""
        decoder, graph, other = self.decoder, self.decoder.graph, self.tape.corrupted
        exact = torch.promote_types(other.residual[0].dtype, torch.float32)
        parts = [(self.tape.clean.residual[0] - other.residual[0])[example].to(exact)[None]]

        def mixed(first: int, count: int) -> Float[Tensor, "readers rows positions width"]:
            """What the edges into `count` readers bring, writers part by part (no copy of earlier writes is kept)."""
            total, writer = torch.zeros((), dtype=exact, device=mask.device), 0
            for part in parts:
                weights = mask[first : first + count, writer : writer + len(part)].to(exact)
                total = total + (weights @ part.flatten(1)).unflatten(1, part.shape[1:])
                writer += len(part)
            return total

        for layer, block in enumerate(decoder.blocks):
            first = layer * graph.per_layer
            stream = other.residual[layer][example]
            normed = block.attention_norm(stream + mixed(first, graph.per_layer - 1).to(stream.dtype))
            heads = writes_of_heads(decoder, layer, *self._attention(layer, normed, example))
            heads = heads - head_writes(decoder, other, layer)[:, example]
            if not block.parallel:
                parts.append(heads)
            seen = other.middle[layer][example]
            output = block.mlp(block.mlp_norm(seen + mixed(first + graph.per_layer - 1, 1)[0].to(seen.dtype)))
            mlp = block.mlp_write(output).to(exact) - mlp_write(decoder, other, layer)[example]
            if block.parallel:
                parts.append(heads)
            parts.append(mlp[None])
        last = other.residual[-1][example, -1]
        return last + mixed(graph.readers - 1, 1)[0][:, -1].to(last.dtype)

    def _attention(
        self, layer: int, normed: Float[Tensor, "readers rows positions width"], example: Tensor
    ) -> tuple[Tensor, Tensor]:
        """z and output of a block's attention, each query, key and value from its own reader's normed input."""
        decoder, heads, groups = self.decoder, self.decoder.heads, self.decoder.kv_heads
        split = {Q: normed[:heads], K: normed[heads : heads + groups], V: normed[heads + groups :]}
        projected = [
            project(decoder, layer, kind, own, torch.arange(len(own), device=own.device)).movedim(0, 2)
            for kind, own in split.items()
        ]
        return attend_with(decoder, self.tape, layer, example, decoder.blocks[layer].fused(projected))
