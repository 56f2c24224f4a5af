"""Scores of units: activation differences contracted with gradients in the units' own site, once for all paths.

    mean:        Σ_k w_k Δ_u · g_k,   Δ_u = replacement − own value
    increments:  Σ_k (a_u^{k+1} − a_u^k) · ½(g_k + g_{k+1}), the left rule, or tangents (see `network`)

Increments are complete if those of the residual stream at the units' layer add up to M(x′) − M(x) (`Completeness`).

With rule qk-exact the attention pattern is recomputed with the patched queries or keys, and the change of the heads'
values is contracted with the gradient there: (A_patched − A) v · ∂M/∂z. With graddrop a score is the mean magnitude
over passes that each drop one layer's gradient (both AtP*, 2403.00745).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.moves import own_part
from veracausa.engine.bucket import Bucket
from veracausa.engine.patches import (
    Place,
    activation,
    as_site,
    join,
    kept_width,
    output_change,
    recorded,
    sites_for,
    value_change,
    where,
)
from veracausa.engine.session import Session
from veracausa.engine.stretches import Stretch
from veracausa.engine.suffix import Join
from veracausa.engine.tape import State
from veracausa.estimates.paths.bucket import Graph, Site, SiteRuns, Sums, columns
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Decoder
    from veracausa.estimates.method import Method
    from veracausa.model import Model


@dataclass(eq=False)
class UnitSums(Sums):
    """How one bucket's scores of units are added up."""

    _differences: dict[int, Tensor] = field(default_factory=dict)

    @staticmethod
    def kept(lm: Model, units: Units, length: int) -> int:
        """See `Sums.kept`."""
        return kept_width(lm.decoder, units.place, length) + lm.width

    @staticmethod
    def record(
        call: Session,
        units: Units,
        method: Method,
        start: int,
        examples: tuple[int, ...],
        grad: Graph | None,
        noising: bool | None,
    ) -> Bucket:
        """See `Sums.record`."""
        asked, sites, places = (call.lm, call.task, start, examples, call.cost), sites_for(units.place), (units.place,)
        return Bucket.record(*asked, sites=sites, places=places, grad=grad, noising=noising)

    @staticmethod
    def beside(lm: Model, units: Units, method: Method) -> float:
        """See `Sums.beside`: for graddrop the stream's gradients, then from each dropped block down to the first."""
        if method.signed:
            return 0.0
        below = sum(block for block in range(lm.layers) if block > units.layer.min())
        return (lm.layers + below) * (1 if method.path == "point" else method.nodes)

    @staticmethod
    def compared(decoder: Decoder, units: Units, method: Method) -> Sequence[int | str]:
        """Layers that have units."""
        return layers_of(units)

    @cached_property
    def layers(self) -> list[int]:
        """Layers that have units: the `places`."""
        return layers_of(self.units)

    @cached_property
    def qk_exact(self) -> bool:
        """Whether attention patterns are recomputed; of other units than queries and keys the rule is plain."""
        return "qk-exact" in self.bucket.method.rule and self.units.kind in ("queries", "keys")

    # ---- points of a path over the input ----------------------------------------------------------------------------

    @cached_property
    def _taken(self) -> list[tuple[Place, int]]:
        """(place, layer) of each gradient: at the units, or at the heads' values where the pattern is recomputed.

        Of increments also at the stream, to tell whether they are complete.
        """
        places: tuple[Place, ...] = ("z",) if self.qk_exact else (self.units.place,)
        if self.bucket.method.combine != "mean":
            places = self.units.place, "residual"
        return [(place, layer) for place in places for layer in self.layers]

    @property
    def sites(self) -> list[str]:
        """See `Sums.sites`."""
        return sorted({site for place, _ in self._taken for site in sites_for(place)})

    def wanted(self, state: State) -> list[Tensor]:
        """See `Sums.wanted`."""
        return [recorded(state, place, layer) for place, layer in self._taken]

    def gradients(self, state: State, found: list[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        """See `Sums.gradients`."""
        for i, gradient in enumerate(found):
            yield i, i, self.as_site(gradient, *self._taken[i])

    def as_site(self, gradient: Tensor, place: Place, layer: int) -> Float[Tensor, "rows positions site"]:
        """A gradient of what a run recorded at a place, as one of its site."""
        return as_site(gradient, place, self.bucket.positions)

    def moving(self, state: State) -> list[Tensor]:
        """Activations, layer by layer, of the units and of the stream."""
        return [activation(state, place, layer) for place, layer in self._taken]

    def add(self, key: int, change: Tensor, gradient: Tensor, example: Tensor, weights: Tensor, at: Stretch) -> None:
        """See `Sums.add`; the stream's increments are what completeness claims."""
        at_stream, i = divmod(key, len(self.layers))
        products = change * gradient
        if at_stream:
            self.claimed[i].index_add_(0, example, products.to(self.claimed).sum((1, 2)) * weights)
        else:
            self._put(self.layers[i], self.contract(self.layers[i], products) * weights[:, None], example)

    def add_mean(self, state: State, found: list[Tensor], example: Tensor, weights: Tensor) -> None:
        """See `Sums.add_mean`."""
        slopes = {self.layers[i]: gradient for i, _, gradient in self.gradients(state, found)}
        if not self.bucket.method.signed:
            self._add_dropped(state, slopes, example, weights)
            return
        for layer, gradient in slopes.items():
            scores = self.scores(layer, gradient, example)
            self._put(layer, scores * weights[:, None], example)
            if self.squares is not None:
                chosen = torch.as_tensor(self.of_layer(layer), device=scores.device)
                self.squares[:, chosen] = self.squares[:, chosen].index_add(0, example, scores.square())

    # ---- paths of one site ------------------------------------------------------------------------------------------

    @staticmethod
    def moved(decoder: Decoder, units: Units) -> list[Site]:
        """A site for each layer that has units."""
        layers = enumerate(layers_of(units))
        return [Site(i, layer, where(decoder, units.place, layer).join) for i, layer in layers]

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """Δ of each row's own unit, zero elsewhere in the site; the whole Δ for rows of a whole site."""
        delta = self.difference(self.layers[site.number])[example]
        if units[0] < 0:
            return delta
        table = self.units[np.array(units)]
        row, one = torch.arange(len(units), device=delta.device), torch.zeros_like(delta)
        index = torch.as_tensor(table.index, device=delta.device)
        if parts := per_layer(self.bucket.lm, table.kind):
            split, into = delta.unflatten(-1, (parts, -1)), one.unflatten(-1, (parts, -1))
            into[row, :, index] = split[row, :, index]
        else:
            one = delta.clone()
        return own_part(one, table, self.bucket.tape.start, self.bucket.lm.heads)

    def join(self, site: Site, example: Tensor, change: Tensor) -> Join:
        """See `Sums.join`."""
        decoder, base = self.bucket.lm.decoder, self.bucket.base
        at = where(decoder, self.units.place, self.layers[site.number])
        return join(decoder, base, at, example, 0, lambda: output_change(decoder, base, at, example, 0, change))

    def add_sites(self, ran: SiteRuns) -> None:
        """See `Sums.add_sites`."""
        for (site, rows), move, slope in zip(ran.by_site, ran.moves, ran.slopes, strict=True):
            layer, products = self.layers[site.number], move * slope
            example, weights = columns(rows, products)
            total = products.to(self.claimed).sum((1, 2)) * weights.to(self.claimed)
            self.claimed[site.number].index_add_(0, example, total)
            scores = self.contract(layer, products * weights[:, None, None])
            if rows[0].unit < 0:
                self._put(layer, scores, example)
            else:
                unit = torch.tensor([row.unit for row in rows], device=scores.device)
                column = torch.as_tensor(np.searchsorted(self.of_layer(layer), [row.unit for row in rows]))
                own = scores[torch.arange(len(rows)), column.to(scores.device)]
                self.values.index_put_((example, unit), own, accumulate=True)

    # ---- contraction ------------------------------------------------------------------------------------------------

    def difference(self, layer: int) -> Float[Tensor, "examples positions site"]:
        """Δ of every unit of the site of a layer."""
        if layer not in self._differences:
            bucket, place = self.bucket, self.units.place
            with torch.no_grad():
                new = self.source.rows(bucket.tape, place, layer, bucket.every, None)
                self._differences[layer] = new - activation(bucket.base, place, layer).detach()
        return self._differences[layer]

    def of_layer(self, layer: int) -> np.ndarray:
        """Indices of the units of a layer in the table, in order."""
        return np.flatnonzero(self.units.layer == layer)

    def scores(
        self, layer: int, gradient: Float[Tensor, "rows positions site"], example: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows units"]:
        """Δ · gradient of every unit of a layer, one row per gradient."""
        if self.qk_exact:
            return self._through_pattern(layer, gradient, example)
        return self.contract(layer, self.difference(layer)[example] * gradient)

    def contract(self, layer: int, products: Float[Tensor, "rows positions site"]) -> Float[Tensor, "rows units"]:
        """Sum products over each unit's part of the site, and over positions (or take the unit's own position)."""
        lm, units = self.bucket.lm, self.units[self.of_layer(layer)]
        products = products.to(lm.score_dtype)
        if units.kind == "neurons":
            per_position = products[..., units.index]
        elif units.cells is not None:
            return self._contract_cells(units, products.unflatten(-1, (lm.heads, -1)))
        elif parts := per_layer(lm, units.kind):
            per_position = products.unflatten(-1, (parts, -1)).sum(-1)[..., units.index]
        else:
            per_position = products.sum(-1, keepdim=True).expand(-1, -1, len(units))
        return self.placed(units, per_position)

    def placed(self, units: Units, per_position: Float[Tensor, "rows positions units"]) -> Float[Tensor, "rows units"]:
        """Scores of a layer's units by position, summed, or of each unit's own position."""
        tape = self.bucket.tape
        if not units.positional:
            return per_position.sum(1)
        scores = per_position.new_zeros(len(per_position), len(units))
        here = (units.position >= tape.start) & (units.position < tape.length)
        scores[:, here] = per_position[:, units.position[here] - tape.start, np.flatnonzero(here)]
        return scores

    def _contract_cells(self, units: Units, products: Float[Tensor, "rows positions heads keys"]) -> Tensor:
        """Products at the cells' own queries, heads and keys, [rows, units]; 0 of queries that the bucket has not."""
        tape, scores = self.bucket.tape, products.new_zeros(len(products), len(units))
        here = (units.position >= tape.start) & (units.furthest < tape.length)
        cells = units[np.flatnonzero(here)]
        scores[:, here] = products[:, cells.position - tape.start, cells.index, cells.cells]
        return scores

    def _put(self, layer: int, scores: Float[Tensor, "rows units"], example: Tensor) -> None:
        """Add rows of scores of one layer's units to their examples."""
        chosen = torch.as_tensor(self.of_layer(layer), device=scores.device)
        rows = torch.zeros(len(self.values), len(chosen), dtype=scores.dtype, device=scores.device)
        self.values[:, chosen] += rows.index_add_(0, example, scores)

    @torch.no_grad()
    def _through_pattern(self, layer: int, gradient: Tensor, example: Tensor) -> Tensor:
        """(A_patched − A) v · ∂M/∂z."""
        lm, base, every = self.bucket.lm, self.bucket.base, self.bucket.every
        at, delta = where(lm.decoder, self.units.place, layer), self.difference(layer)
        if (
            self.units.place == "queries" or not self.units.positional
        ):  # a query changes its own position's pattern only
            change = value_change(lm.decoder, base, at, every, 0, delta)
            return self.contract(layer, change[example] * gradient)
        units = self.units[self.of_layer(layer)]
        scores = torch.zeros(len(gradient), len(units), dtype=lm.score_dtype, device=delta.device)
        for position in range(self.bucket.positions):  # a key at one position changes the pattern of all later ones
            chosen = np.flatnonzero(units.position == position + self.bucket.tape.start)
            if len(chosen):
                one = torch.zeros_like(delta)
                one[:, position] = delta[:, position]
                change = value_change(lm.decoder, base, at, every, 0, one)
                by_group = (change[example] * gradient).unflatten(-1, (lm.kv_heads, -1)).sum((1, 3))
                scores[:, chosen] = by_group[:, units.index[chosen]].to(scores)
        return scores

    def _add_dropped(self, state: State, slopes: dict[int, Tensor], example: Tensor, weights: Tensor) -> None:
        """graddrop: the mean of |Δ · gradient| over passes that each drop one other layer's gradient."""
        bucket, place = self.bucket, self._taken[0][0]
        layers, cost = bucket.lm.layers, bucket.cost
        stream = bucket.slopes(state, example, state.residual[1:], again=True)
        for dropped in range(layers):
            # without a block the gradient behind it goes straight to the stream before it; later ones are as they were
            below = [layer for layer in self.layers if layer < dropped]
            behind = bucket.lm.decoder.blocks[dropped].behind(stream[dropped])
            found = torch.autograd.grad(
                state.residual[dropped], [recorded(state, place, layer) for layer in below], behind,
                allow_unused=True, materialize_grads=True, retain_graph=True,
            ) if below else ()  # fmt: skip
            cost.backward += len(example) * bucket.positions * (dropped if below else 0)
            without = {layer: self.as_site(g, place, layer) for layer, g in zip(below, found, strict=True)}
            without |= {layer: slopes[layer] for layer in self.layers if layer > dropped}
            for layer, gradient in without.items():
                others = layers - (layer < layers)  # the final stream is no block's own
                scores = self.scores(layer, gradient, example).abs() * weights[:, None] / others
                self._put(layer, scores, example)


def layers_of(units: Units) -> list[int]:
    """Layers that have units, in order."""
    return sorted(set(units.layer.tolist()))
