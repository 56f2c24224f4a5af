"""Scores of LoRA adapters: the change of what each adds, contracted with the gradient there.

    Δc_u · ∂M/∂c_u,   c_u = s B(A x)

Gradients are those of a map's own output, and all else is live, later adapters of the block among it. So they are of
single adapters; all of a layer together (`lora3`) are set on a path of their site alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.adapters import Adapted, adapted_of
from veracausa.effects.moves import own_part
from veracausa.engine.overrides import Override
from veracausa.engine.patches import activation, where
from veracausa.engine.suffix import Join, through
from veracausa.estimates.paths.bucket import Site
from veracausa.estimates.paths.unit_sums import UnitSums

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(eq=False)
class AdapterSums(UnitSums):
    """How one bucket's scores of adapters are added up."""

    #: Site → what its rows set in the place of what is there, known when they move.
    _set: dict[int, Tensor] = field(default_factory=dict)

    def _adapted(self, layer: int) -> Adapted:
        return adapted_of(self.bucket.lm.decoder.blocks[layer])

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """See `UnitSums.move`."""
        layer = self.layers[site.number]
        delta = self.difference(layer)[example]
        self._set[site.number] = torch.ones_like(delta, dtype=torch.bool)
        if units[0] < 0:
            return delta
        table, own = self.units[np.array(units)], torch.zeros_like(delta)
        for row, index in enumerate(table.index.tolist()):
            own[row, :, self._adapted(layer).numbers(index)] = 1
        own = own_part(own, table, self.bucket.tape.start, self.bucket.lm.heads)
        self._set[site.number] = own != 0
        return delta * own

    def join(self, site: Site, example: Tensor, change: Tensor) -> Join:
        """See `UnitSums.join`: rows are run from the block on."""
        bucket, layer = self.bucket, self.layers[site.number]
        decoder, taken = bucket.lm.decoder, self._set[site.number]
        at = where(decoder, "adapters", layer)

        def entered() -> Tensor:
            values = activation(bucket.base, "adapters", layer)[example] + change
            override = Override("adapters", torch.arange(len(example), device=change.device), taken, lambda: values)
            return through(
                bucket.tape, bucket.base, decoder.blocks[layer], example, [override], start=bucket.tape.start,
                cost=bucket.cost,
            )  # fmt: skip

        return Join(*at.join, example, entered)

    def contract(self, layer: int, products: Float[Tensor, "rows positions site"]) -> Float[Tensor, "rows units"]:
        """See `UnitSums.contract`."""
        found, units = self._adapted(layer), self.units[self.of_layer(layer)]
        products = products.to(self.bucket.lm.score_dtype)
        parts = [products[..., found.numbers(index)].sum(-1) for index in units.index.tolist()]
        return self.placed(units, torch.stack(parts, -1))
