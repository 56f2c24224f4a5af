"""Scores of experts: what each adds to its MLP's output, contracted with the gradient of that output.

    Δ_e · g = Σ_w (replacement − own contribution of expert e)_w · ∂M/∂(MLP's output)_w

Experts add up to the output, so one gradient serves all of them; a score is 0 where neither run chooses an expert. On a
path of the site (`layer`) all of them move together, so their scores sum to the effect of patching all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.mixture import Mixture
from veracausa.effects.expert_values import column_of, new_neurons, new_sum, own_neurons, own_sum
from veracausa.effects.moves import own_part
from veracausa.effects.replacements import Counterfactual, Zero
from veracausa.engine.routed import Routed, inside_all
from veracausa.engine.tape import State
from veracausa.estimates.paths.bucket import Site, SiteRuns, columns
from veracausa.estimates.paths.unit_sums import UnitSums
from veracausa.units.kinds import inside_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Neurons of experts whose scores are taken at once.
_MOST = 4096


class ExpertSums(UnitSums):
    """How one bucket's scores of experts are added up."""

    def gradients(self, state: State, found: list[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        """See `Sums.gradients`; of increments the gradient stands beside every expert's contribution."""
        experts = self.bucket.lm.experts
        for at, key, gradient in super().gradients(state, found):
            place, _ = self._taken[at]
            whole = place == "experts" and self.bucket.method.combine != "mean"
            yield at, key, gradient.repeat(1, 1, experts) if whole else gradient

    def scores(
        self, layer: int, gradient: Float[Tensor, "rows positions width"], example: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows units"]:
        """See `UnitSums.scores`."""
        bucket = self.bucket
        own = Routed.of(bucket.base, layer)[example].products(gradient)
        if isinstance(self.source, Counterfactual):
            new = Routed.of(self.source.state(bucket.tape), layer)[example].products(gradient)
        else:
            values = self.source.rows(bucket.tape, "experts", layer, bucket.every, None)[example]
            new = torch.einsum("rsew,rsw->rse", values.unflatten(-1, (own.shape[-1], -1)), gradient)
        return self.contract(layer, new - own)

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """See `UnitSums.move`: the change of the experts' sum."""
        bucket, layer = self.bucket, self.layers[site.number]
        table = self.units[np.array(units)]
        whole = np.ones((len(units), bucket.lm.experts), dtype=bool)
        share = whole if units[0] < 0 else table.shares(np.arange(len(units)), whole.shape[1])
        shares = torch.as_tensor(share).to(bucket.lm.device, bucket.lm.dtype)
        unit = torch.as_tensor([max(one, 0) for one in units])
        with torch.no_grad():
            new = new_sum(self.source, bucket.tape, layer, example, unit, shares)
            delta = new - own_sum(bucket.base, layer, example, shares)
        return delta if units[0] < 0 else own_part(delta, table, bucket.tape.start, bucket.lm.heads)

    def add_sites(self, ran: SiteRuns) -> None:
        """See `Sums.add_sites`."""
        for (site, rows), move, slope in zip(ran.by_site, ran.moves, ran.slopes, strict=True):
            products = (move * slope).to(self.claimed).sum((1, 2))
            example, weights = columns(rows, products)
            self.claimed[site.number].index_add_(0, example, products * weights)
            if rows[0].unit < 0:
                layer = self.layers[site.number]
                self._put(layer, self.scores(layer, slope * weights[:, None, None].to(slope), example), example)
            else:
                unit = torch.tensor([row.unit for row in rows], device=products.device)
                self.values.index_put_((example, unit), products * weights, accumulate=True)


class NeuronSums(ExpertSums):
    """The same of neurons within experts: Σ weight · (replacement − own activation) · (what the neuron writes) · g.

    On a path of the site all neurons of the experts that are chosen move together, their routing weights stay.
    """

    def scores(
        self, layer: int, gradient: Float[Tensor, "rows positions width"], example: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows units"]:
        """See `UnitSums.scores`."""
        bucket, chosen = self.bucket, self.of_layer(layer)
        parts = [
            self._some(layer, gradient, example, some) for some in np.array_split(chosen, len(chosen) // _MOST + 1)
        ]
        return self.placed(self.units[chosen], torch.cat(parts, -1).to(bucket.lm.score_dtype))

    def _some(self, layer: int, gradient: Tensor, example: Tensor, some: np.ndarray) -> Tensor:
        """Position by position, [rows, positions, units], of some units of a layer."""
        bucket, device, index = self.bucket, gradient.device, self.units.index[some]
        expert, neuron = (torch.as_tensor(one, device=device) for one in inside_of(index))
        own, weight = inside_all(bucket.base, layer, expert, neuron)
        new = torch.zeros_like(own)
        if isinstance(self.source, Counterfactual):
            new, _ = inside_all(self.source.state(bucket.tape), layer, expert, neuron)
        elif not isinstance(self.source, Zero):
            column = torch.as_tensor(column_of(bucket.base, layer, index), device=device)
            new = self.source.rows(bucket.tape, "expert_neurons", layer, bucket.every, None)[..., column]
        along = gradient @ self._mixture(layer).written(expert, neuron).T.to(gradient)
        return ((new - own) * weight)[example] * along

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """See `UnitSums.move`: the change of the experts' sum."""
        bucket, layer = self.bucket, self.layers[site.number]
        with torch.no_grad():
            if units[0] < 0:
                return self._whole(layer)[example]
            table = self.units[np.array(units)]
            own, weight = own_neurons(bucket.base, layer, example, table.index)
            change = (new_neurons(self.source, bucket.tape, layer, example, table.index) - own) * weight
            parts = (torch.as_tensor(one, device=change.device) for one in inside_of(table.index))
            delta = torch.einsum("rs,rw->rsw", change, self._mixture(layer).written(*parts).to(change))
        return own_part(delta.to(bucket.lm.dtype), table, bucket.tape.start, bucket.lm.heads)

    def _whole(self, layer: int) -> Float[Tensor, "examples positions width"]:
        """The change of an MLP's output where all neurons of the experts that it has chosen move."""
        bucket = self.bucket
        inside, choice, weights = (bucket.base.sites[site][layer] for site in ("inside", "choice", "weights"))
        every = self.source.rows(bucket.tape, "expert_neurons", layer, bucket.every, None)
        own = every.unflatten(-1, (bucket.lm.experts, -1))
        new = own.gather(2, choice[..., None].expand_as(inside))
        change = ((new - inside) * weights[..., None]).flatten(0, 2)
        return self._mixture(layer).summed(choice.flatten(), change).unflatten(0, choice.shape).sum(2)

    def _mixture(self, layer: int) -> Mixture:
        found = self.bucket.lm.decoder.blocks[layer].mixture
        assert found is not None
        return found
