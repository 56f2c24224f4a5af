"""Gradients at readers' inputs: ∂M/∂(what reader v takes from the stream), through v's norm and into v's channel only.

    g_v = J_normᵀ W_vᵀ ĝ_v,   ĝ_v = ∂M/∂(v's projection output, its own head's part), or at the MLP's normed input

One backward pass gives every ĝ. W_vᵀ is applied head by head, so all readers of a block cost one projection more,
and the norm's Jacobian is a closed form (`norms`). Summed over the readers behind a place of the stream, g_v is the
gradient of the stream there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import K, Q, V
from veracausa.engine.norms import NormForm, norm_form
from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float

#: What a run must hold, with its graph.
SITES = ("attention_in", "mlp_in", "q_out", "k_out", "v_out")
_OUTPUTS = ("q_out", "k_out", "v_out")


@dataclass(frozen=True)
class Reads:
    """How gradients come back to readers' inputs; `frozen`: a backward rule holds the norms' denominators constant."""

    decoder: Decoder
    frozen: bool
    _forms: dict[int, tuple[NormForm, NormForm]] = field(default_factory=dict)

    def wanted(self, state: State, since: tuple[int, bool] = (0, False)) -> list[Tensor]:
        """The tensors of a run's graph that gradients are needed of, in the order that `gradients` expects.

        `since`: the place of the stream, as (block, middle), behind which readers are asked for.
        """
        sites: list[Tensor] = []
        for layer in range(self.decoder.layers):
            if (layer, False) >= since:
                sites += [state.sites[site][layer] for site in _OUTPUTS]
            if (layer, True) >= since:
                sites.append(state.sites["mlp_in"][layer])
        return [*sites, state.residual[-1]]

    def gradients(
        self, state: State, found: list[Tensor], since: tuple[int, bool] = (0, False)
    ) -> Iterator[tuple[int, Float[Tensor, "readers rows positions width"]]]:
        """(first reader's index in the graph, g of a group of its readers): each block's attention, MLP, the logits.

        `found`: gradients of the `wanted` tensors. Rows and positions are those that the run had at each place.
        """
        decoder, waiting = self.decoder, iter(found)
        exact = torch.promote_types(state.residual[-1].dtype, torch.float32)
        for layer, block in enumerate(decoder.blocks):
            attention, mlp = self._norms(layer)
            at = decoder.graph.block(layer)
            if (layer, False) >= since:
                parts = []
                for kind in (Q, K, V):
                    heads = decoder.heads if kind == Q else decoder.kv_heads
                    own = block.projected(kind, next(waiting).to(exact), heads, decoder.head_dim)
                    weights = block.projection_weights(kind, heads, decoder.head_dim).to(exact)
                    parts.append(torch.einsum("rshd,whd->hrsw", own, weights))
                stream = state.residual[layer].detach().to(exact)
                inverse = attention.inverse(stream, state.sites["attention_in"][layer].detach().to(exact))
                yield at.attention.start, attention.pull_back(stream, inverse, torch.cat(parts), self.frozen)
            if (layer, True) >= since:
                seen = state.middle[layer].detach().to(exact)
                inverse = mlp.inverse(seen, state.sites["mlp_in"][layer].detach().to(exact))
                yield at.mlp_reader, mlp.pull_back(seen, inverse, next(waiting).to(exact)[None], self.frozen)
        yield decoder.graph.readers - 1, next(waiting).to(exact)[None]

    def _norms(self, layer: int) -> tuple[NormForm, NormForm]:
        if layer not in self._forms:
            block = self.decoder.blocks[layer]
            self._forms[layer] = norm_form(self.decoder, block.attention_norm), norm_form(self.decoder, block.mlp_norm)
        return self._forms[layer]
