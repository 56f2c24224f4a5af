"""Gradients at readers' inputs: ∂M/∂(what reader v takes from the stream), through v's norm and into v's channel only.

    g_v = J_normᵀ W_vᵀ ĝ_v,   ĝ_v = ∂M/∂(v's projection output, its own head's part), or at the MLP's normed input

One backward pass gives every ĝ. W_vᵀ is applied head by head, so all readers of a block cost one projection more,
and the norm's Jacobian is a closed form (`norms`). Summed over the readers behind a place of the stream, g_v is the
gradient of the stream there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import Q
from veracausa.engine.norms import NormForm, norm_form
from veracausa.engine.tape import State

#: What a run must hold, with its graph.
SITES = ("attention_in", "mlp_in", "q_out", "k_out", "v_out")
_OUTPUTS = ("q_out", "k_out", "v_out")


@dataclass(frozen=True)
class Reads:
    """How gradients come back to readers' inputs; `frozen`: a backward rule holds the norms' denominators constant."""

    decoder: Decoder
    frozen: bool
    _forms: dict[int, tuple[NormForm, NormForm]] = field(default_factory=dict)

    def wanted(self, state: State) -> list[Tensor]:
        """The tensors of a run's graph that gradients are needed of, in the order that `gradients` expects."""
        sites = [state.sites[site][layer] for layer in range(self.decoder.layers) for site in (*_OUTPUTS, "mlp_in")]
        return [*sites, state.residual[-1]]

    def gradients(
        self, state: State, found: list[Tensor]
    ) -> Iterator[tuple[int, Float[Tensor, "readers rows positions width"]]]:
        """(first reader's index in the graph, g of a group of its readers): each block's attention, MLP, the logits.

        `found`: gradients of the `wanted` tensors.
        """
        decoder = self.decoder
        exact = torch.promote_types(state.residual[0].dtype, torch.float32)
        reader = 0
        for layer, block in enumerate(decoder.blocks):
            attention, mlp = self._norms(layer)
            *outputs, behind = found[4 * layer : 4 * layer + 4]
            parts = []
            for kind, output in enumerate(outputs):
                heads = decoder.heads if kind == Q else decoder.kv_heads
                own = block.projected(kind, output.to(exact), heads, decoder.head_dim)
                weights = block.projection_weights(kind, heads, decoder.head_dim).to(exact)
                parts.append(torch.einsum("rshd,whd->hrsw", own, weights))
            stream = state.residual[layer].detach().to(exact)
            inverse = attention.inverse(stream, state.sites["attention_in"][layer].detach().to(exact))
            yield reader, attention.pull_back(stream, inverse, torch.cat(parts), self.frozen)
            reader += decoder.graph.per_layer - 1
            seen = state.middle[layer].detach().to(exact)
            inverse = mlp.inverse(seen, state.sites["mlp_in"][layer].detach().to(exact))
            yield reader, mlp.pull_back(seen, inverse, behind.to(exact)[None], self.frozen)
            reader += 1
        yield reader, found[4 * decoder.layers].to(exact)[None]

    def _norms(self, layer: int) -> tuple[NormForm, NormForm]:
        if layer not in self._forms:
            block = self.decoder.blocks[layer]
            self._forms[layer] = norm_form(block.attention_norm), norm_form(block.mlp_norm)
        return self._forms[layer]
