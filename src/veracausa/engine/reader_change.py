"""What happens when one reader alone sees another stream: its input becomes `residual + Δ` (before its norm).

A query, key or value is recomputed from norm(residual + Δ) by the model's own attention module, and the attention of
its head (of its key/value group; of all heads that share a reader) is run again with everything else as it was: z
changes. An MLP or a mixer is run on
the changed input (a mixer on all positions before, too, as they were). The change of the block's output joins the
stream right behind that write (`patches.enter`); all other readers still see what they saw. One pass over norm(residual
+ Δ) serves all queries, keys and values of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import KV, LOGITS, MIXER, MLP, K, Q, V
from veracausa.cost import Cost
from veracausa.engine.attention import Past, suffix_attention
from veracausa.engine.patches import Where, enter
from veracausa.engine.tape import State, Tape, slice_call

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: What a tape must hold so that readers can be run again.
SITES = ("z", "attention", "channels", "mixed", "mlp", "queries", "keys", "values")
#: Reader kind → what of it the attention function is given.
_GIVEN = {Q: ("queries",), K: ("keys",), V: ("values",), KV: ("keys", "values")}


@dataclass(frozen=True)
class Reading:
    """Readers of one run of a bucket, at positions `offset` … (counted from the tape's start)."""

    decoder: Decoder
    tape: Tape
    base: State
    offset: int = 0

    def joins_at(self, layer: int, kind: int) -> tuple[int, bool]:
        """(layer, middle) where a reader's changed output enters the stream (see `suffix.Join`)."""
        if kind in _GIVEN or kind == MIXER:
            return (layer, True) if not self.decoder.blocks[layer].parallel else (layer + 1, False)
        return (layer, False) if kind == LOGITS else (layer + 1, False)

    def enter(
        self,
        layer: int,
        kind: Int[Tensor, " rows"],
        index: Int[Tensor, " rows"],
        source: Int[Tensor, " rows"],
        delta: Float[Tensor, "sources positions width"],
        of: Int[Tensor, " sources"],
        cost: Cost,
    ) -> Float[Tensor, "rows positions width"]:
        """The stream behind readers of one block, all in its attention (mixer) or all MLPs (or the logits).

        Each row's reader sees one of the changes `delta`: `source[r]`; `of`: the example of each change. `kind` and
        `index`: what the reader is, and its head or key/value head.
        """
        first, example = int(kind[0]), of[source]
        if first == LOGITS:
            stream = self.base.residual[layer][example, self.offset :]
            return stream + delta[source].to(stream.dtype)
        cost.add(len(delta), delta.shape[1])
        if first == MLP:
            at, change = Where("mlp", layer, self.joins_at(layer, first)), self._mlp(layer, delta, of)[source]
        elif bool((kind == MIXER).all()):
            at, change = Where("channels", layer, self.joins_at(layer, first)), self._mixer(layer, delta, of)[source]
        else:
            at, change = Where("z", layer, self.joins_at(layer, first)), delta.new_empty(len(source), *delta.shape[1:])
            change = change.to(self.base.residual[layer].dtype)
            heard = tuple(one for one in kind.unique().tolist() if one != MIXER)
            found = self.value_change(layer, heard, delta, of)
            for one in found:
                mine = kind == one
                change[mine] = self._through(layer, one, index[mine], found[one], source[mine])
            if len(heard) < len(kind.unique()):  # a mixer stands beside the attention, without a norm behind them
                change[kind == MIXER] = self._mixer(layer, delta, of)[source[kind == MIXER]].to(change.dtype)
        return enter(self.decoder, self.base, at, example, self.offset, change)

    def value_change(
        self, layer: int, kinds: tuple[int, ...], delta: Float[Tensor, "sources positions width"], of: Tensor
    ) -> dict[int, Float[Tensor, "sources positions heads head_dim"]]:
        """Change of all heads' values z if their queries (keys, values) alone come from residual + Δ, by kind."""
        decoder, base = self.decoder, self.base
        block = decoder.blocks[layer]
        stream = base.residual[layer][of, self.offset :]
        own = self.read(layer, stream + delta.to(stream.dtype), of)
        kept = {site: base.sites[site][layer][of] for site in ("queries", "keys", "values")}
        kept["queries"] = kept["queries"][:, :, self.offset :]
        old = base.sites["z"][layer][of, self.offset :].unflatten(-1, (decoder.heads, -1))
        changes = {}
        for kind in kinds:
            parts = kept | {site: own[site] for site in _GIVEN[kind]}
            for site in {"keys", "values"} & {*_GIVEN[kind]}:  # the positions before keep what they have
                before = kept[site].shape[2] - own[site].shape[2]
                parts[site] = torch.cat([kept[site][:, :, :before], own[site]], 2)
            read = (parts["queries"], parts["keys"], parts["values"])
            z, _ = suffix_attention(None, *read, None, **base.attention[layer])
            given = decoder.found.given(block.attention_out, z.flatten(2))
            changes[kind] = given.unflatten(-1, z.shape[2:]) - old
        return changes

    def read(self, layer: int, stream: Float[Tensor, "rows positions width"], of: Tensor) -> dict[str, Tensor]:
        """Queries, keys and values that a block's attention module makes of a stream; `of`: each row's example."""
        block, base, first = self.decoder.blocks[layer], self.base, self.tape.start + self.offset
        own: dict[str, Tensor] = {}

        def keep(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> None:
            own.update(queries=query, keys=key, values=value)

        past = Past(base.keys[layer][:, :, :first], base.values[layer][:, :, :first], of)
        call = slice_call(self.tape.call(block), self.offset) | {"attention_mask": None, "past": past, "keep": keep}
        block.attention(block.given(stream), **call)
        return own

    def _through(self, layer: int, kind: int, index: Tensor, change: Tensor, source: Tensor) -> Tensor:
        """W_O of the heads that each row's reader belongs to."""
        decoder = self.decoder
        weights = decoder.blocks[layer].head_weights.unflatten(0, (decoder.heads, -1))
        share = decoder.heads // decoder.graph.attention_readers(layer)[kind]
        rows = change.new_empty(len(source), change.shape[1], decoder.width)
        for one in index.unique().tolist():
            mine, heads = index == one, slice(max(0, one) * share, (max(0, one) + 1) * share)
            rows[mine] = change[source[mine]][:, :, heads].flatten(2) @ weights[heads].flatten(0, 1)
        return rows

    def _mixer(self, layer: int, delta: Tensor, of: Tensor) -> Tensor:
        """Change of what the mixer writes (under a post-norm: of its output)."""
        mixer, stream = self.decoder.blocks[layer].mixer, self.base.residual[layer][of]
        assert mixer is not None
        seen = stream[:, self.offset :] + delta.to(stream.dtype)
        output = mixer.mixed(stream[:, : self.offset], seen, self.tape.call(mixer))
        return (output - self.base.sites["mixed"][layer][of, self.offset :]) * mixer.attention_scale

    def _mlp(self, layer: int, delta: Tensor, of: Tensor) -> Tensor:
        """Change of what the MLP writes (under a post-norm: of its output)."""
        block, seen = self.decoder.blocks[layer], self.base.middle[layer][of, self.offset :]
        output = block.run_mlp(block.mlp_norm(seen + delta.to(seen.dtype)))
        return (output - self.base.sites["mlp"][layer][of, self.offset :]) * block.mlp_scale
