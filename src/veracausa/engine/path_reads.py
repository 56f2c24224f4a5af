"""What some heads of a block make of it when some of their queries, keys and values come from another stream.

Each head is given a query, a key and a value of its own, position by position either those of its context (the run as
it is) or those of the other stream, and attends to its own. The change of z goes through W_O of that head alone. The
projections of a stream are made once for all rows that see it; a row costs its heads' attention and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import K, Q, V
from veracausa.engine.attention import suffix_attention

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

#: Queries of a stream's own positions; its keys and values, those of the positions before first where they are held.
Heard = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class HeadReads:
    """Which heads of each row take what from another stream.

    `heads`: slot by slot, −1 in slots that a row does not need. `taken[row, slot, kind, position]`: whether its query,
    key or value there is the other stream's.
    """

    decoder: Decoder
    layer: int
    heads: Int[Tensor, "rows slots"]
    taken: Bool[Tensor, "rows slots kinds positions"]

    @classmethod
    def of(
        cls,
        decoder: Decoder,
        layer: int,
        seen: Sequence[Sequence[tuple[int, int, int, int]]],
        many: Sequence[int],
        positions: int,
        device: torch.device,
    ) -> HeadReads:
        """`seen`: readers (kind, head, first, last), each of so `many` rows in turn.

        Where something stands between heads and the output projection that may mix them, every row has all heads.
        """
        own = [sorted({head for _, head, *_ in readers}) for readers in seen]
        if not decoder.found.untouched(decoder.blocks[layer].attention_out):
            own = [list(range(decoder.heads))] * len(own)
        slots = max(map(len, own))
        heads = torch.full((len(seen), slots), -1)
        taken = torch.zeros(len(seen), slots, 3, positions, dtype=torch.bool)
        for row, (mine, readers) in enumerate(zip(own, seen, strict=True)):
            heads[row, : len(mine)] = torch.tensor(mine)
            for kind, head, first, last in readers:
                taken[row, mine.index(head), kind, first : last + 1] = True
        counts = torch.tensor(many)
        return cls(decoder, layer, *(one.repeat_interleave(counts, 0).to(device) for one in (heads, taken)))

    @property
    def filled(self) -> Bool[Tensor, "rows slots"]:
        """The slots that hold a head."""
        return self.heads >= 0

    @property
    def reading(self) -> Bool[Tensor, "rows slots"]:
        """The slots whose heads read something else."""
        return self.taken.flatten(2).any(-1)

    @property
    def readers(self) -> Int[Tensor, "rows 1 1"]:
        """How many heads of each row read something else."""
        return self.reading.sum(-1)[:, None, None]

    def values(
        self, context: Heard, at: Int[Tensor, " rows"], settings: dict[str, Any]
    ) -> Float[Tensor, "rows positions slots head_dim"]:
        """z of every row's heads in their context, row `at` of it. `settings`: of the attention function."""
        return self._attend([self._heads(part, kind, at) for kind, part in enumerate(context)], settings)

    def mixed(
        self, context: Heard, at: Int[Tensor, " rows"], other: Heard, source: Int[Tensor, " rows"], settings: Any
    ) -> Float[Tensor, "rows positions slots head_dim"]:
        """The same with what is `taken` from the `source`-th of other streams."""
        parts, positions = [], self.taken.shape[-1]
        for kind in (Q, K, V):
            part, taken = self._heads(context[kind], kind, at), self.taken[:, :, kind, :, None]
            if taken.any():
                late = part[:, :, -positions:]
                late.copy_(torch.where(taken, self._heads(other[kind], kind, source), late))
            parts.append(part)
        return self._attend(parts, settings)

    def _heads(self, part: Tensor, kind: int, rows: Tensor) -> Float[Tensor, "rows slots positions head_dim"]:
        """Each slot's own query (key, value), a copy."""
        share = 1 if kind == Q else self.decoder.heads // part.shape[1]
        return part[rows[:, None], self.heads.clamp_min(0) // share]

    def _attend(self, parts: list[Tensor], settings: dict[str, Any]) -> Tensor:
        if (bias := settings.get("position_bias")) is not None:  # each slot has that of its own head
            settings = settings | {"position_bias": lambda *of: bias(*of)[self.heads.clamp_min(0)]}
        if (sinks := settings.get("s_aux")) is not None:
            settings = settings | {"s_aux": sinks[self.heads.clamp_min(0)]}
        z, _ = suffix_attention(None, parts[0], parts[1], parts[2], None, **settings)
        part = self.decoder.blocks[self.layer].attention_out
        if self.decoder.found.untouched(part):
            return z
        return self.decoder.found.given(part, z.flatten(2)).unflatten(-1, z.shape[2:])

    def through(
        self, z: Float[Tensor, "rows positions slots head_dim"], where: Bool[Tensor, "rows slots"]
    ) -> Float[Tensor, "rows positions width"]:
        """W_O of the heads in some slots, summed, in float32 at least."""
        exact = torch.promote_types(z.dtype, torch.float32)
        weights = self.decoder.blocks[self.layer].head_weights.to(exact).unflatten(0, (self.decoder.heads, -1))
        found = torch.zeros(*z.shape[:2], self.decoder.width, dtype=exact, device=z.device)
        for head in self.heads[where].unique().tolist():
            row, slot = ((self.heads == head) & where).nonzero(as_tuple=True)
            found[row] += z[row, :, slot].to(exact) @ weights[head]
        return found
