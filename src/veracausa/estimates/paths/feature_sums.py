"""Scores of features, directions and errors: the change of each part of a code's site, contracted with the gradient.

    Δa_i · (g · W_i),   Δε · g,   g = ∂M/∂(what the dictionary explains)

so one backward pass serves all features of all dictionaries. On a path of the site (`layer`) every feature goes
straight from its own value to its replacement, and the error with them, so that they add up to the effect of patching
the site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.dictionaries.code import Code
from veracausa.dictionaries.words import is_coded
from veracausa.effects.moves import own_part
from veracausa.engine.patches import Place
from veracausa.estimates.paths.bucket import Site
from veracausa.estimates.paths.unit_sums import UnitSums

if TYPE_CHECKING:
    from jaxtyping import Float


class FeatureSums(UnitSums):
    """How one bucket's scores of a dictionary's parts are added up."""

    def _code(self, layer: int) -> Code:
        return self.bucket.lm.decoder.codes[self.units.place, layer]

    def as_site(self, gradient: Tensor, place: Place, layer: int) -> Float[Tensor, "rows positions site"]:
        """See `UnitSums.as_site`."""
        if is_coded(place):
            return self._code(layer).pulled(gradient)
        return super().as_site(gradient, place, layer)

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """See `UnitSums.move`."""
        layer = self.layers[site.number]
        delta = self.difference(layer)[example]
        if units[0] < 0:
            return delta
        table, code = self.units[np.array(units)], self._code(layer)
        one = torch.zeros(len(units), code.features + 2, dtype=delta.dtype, device=delta.device)
        one[torch.arange(len(units)), torch.as_tensor(code.parts(table.index))] = 1
        share = code.spread(one[:, : len(code.widths)])
        return own_part(delta * share[:, None], table, self.bucket.tape.start, self.bucket.lm.heads)

    def contract(self, layer: int, products: Float[Tensor, "rows positions site"]) -> Float[Tensor, "rows units"]:
        """See `UnitSums.contract`."""
        code, units = self._code(layer), self.units[self.of_layer(layer)]
        products = products.to(self.bucket.lm.score_dtype)
        n, width = code.features, code.weight.shape[1]
        summed = products[..., n:].unflatten(-1, (-1, width)).sum(-1)
        per_part = torch.cat([products[..., :n], summed], -1)
        return self.placed(units, per_part[..., torch.as_tensor(code.parts(units.index), device=products.device)])
