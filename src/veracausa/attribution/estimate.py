"""Estimates of effects from gradients: the one integrator of every path × rule × combination.

    Ê_u = Σ_positions Δ_u · ḡ_u,   Δ_u = replacement − own value,   ḡ = the path's weighted mean gradient

With the point path this is attribution patching (2310.10348); with the layer path integrated gradients, whose scores
sum over a layer's site to the effect of patching the whole site (Aumann–Shapley). Cost, in token-layers of the
positions that differ: atp = one forward and one backward pass of the patched run, beside both recorded runs; ig with
m nodes = Σ_l (L − l) · (2m + 1).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from veracausa.attribution.ablations import Replacement, replacement
from veracausa.attribution.methods import BASELINES, Method, resolve_method
from veracausa.attribution.paths import Bucket, layer_gradients, point_gradients
from veracausa.attribution.rows import unpatched_metric
from veracausa.attribution.scores import Completeness, Scores, assemble
from veracausa.attribution.units import Units, resolve_units
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.cost import Cost
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.measure import Measurement, pair_ids, readout
from veracausa.engine.memory import halving
from veracausa.engine.patches import site_width, sites_for
from veracausa.engine.tape import buckets, record_pairs
from veracausa.engine.validate import require_sites
from veracausa.progress import Tick, progress

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: A completeness residual over this share of the gap is worth a note.
COARSE = 0.01


def attribute(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    method: str | Method = "atp",
    direction: str = "noising",
    baseline: str | None = None,
    nodes: int | None = None,
    grid: str | None = None,
    reference: Task | None = None,
    show_progress: bool = True,
) -> Scores:
    """Estimate the effects that `vc.exact` computes, from gradients, with the same sign.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: as for `vc.exact`.
        method: "atp" (attribution patching: the slope at the patched run), "ig" (integrated gradients along each
            layer's own path), or a composed `vc.Method`.
        direction: "noising" or "denoising", as for `vc.exact`.
        baseline: what units move towards: "corrupted" (estimates the counterfactual effect), "zero", "mean".
        nodes: points on the path (ig: 16).
        grid: "gauss", "trapezoid", "midpoint", "left", "right".
        reference: prompts for the mean baseline (default: the task's own).
        show_progress: show a progress bar.

    Returns:
        `Scores`, marked "not verified": compare them with `vc.exact` before you believe them. A layer path also
        reports its completeness residual.

    Raises:
        MethodError: the combination means nothing; says why.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> estimate = vc.attribute(lm, task, units="heads", method="ig")
    >>> vc.agreement(estimate, vc.exact(lm, task, units="heads"))
    """
    began = time.monotonic()
    name, parts = resolve_method(method, task.metric, direction, baseline=baseline, nodes=nodes, grid=grid)
    table = resolve_units(lm, units, max(task.lengths))
    ablation = BASELINES[parts.baseline]
    cost = Cost(full=sum(task.lengths) * lm.layers)
    with borrowed(lm.decoder):
        sums = _Sums.empty(lm, task, table)
        source = replacement(lm, task, table, ablation, direction, reference, 0, cost)
        kept = site_width(lm.decoder, table.place) + lm.width
        groups = buckets(task.clean, task.corrupted, ablation == "counterfactual", examples_per_batch(lm, task, kept))
        label, total = f"{name} of {len(table):,} {table.kind}", _total(lm, task, groups, parts, sums.layers)
        with progress(label, total, show_progress) as tick:

            def run(start: int, examples: tuple[int, ...]) -> None:
                _add_bucket(lm, task, source, parts, direction == "noising", start, examples, sums, cost, tick)

            halving(groups, run)
    measured = Measurement(sums.clean, sums.corrupted)
    if ablation == "counterfactual":
        measured.require_gap(task)
    cost.seconds = time.monotonic() - began
    completeness = None if parts.path == "point" else Completeness(sums.claimed, sums.true)
    return assemble(
        lm,
        task,
        sums.values,
        table,
        measured,
        method=name,
        settings={"direction": direction, **parts.settings()},
        cost=cost,
        completeness=completeness,
        notes=_unconverged(completeness, sums, parts),
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """What buckets fill in: scores [examples, units], M of both runs, and both sides of the completeness equation."""

    units: Units
    layers: list[int]
    values: Tensor
    clean: Tensor
    corrupted: Tensor
    claimed: Tensor
    true: Tensor

    @classmethod
    def empty(cls, lm: Model, task: Task, units: Units) -> _Sums:
        layers = sorted(set(units.layer.tolist()))
        values = torch.full((len(task), len(units)), float("nan"), dtype=lm.score_dtype)
        ends = torch.zeros(2, len(task), dtype=lm.score_dtype)
        return cls(units, layers, values, *ends, *torch.zeros(2, len(layers), len(task), dtype=lm.score_dtype))


def _add_bucket(
    lm: Model,
    task: Task,
    source: Replacement,
    parts: Method,
    noising: bool,
    start: int,
    examples: tuple[int, ...],
    sums: _Sums,
    cost: Cost,
    tick: Tick,
) -> None:
    """Record one bucket, walk its path, contract the gradients with the differences."""
    place, index, point = sums.units.place, list(examples), parts.path == "point"
    graph: Literal["clean", "corrupted"] = "clean" if noising else "corrupted"
    with torch.no_grad():
        tape = record_pairs(
            lm.decoder,
            *pair_ids(lm, task, examples),
            start,
            examples=examples,
            sites=sites_for(place),
            grad=graph if point else None,
            cost=cost,
        )
    base = tape.clean if noising else tape.corrupted
    require_sites(lm, tape, place)
    read = readout(lm, task, examples, tape.clean)
    with torch.no_grad():
        sums.clean[index] = read.of_state(tape.clean).to("cpu", lm.score_dtype)
        sums.corrupted[index] = read.of_state(tape.corrupted).to("cpu", lm.score_dtype)
    bucket = Bucket(lm, tape, base, read, place, source, cost)
    ends: dict[int, Tensor] = {}
    walk = (
        point_gradients(bucket, sums.layers, tick) if point else layer_gradients(bucket, sums.layers, tick, parts, ends)
    )
    with closing(walk):
        for layer, gradient in walk:
            products = (bucket.difference(layer) * gradient).to(lm.score_dtype)
            chosen = np.flatnonzero(sums.units.layer == layer)
            scores = _contract(lm, sums.units[chosen], products, start, tape.length)
            sums.values[torch.tensor(index)[:, None], torch.as_tensor(chosen)] = scores.cpu()
            sums.claimed[sums.layers.index(layer), index] = products.sum((1, 2)).cpu()
    if ends:
        with torch.no_grad(), attention_function(lm.decoder, SUFFIX):
            before = unpatched_metric(lm, tape, base, read, cost)
        for layer, end in ends.items():
            sums.true[sums.layers.index(layer), index] = (end - before).to("cpu", lm.score_dtype)


def _unconverged(completeness: Completeness | None, sums: _Sums, parts: Method) -> tuple[str, ...]:
    """A note that names the layers whose scores do not sum to what they should: there the grid is too coarse."""
    if completeness is None:
        return ()
    gap = (sums.clean - sums.corrupted).mean().abs().clamp_min(1e-12)
    share = (completeness.residual / gap).abs()
    coarse = [f"{layer} ({share[i]:.0%})" for i, layer in enumerate(sums.layers) if share[i] > COARSE]
    if not coarse:
        return ()
    return (
        f"not converged with {parts.nodes} nodes in layers {', '.join(coarse)}: scores there miss the site's effect by "
        "that share of the gap. A coarse grid is another estimate than the converged path: raise nodes=",
    )


def _contract(lm: Model, units: Units, products: Tensor, start: int, length: int) -> Tensor:
    """Scores [B, units] of one layer from Δ · ḡ, [B, S, site]: sum over each unit's part of the site and positions."""
    if units.kind == "heads":
        per_position = products.unflatten(-1, (lm.heads, lm.decoder.head_dim)).sum(-1)[..., units.index]
    elif units.kind == "neurons":
        per_position = products[..., units.index]
    else:
        per_position = products.sum(-1, keepdim=True).expand(-1, -1, len(units))
    if not units.positional:
        return per_position.sum(1)
    scores = products.new_zeros(len(products), len(units))
    here = (units.position >= start) & (units.position < length)
    scores[:, here] = per_position[:, units.position[here] - start, np.flatnonzero(here)]
    scores[:, units.position >= length] = float("nan")
    return scores


def _total(lm: Model, task: Task, groups: list[tuple[int, tuple[int, ...]]], parts: Method, layers: list[int]) -> float:
    """Token-layers that the walk along the path will take, for the progress bar."""
    tokens = sum((len(task.clean[members[0]]) - start) * len(members) for start, members in groups)
    if parts.path == "point":
        return tokens * lm.layers
    return tokens * sum(lm.layers - layer for layer in layers) * (2 * parts.nodes + 1) or 1
