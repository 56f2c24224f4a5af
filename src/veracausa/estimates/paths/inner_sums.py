"""Scores of what acts inside a block, LoRA adapters and gates of mixers: changes, contracted with gradients there.

    Δc_u · ∂M/∂c_u,   c_u = s B(A x), or what a channel is gated with

On paths of a site or a unit rows are run from their own block on.

Gradients are those of a map's own output, and all else is live, later adapters of the block among it. So they are of
single adapters; all of a layer together (`lora3`) are set on a path of their site alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.adapters import adapted_of
from veracausa.effects.moves import own_part
from veracausa.engine.overrides import Override
from veracausa.engine.patches import activation, where
from veracausa.engine.suffix import Join, through
from veracausa.estimates.paths.bucket import Site
from veracausa.estimates.paths.unit_sums import UnitSums

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(eq=False)
class InnerSums(UnitSums):
    """How one bucket's scores of gates are added up."""

    #: Site → what its rows set in the place of what is there, known when they move.
    _set: dict[int, Tensor] = field(default_factory=dict)

    def numbers(self, layer: int, index: int) -> slice:
        """Which numbers of a layer's site a unit is."""
        return slice(None) if index < 0 else slice(index, index + 1)

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """See `UnitSums.move`."""
        layer = self.layers[site.number]
        delta = self.difference(layer)[example]
        self._set[site.number] = torch.ones_like(delta, dtype=torch.bool)
        if units[0] < 0:
            return delta
        table, own = self.units[np.array(units)], torch.zeros_like(delta)
        for row, index in enumerate(table.index.tolist()):
            own[row, :, self.numbers(layer, index)] = 1
        own = own_part(own, table, self.bucket.tape.start, self.bucket.lm.heads)
        self._set[site.number] = own != 0
        return delta * own

    def join(self, site: Site, example: Tensor, change: Tensor) -> Join:
        """See `UnitSums.join`: rows are run from the block on."""
        bucket, layer = self.bucket, self.layers[site.number]
        decoder, taken, place = bucket.lm.decoder, self._set[site.number], self.units.place
        at = where(decoder, place, layer)

        def entered() -> Tensor:
            values = activation(bucket.base, place, layer)[example] + change
            override = Override(place, torch.arange(len(example), device=change.device), taken, lambda: values)
            return through(
                bucket.tape, bucket.base, decoder.blocks[layer], example, [override], start=bucket.tape.start,
                cost=bucket.cost,
            )  # fmt: skip

        return Join(*at.join, example, entered)


@dataclass(eq=False)
class AdapterSums(InnerSums):
    """The same of LoRA adapters."""

    def numbers(self, layer: int, index: int) -> slice:
        """See `InnerSums.numbers`."""
        return adapted_of(self.bucket.lm.decoder.blocks[layer]).numbers(index)

    def contract(self, layer: int, products: Float[Tensor, "rows positions site"]) -> Float[Tensor, "rows units"]:
        """See `UnitSums.contract`."""
        units, products = self.units[self.of_layer(layer)], products.to(self.bucket.lm.score_dtype)
        parts = [products[..., self.numbers(layer, index)].sum(-1) for index in units.index.tolist()]
        return self.placed(units, torch.stack(parts, -1))
