"""Gradients at readers' inputs: ∂M/∂(what reader v takes from the stream), through v's norm and into v's channel only.

    g_v = J_normᵀ W_vᵀ ĝ_v,   ĝ_v = ∂M/∂(v's projection output, its own head's part; all of it if heads share v)
    g_v = J_normᵀ ĝ_v,        ĝ_v at the normed input, of an MLP or a mixer (plus the gradient at the stream that
                              experts beside an MLP read themselves)

One backward pass gives every ĝ. W_vᵀ is applied head by head, so all readers of a block cost one projection more,
and the norm's Jacobian is a closed form (`norms`). Summed over the readers behind a place of the stream, g_v is the
gradient of the stream there.

An attention's g_v are many (readers × tokens × width) and memory bounds them: they are written once and corrected once.
With W̃ = C γ W_v, x̂ = C x / s and the sum over rows r that go to one place (points of a path, w_r),

    Σ_r w_r g_v(r) = W̃ᵀ Σ_r w_r ĝ_v(r) / s_r − Σ_r x̂_r · w_r ⟨ĝ_v(r), W̃ x̂_r⟩ / (d s_r)

so that the sum is taken before the projection, and ⟨ĝ_v, W̃ x̂⟩ of what the projection gave (W̃ x̂ = its output less
that of the norm's bias), in half types of x̂ itself. The second term is not there where norms are held constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.graph import of_projection
from veracausa.engine.norms import Normed, norm_form
from veracausa.engine.row_sums import RowSums
from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float

#: What a run must hold, with its graph.
SITES = ("attention_in", "mixer_in", "mlp_in", "mlp_beside", "q_out", "k_out", "v_out")
_OUTPUTS = ("q_out", "k_out", "v_out")


@dataclass(frozen=True)
class Projected:
    """What readers of a kind take from x̂: W̃ = C γ W_v, and what their projection gives for x̂ = 0."""

    weight: Float[Tensor, "width readers numbers"]
    nothing: Float[Tensor, "readers numbers"]
    unit: Float[Tensor, "rows positions width"]

    @classmethod
    def of(cls, block: Block, kind: int, count: int, normed: Normed) -> Projected:
        """Of `count` readers of a block's query (0), key (1) or value (2) projection."""
        own = block.projection_weights(kind, count, block.head_dim).to(normed.unit) * block.given_scale
        given, bias = normed.form.bias, block.projection(kind).bias
        nothing = own.new_zeros(own.shape[1:])
        if given is not None:
            nothing = nothing + torch.einsum("w,wrn->rn", given.to(own), own)
        if bias is not None:
            nothing = nothing + block.layout.projected(kind, bias.to(own), count, block.head_dim)
        return cls(normed.form.before(own), nothing, normed.unit)

    def of_unit(self, output: Float[Tensor, "rows positions readers numbers"]) -> Tensor:
        """W̃ᵀ x̂: off the projection's own output, if that has not been rounded to a half type."""
        if output.dtype == self.unit.dtype:
            return output - self.nothing
        return (self.unit @ self.weight.flatten(1)).unflatten(-1, self.weight.shape[1:])


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
        self, state: State, found: list[Tensor], since: tuple[int, bool] = (0, False), sums: RowSums | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "readers places positions width"]]]:
        """(first reader's index in the graph, g of a group of its readers): each block's attention, MLP, the logits.

        `found`: gradients of the `wanted` tensors. Rows and positions are those that the run had at each place.
        `sums`: which rows are added up (None: every row stays).
        """
        decoder, waiting = self.decoder, iter(found)
        exact = torch.promote_types(state.residual[-1].dtype, torch.float32)
        sums = RowSums.apart(len(state.residual[-1]), state.residual[-1].device) if sums is None else sums
        for layer, block in enumerate(decoder.blocks):
            at = decoder.graph.block(layer)
            if (layer, False) >= since and at.count:
                seen, given = state.residual[layer], state.sites["attention_in"][layer]
                normed = Normed.of(norm_form(decoder, block.attention_norm), seen, given, exact)
                own = sums.of_first(len(seen))
                back = [self._mixing(part, waiting, state, normed, own) for part in block.mixers]
                yield at.attention.start, back[0] if len(back) == 1 else torch.cat(back)
            if (layer, True) >= since and block.has_mlp:
                seen, given = state.middle[layer], state.sites["mlp_in"][layer]
                normed = Normed.of(norm_form(decoder, block.mlp_norm), seen, given, exact)
                through = normed.pull_back(next(waiting), self.frozen)
                if isinstance(block.mlp, NormedMLPs):
                    through = through + next(waiting).to(exact)
                own = sums.of_first(len(seen))
                yield at.mlp_reader.start, own.summed(own.weighted(through))[None]
        yield decoder.graph.readers - 1, sums.summed(sums.weighted(next(waiting).to(exact)))[None]

    def _mixing(
        self, block: Block, waiting: Iterator[Tensor], state: State, normed: Normed, sums: RowSums
    ) -> Float[Tensor, "readers places positions width"]:
        """Gradients at what an attention's queries, keys and values read, or a mixer."""
        if block.mixing == "mixer":
            return sums.summed(sums.weighted(normed.pull_back(next(waiting), self.frozen)))[None]
        layer, counts = block.layer, self.decoder.graph.attention_readers(block.layer)
        outputs = [next(waiting) for _ in _OUTPUTS]
        shape = (sums.count, *normed.unit.shape[1:])
        found, along = normed.unit.new_empty(sum(counts.values()), *shape), list[Tensor]()
        for kind, count in counts.items():
            one = of_projection(kind)
            read = Projected.of(block, one, count, normed)
            gradient = block.layout.projected(one, outputs[one], count, block.head_dim).to(normed.unit)
            own = sums.weighted(gradient * normed.inverse[..., None])
            given = block.layout.projected(one, state.sites[_OUTPUTS[one]][layer].detach(), count, block.head_dim)
            first = sum(map(len, along))
            into = found[first : first + count].flatten(1, 2)
            torch.bmm(sums.summed(own).flatten(0, 1).transpose(0, 1), read.weight.permute(1, 2, 0), out=into)
            along.append((own * read.of_unit(given)).sum(-1).movedim(-1, 0))
        return found if self.frozen else normed.less_along(found, torch.cat(along), sums)
