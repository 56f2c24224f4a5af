"""What parts are ranked by, task by task: how much each supports it, by gradients, exact effects or weights.

    fgp        Σ_t |a_u · ∂M/∂a_u|, mean over pairs (feature × gradient, summed over tokens of the clean run)
    exact-mean, exact-zero     |mean effect| of replacing the part by its mean, by 0 (`vc.exact`)
    atp-mean, atp-zero         |mean estimate| of the same by one gradient (`vc.attribute`, method "atp")
    wanda      Σ |W_ij| · ‖x_j‖₂ over the weights of the part, x_j: its input over all tokens (2306.11695)
    magnitude  Σ |W_ij| over the same weights
    random     drawn uniformly from [0, 1), by `seed`

All are at least 0; the larger, the more a part is worth. Weights of a part: see `parts`. Means are over the clean
prompts, as those that a cut puts in (which has one vector for all positions; where prompts have one length, these have
one a position). A layer's zero is the layer gone, the biases of its outputs with it, as when it is cut.

Where a norm stands behind what a whole attention or MLP gives, fgp and atp-zero are refused: the norm does not see how
large that is, so Σ a · ∂M/∂a is 0 but for its ε, whatever the part does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.exact import exact
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.guard import borrowed
from veracausa.engine.measure import alone, measure, readout
from veracausa.engine.memory import halving
from veracausa.engine.patches import Place, activation, as_site, recorded, site_width
from veracausa.errors import ArchitectureError
from veracausa.estimates.attribute import attribute
from veracausa.pruning.cutting import cut_of, cut_out
from veracausa.pruning.parts import Parts, as_units, in_order
from veracausa.pruning.weights import weight_sums
from veracausa.scores.scores import Scores
from veracausa.words import listed

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.cost import Cost
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def measured(
    lm: Model, task: Task, parts: Parts, how: str, *, seed: int, cost: Cost, show: bool, out: str | Path | None
) -> Float[np.ndarray, " parts"]:
    """One ranking's numbers of all parts on one task."""
    if how == "fgp":
        return support(lm, task, parts, cost)
    if how in ("wanda", "magnitude"):
        return weight_sums(lm, parts, task.clean if how == "wanda" else None, cost)
    if how == "random":
        return np.random.default_rng([seed, len(parts)]).random(len(parts))
    made, _, baseline = how.partition("-")
    return (_exact if made == "exact" else _estimated)(lm, task, parts, baseline, cost, {"show_progress": show}, out)


def require_seen(lm: Model, parts: Parts, how: str) -> None:
    """ArchitectureError for gradients of whole outputs whose size no norm behind them sees; see the module."""
    if how not in ("fgp", "atp-zero"):
        return
    behind = {
        "attention": any(block.attention_post_norm is not None for block in lm.decoder.blocks),
        "mlps": any(block.mlp_post_norm is not None for block in lm.decoder.blocks),
    }
    if blind := [kind for kind in parts.kinds if behind.get(kind, kind == "layers" and any(behind.values()))]:
        raise ArchitectureError(
            f"{lm.name} has a norm behind its attentions or MLPs, which does not see how large their outputs are: "
            f"{how} of {listed(blind)} would be 0 but for rounding. Take exact-zero or exact-mean, or rank heads and "
            "neurons."
        )


def support(lm: Model, task: Task, parts: Parts, cost: Cost) -> Float[np.ndarray, " parts"]:
    """Σ_t |a_u · ∂M/∂a_u| of every part, mean over pairs, at the clean run; see the module."""
    found = torch.zeros(len(parts), dtype=torch.float64)
    sites = _sites(parts)
    places = list(dict.fromkeys(place for place, _ in sites))
    wide = sum(site_width(lm.decoder, place) for place in places)

    def run(_: int, examples: tuple[int, ...]) -> None:
        products = _products(lm, task, examples, sites, cost)
        for at, kind in enumerate(parts.kinds):
            for layer in np.unique(parts.layer[parts.kind == at]).tolist():
                own = np.flatnonzero((parts.kind == at) & (parts.layer == layer))
                found[own] += _summed([products[place, layer] for place in _PLACES[kind]], len(own))

    with borrowed(lm.decoder):
        halving(buckets(lm.decoder, task, False, examples_per_batch(lm, task, wide, 2 * wide)), run)
    return (found / len(task)).numpy()


#: Where the activations of a kind of parts are.
_PLACES: dict[str, tuple[Place, ...]] = {
    "heads": ("z",), "kv_groups": ("z",), "attention": ("z",), "neurons": ("neurons",), "mlps": ("mlp",),
    "layers": ("z", "mlp"),
}  # fmt: skip


def _sites(parts: Parts) -> list[tuple[Place, int]]:
    """Where the parts are: each place of each layer that has some."""
    found = zip(parts.kind.tolist(), parts.layer.tolist(), strict=True)
    return list(dict.fromkeys((place, layer) for kind, layer in found for place in _PLACES[parts.kinds[kind]]))


def _products(
    lm: Model, task: Task, examples: tuple[int, ...], at: list[tuple[Place, int]], cost: Cost
) -> Mapping[tuple[Place, int], Tensor]:
    """a · ∂M/∂a of every number at some sites of a bucket's clean runs, [pairs, positions, site]."""
    with torch.enable_grad():
        tape = alone(lm, task, examples, cost, sites=dict.fromkeys(place for place, _ in at), grad=True)
        metric = readout(lm, task, tape).of_state(tape.clean).sum()
        sites = [recorded(tape.clean, *one) for one in at]
        slopes = torch.autograd.grad(metric, sites, allow_unused=True, materialize_grads=True)
    cost.backward += len(examples) * tape.length * lm.layers
    made = {
        one: activation(tape.clean, *one).detach() * as_site(slope, one[0], tape.length)
        for one, slope in zip(at, slopes, strict=True)
    }
    return {one: value.to(torch.float64) for one, value in made.items()}


def _summed(sites: list[Tensor], count: int) -> Tensor:
    """Σ over pairs and positions of |Σ of a part's products|; the parts share a site evenly, or one has several."""
    split = [site.unflatten(-1, (count, -1)).sum(-1) for site in sites]
    return torch.stack(split).sum(0).abs().sum((0, 1)).cpu()


def _exact(
    lm: Model, task: Task, parts: Parts, ablation: Any, cost: Cost, how: dict[str, Any], out: str | Path | None
) -> np.ndarray:
    found = np.zeros(len(parts))
    for kind in parts.kinds:
        own, names = parts.of_kind(kind), _names(parts, kind)
        if kind == "layers" and ablation == "zero":
            found[own] = _without_each(lm, task, parts, own, cost)
            continue
        units: Any = kind if kind not in ("kv_groups", "layers") else _grouped(lm, parts, kind)
        scores = exact(lm, task, units=units, ablation=ablation, out=out, **_reference(task, ablation), **how)
        found[own] = in_order(names, scores.units.names, _size(scores))
        _add(cost, scores)
    return found


def _reference(task: Task, replacement: str) -> dict[str, Any]:
    """The prompts that means are taken over: the clean ones."""
    return {"reference": task.side(True)} if replacement == "mean" else {}


def _without_each(lm: Model, task: Task, parts: Parts, own: np.ndarray, cost: Cost) -> np.ndarray:
    """|mean change of M| as each of some parts is cut out, one by one."""
    whole, found = lm.measure(task).clean.double().mean(), []
    for part in np.flatnonzero(own).tolist():
        with cut_out(lm, cut_of(lm, parts, np.arange(len(parts)) == part), {}):
            found.append(float((measure(lm, task, cost).clean.double().mean() - whole).abs()))
    return np.array(found)


def _estimated(
    lm: Model, task: Task, parts: Parts, baseline: str, cost: Cost, how: dict[str, Any], out: str | Path | None
) -> np.ndarray:
    """Estimates of parts that are several units are sums of theirs: slopes add up."""
    found = np.zeros(len(parts))
    for kind in parts.kinds:
        made: dict[str, float] = {}
        for units in {"kv_groups": ("heads",), "layers": ("attention", "mlps")}.get(kind, (kind,)):
            own: dict[str, Any] = {"baseline": baseline, **_reference(task, baseline), **how}
            scores = attribute(lm, task, units=units, method="atp", **own)
            made |= dict(zip(scores.units.names, scores.values.double().nanmean(0).tolist(), strict=True))
            _add(cost, scores)
        members = as_units(parts, _shared(lm))
        found[parts.of_kind(kind)] = [abs(sum(made[one] for one in members[name])) for name in _names(parts, kind)]
    return found


def _grouped(lm: Model, parts: Parts, kind: str) -> dict[str, Any]:
    """Groups of units that `vc.exact` patches together, by part."""
    own, members = _names(parts, kind), as_units(parts, _shared(lm))
    return {name: members[name] for name in own}


def _names(parts: Parts, kind: str) -> list[str]:
    own = parts.of_kind(kind)
    return [name for name, chosen in zip(parts.names, own, strict=True) if chosen]


def _shared(lm: Model) -> int:
    """Query heads that share a key/value head."""
    return lm.heads // lm.decoder.kv_heads


def _size(scores: Scores) -> np.ndarray:
    """|mean over pairs|."""
    return scores.values.double().nanmean(0).abs().numpy()


def _add(cost: Cost, scores: Scores) -> None:
    cost.forward += scores.cost.forward
    cost.backward += scores.cost.backward
