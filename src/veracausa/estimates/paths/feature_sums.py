"""Scores of features, directions and errors: the change of each part of a code's site, contracted with the gradient.

    Δa_i · (g · W_i),   Δε · g,   g = ∂M/∂(what the dictionary explains)

so one backward pass serves all features of all dictionaries. On a path of the site (`layer`) every feature goes
straight from its own value to its replacement, and the error with them, so that they add up to the effect of patching
the site. On the path `encoded` y goes straight, and its parts are what it is encoded as on the way:

    Σ_k (a_i(C_k) − a_i(C_{k−1})) · (g_k · W_i),   C_k = w_1 + … + w_k

so that node k stands for the stretch of the path that is its weight. Parts add up to y at every α, so the scores have
the same sum as on `layer`, and are the same where no feature crosses a threshold.

Features of a cross-layer transcoder write to the MLPs of later layers, too: Δa_i · Σ_l (g_l · W_{i → l}), where all g_l
are those of one run. On a path of the site all that a layer's features write, to whatever layer, goes straight
together, and the layer's error with it; the sum is the effect of adding all of that. Every feature is told apart there,
since what the others write to later layers is no part of the site.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.dictionaries.code import Code
from veracausa.dictionaries.words import is_coded
from veracausa.effects.moves import own_part
from veracausa.engine.coded import own_change, written_at
from veracausa.engine.inner_maps import changed_map
from veracausa.engine.overrides import Override
from veracausa.engine.patches import Place, activation, acts_inside, join, recorded_at, where
from veracausa.engine.suffix import Join, through
from veracausa.engine.tape import State
from veracausa.estimates.paths.bucket import Site, SiteRow, SiteRuns, columns
from veracausa.estimates.paths.grids import grid
from veracausa.estimates.paths.unit_sums import UnitSums

if TYPE_CHECKING:
    from jaxtyping import Float


class FeatureSums(UnitSums):
    """How one bucket's scores of a dictionary's parts are added up."""

    def _code(self, layer: int) -> Code:
        return self.bucket.lm.decoder.codes[self.units.place, layer]

    @cached_property
    def later(self) -> list[int]:
        """Layers to which features of the units' layers write behind their own."""
        return sorted({layer for own in self.layers for layer in self._code(own).dictionary.layers[1:]})

    def wanted(self, state: State) -> list[Tensor]:
        """See `Sums.wanted`; behind them what is written at all layers that features write on to."""
        at = written_at(self._code(self.layers[0]))
        return [*super().wanted(state), *(recorded_at(state, at, layer) for layer in self.later)]

    def gradients(self, state: State, found: list[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        """See `Sums.gradients`."""
        own, behind = found[: len(self._taken)], dict(zip(self.later, found[len(self._taken) :], strict=True))
        for i, gradient in enumerate(own):
            place, layer = self._taken[i]
            if behind and is_coded(place):
                code = self._code(layer)
                onward = {other: behind[other] for other in code.dictionary.layers[1:]}
                yield i, i, code.pulled(gradient, onward)
            else:
                yield i, i, self.as_site(gradient, place, layer)

    def as_site(self, gradient: Tensor, place: Place, layer: int) -> Float[Tensor, "rows positions site"]:
        """See `UnitSums.as_site`."""
        if is_coded(place):
            code = self._code(layer)
            inside = acts_inside(self.bucket.lm.decoder, place, layer)
            return code.pulled(code.posted(gradient) if inside and code.posted else gradient)
        return super().as_site(gradient, place, layer)

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """See `UnitSums.move`."""
        layer = self.layers[site.number]
        delta = self.difference(layer)[example]
        if units[0] < 0:
            return delta
        table = self.units[np.array(units)]
        share = self._code(layer).taken(table.index, delta)
        return own_part(delta * share[:, None], table, self.bucket.tape.start, self.bucket.lm.heads)

    def join(self, site: Site, example: Tensor, change: Tensor) -> Join:
        """See `UnitSums.join`; of a map inside a block that is run again."""
        bucket, place, layer = self.bucket, self.units.place, self.layers[site.number]
        decoder, code = bucket.lm.decoder, self._code(layer)
        at = where(decoder, place, layer)
        if not acts_inside(decoder, place, layer):

            def written() -> Tensor:
                return own_change(decoder, code, code.change(change), bucket.base.residual[layer])

            return join(decoder, bucket.base, at, example, 0, written)

        def entered() -> Tensor:
            again = changed_map(decoder, at, code.change(change))
            return through(
                bucket.tape, bucket.base, decoder.blocks[layer], example, [again], start=bucket.tape.start,
                cost=bucket.cost,
            )  # fmt: skip

        return Join(*at.join, example, entered)

    def carried(self, site: Site, rows: Tensor, change: Tensor) -> Iterator[tuple[int, Override]]:
        """See `Sums.carried`: what features of a cross-layer transcoder write behind their own layer."""
        dictionary = self._code(self.layers[site.number]).dictionary
        at, f = written_at(self._code(self.layers[site.number])), change[..., : dictionary.size]
        moving = f.detach().flatten(0, 1).any(0).nonzero()[:, 0]
        taken = torch.ones(*change.shape[:2], 1, dtype=torch.bool, device=change.device)

        def written(layer: int) -> Tensor:
            return f[..., moving] @ dictionary.rows(moving, layer)

        for layer in dictionary.layers[1:]:
            yield layer, Override(at, rows, taken, partial(written, layer), added=True)

    def add_sites(self, ran: SiteRuns) -> None:
        """See `Sums.add_sites`."""
        if self.bucket.method.path == "encoded":
            moves = [self._steps(site, rows, move) for (site, rows), move in zip(ran.by_site, ran.moves, strict=True)]
            ran = replace(ran, moves=moves)
        super().add_sites(ran)

    @torch.no_grad()
    def _steps(self, site: Site, rows: list[SiteRow], move: Tensor) -> Float[Tensor, "rows positions site"]:
        """What the parts of y do on the stretch that each row stands for, in units of its weight."""
        layer = self.layers[site.number]
        code, method = self._code(layer), self.bucket.method
        alphas, weights = grid(method.grid, method.nodes, corrupted_at_one=self.bucket.noising)
        ends = dict(zip(alphas.tolist(), np.cumsum(weights).tolist(), strict=True))
        example, weight = columns(rows, move)
        behind = torch.tensor([ends[row.alpha] for row in rows], device=move.device, dtype=move.dtype)
        base = code.explained(activation(self.bucket.base, self.units.place, layer))[example]
        whole = code.change(move)

        def encoded(share: Tensor) -> Tensor:
            y = base + share[:, None, None] * whole
            return code.site(y, y, posted=False)

        steps = encoded(behind) - encoded(behind - weight)
        return steps / weight.clamp_min(torch.finfo(weight.dtype).tiny)[:, None, None]

    def contract(self, layer: int, products: Float[Tensor, "rows positions site"]) -> Float[Tensor, "rows units"]:
        """See `UnitSums.contract`."""
        code, units = self._code(layer), self.units[self.of_layer(layer)]
        products = products.to(self.bucket.lm.score_dtype)
        per_part = code.by_part(products)
        return self.placed(units, per_part[..., torch.as_tensor(code.parts(units.index), device=products.device)])
