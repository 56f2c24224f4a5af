"""Gradients at readers' inputs: ∂M/∂(what reader v takes from the stream), through v's norm and into v's channel only.

    g_v = J_normᵀ W_vᵀ ĝ_v,   ĝ_v = ∂M/∂(v's projection output, its own head's part; all of it if heads share v)
    g_v = J_normᵀ ĝ_v,        ĝ_v at the normed input, of an MLP or a mixer (plus the gradient at the stream that
                              experts beside an MLP read themselves)

One backward pass gives every ĝ. W_vᵀ is applied head by head, so all readers of a block cost one projection more,
and the norm's Jacobian is a closed form (`norms`). Summed over the readers behind a place of the stream, g_v is the
gradient of the stream there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy import Block, Decoder
from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.graph import of_projection
from veracausa.engine.norms import norm_form
from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float

#: What a run must hold, with its graph.
SITES = ("attention_in", "mixer_in", "mlp_in", "mlp_beside", "q_out", "k_out", "v_out")
_OUTPUTS = ("q_out", "k_out", "v_out")


@dataclass(frozen=True)
class Reads:
    """How gradients come back to readers' inputs; `frozen`: a backward rule holds the norms' denominators constant."""

    decoder: Decoder
    frozen: bool

    def wanted(self, state: State, since: tuple[int, bool] = (0, False)) -> list[Tensor]:
        """The tensors of a run's graph that gradients are needed of, in the order that `gradients` expects.

        `since`: the place of the stream, as (block, middle), behind which readers are asked for.
        """
        sites: list[Tensor] = []
        for layer, block in enumerate(self.decoder.blocks):
            if (layer, False) >= since:
                for part in block.mixers:
                    own = ("mixer_in",) if part.mixing == "mixer" else _OUTPUTS
                    sites += [state.sites[site][layer] for site in own]
            if (layer, True) >= since and block.has_mlp:
                sites.append(state.sites["mlp_in"][layer])
                sites += [state.sites["mlp_beside"][layer]] if isinstance(block.mlp, NormedMLPs) else []
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
            at = decoder.graph.block(layer)
            if (layer, False) >= since and at.count:
                back = torch.cat([self._mixing(part, waiting, exact) for part in block.mixers])
                seen, given = state.residual[layer], state.sites["attention_in"][layer]
                yield at.attention.start, self._through(block.attention_norm, seen, given, back)
            if (layer, True) >= since and block.has_mlp:
                back, seen, given = next(waiting).to(exact)[None], state.middle[layer], state.sites["mlp_in"][layer]
                through = self._through(block.mlp_norm, seen, given, back)
                beside = next(waiting).to(exact) if isinstance(block.mlp, NormedMLPs) else None
                yield at.mlp_reader.start, through if beside is None else through + beside
        yield decoder.graph.readers - 1, next(waiting).to(exact)[None]

    def _mixing(
        self, block: Block, waiting: Iterator[Tensor], exact: torch.dtype
    ) -> Float[Tensor, "readers rows positions width"]:
        """Gradients at the normed inputs of an attention's queries, keys and values, or of a mixer."""
        if block.mixing == "mixer":
            return next(waiting).to(exact)[None]
        decoder, parts, outputs = self.decoder, [], [next(waiting).to(exact) for _ in _OUTPUTS]
        for kind, count in decoder.graph.attention_readers(block.layer).items():
            one = of_projection(kind)
            own = block.projected(one, outputs[one], count, block.head_dim)
            weights = block.projection_weights(one, count, block.head_dim).to(exact) * block.given_scale
            parts.append(torch.einsum("rshd,whd->hrsw", own, weights))
        return torch.cat(parts)

    def _through(self, norm: nn.Module, seen: Tensor, given: Tensor, back: Tensor) -> Tensor:
        """Gradients at what a norm is given, of those behind it."""
        form = norm_form(self.decoder, norm)
        seen = seen.detach().to(back)
        return form.pull_back(seen, form.inverse(seen, given.detach().to(back)), back, self.frozen)
