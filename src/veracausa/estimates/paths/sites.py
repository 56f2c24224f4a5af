"""Paths that move activations at one site, straight from a run's own values to their replacements.

* layer: all units of one layer's site move together, the rest is computed from them. Rows (layer, example, node) of
  all layers share sweeps. The scores of a site sum to the effect of patching the whole site (Aumann–Shapley).
* unit: one unit moves alone; the score tends to its exact effect as nodes are added.

One more row per path, at α = 1 and without a gradient, gives what the scores must sum to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import shrinking
from veracausa.engine.patches import depth_behind, join, output_change, where
from veracausa.engine.rules import applied
from veracausa.engine.suffix import Join, sweep
from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.edge_sites import walk_sites
from veracausa.estimates.paths.edge_sums import EdgeSums
from veracausa.estimates.paths.grids import grid
from veracausa.progress import Tick
from veracausa.units.table import per_layer


@dataclass(frozen=True)
class _Row:
    """A point of a path: `unit` is an index into the table, or −1 for all units of the layer together."""

    layer: int
    unit: int
    example: int
    alpha: float
    weight: float


def walk_layer(bucket: PathBucket, sums: Sums, tick: Tick) -> None:
    """All units of a layer's site together."""
    if bucket.edges is not None:
        assert isinstance(bucket.edges, EdgeSums)
        walk_sites(bucket, bucket.edges, sums, tick)
        return
    _walk(bucket, sums, tick, [(layer, -1) for layer in bucket.layers])


def walk_unit(bucket: PathBucket, sums: Sums, tick: Tick) -> None:
    """Every unit on its own; `claimed` and `true` are sums over the layer's units of scores and exact effects."""
    units = bucket.units
    order = np.argsort(units.layer, kind="stable")
    _walk(bucket, sums, tick, [(int(units.layer[u]), int(u)) for u in order if _has_position(bucket, int(u))])


def _has_position(bucket: PathBucket, unit: int) -> bool:
    position = int(bucket.units.position[unit])
    return position < 0 or bucket.tape.start <= position < bucket.tape.length


def _walk(bucket: PathBucket, sums: Sums, tick: Tick, paths: list[tuple[int, int]]) -> None:
    method = bucket.method
    nodes, weights = grid(method.grid, method.nodes, corrupted_at_one=bucket.noising)
    examples, indices = range(len(bucket.tape.examples)), {layer: i for i, layer in enumerate(bucket.layers)}
    points = list(zip(nodes.tolist(), weights.tolist(), strict=True))
    sums.complete = bucket.rule.plain
    with attention_function(bucket.lm.decoder, SUFFIX), applied(bucket.lm.decoder, bucket.rule):
        with torch.no_grad():
            before = bucket.unpatched(bucket.base)
            ends = [_Row(layer, unit, e, 1.0, 1.0) for layer, unit in paths for e in examples]
            for rows, _, metric in _chunks(bucket, ends, False, tick):
                for row, change in zip(rows, metric, strict=True):
                    sums.true[indices[row.layer], row.example] += (change - before[row.example]).to(sums.true)
        rows = [_Row(layer, unit, e, a, w) for layer, unit in paths for e in examples for a, w in points]
        for layer_rows, products, _ in _chunks(bucket, rows, True, tick):
            layer = layer_rows[0].layer
            example = torch.tensor([row.example for row in layer_rows], device=products.device)
            weight = torch.tensor([row.weight for row in layer_rows], device=products.device, dtype=products.dtype)
            total = products.to(sums.claimed).sum((1, 2)) * weight.to(sums.claimed)
            sums.claimed[indices[layer]].index_add_(0, example, total)
            scores = bucket.contract(layer, products * weight[:, None, None])
            _add(bucket, sums, layer, scores, example, [row.unit for row in layer_rows])


def _add(bucket: PathBucket, sums: Sums, layer: int, scores: Tensor, example: Tensor, units: list[int]) -> None:
    if units[0] < 0:
        sums.add(bucket, layer, scores, example)
        return
    columns = {int(unit): i for i, unit in enumerate(bucket.of_layer(layer))}
    own = scores[torch.arange(len(units)), torch.tensor([columns[unit] for unit in units], device=scores.device)]
    sums.values.index_put_((example, torch.tensor(units, device=scores.device)), own, accumulate=True)


def _chunks(
    bucket: PathBucket, rows: list[_Row], backward: bool, tick: Tick
) -> Iterator[tuple[list[_Row], Tensor, Tensor]]:
    """Run rows sorted by layer; yields, layer by layer, rows, Δ · ∂M/∂site ([rows, S, site]) and M."""
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length, backward)
    while rows:

        def attempt(most: int, waiting: list[_Row] = rows) -> list[tuple[list[_Row], Tensor, Tensor]]:
            return _chunk(bucket, waiting[:most], backward)

        results, size = shrinking(size, attempt, f"{bucket.positions} tokens")
        part, rows = rows[:size], rows[size:]
        depth = {layer: depth_behind(bucket.lm.decoder, bucket.place, layer) for layer in {row.layer for row in part}}
        tick(sum(depth[row.layer] for row in part) * bucket.positions * (1 + backward))
        yield from results


def _chunk(bucket: PathBucket, rows: list[_Row], backward: bool) -> list[tuple[list[_Row], Tensor, Tensor]]:
    lm, device = bucket.lm, bucket.lm.device
    by_layer = {layer: list(members) for layer, members in groupby(rows, key=lambda row: row.layer)}
    leaves, moves, joins = [], [], []
    for layer, members in by_layer.items():
        index = torch.tensor([row.example for row in members], device=device)
        share = torch.tensor([row.alpha for row in members], device=device, dtype=lm.dtype)[:, None, None]
        moves.append(_of_units(bucket, layer, [row.unit for row in members], bucket.difference(layer)[index]))
        leaves.append((share * moves[-1]).requires_grad_(backward))
        joins.append(_join(bucket, layer, index, leaves[-1]))
    with torch.set_grad_enabled(backward):
        last = sweep(lm.decoder, bucket.tape, bucket.base, joins, start=bucket.tape.start, backward=backward,
                     cost=bucket.cost)  # fmt: skip
        metric = bucket.read(last, torch.cat([join.example for join in joins]))
    if backward:
        found = torch.autograd.grad(metric.sum(), leaves, allow_unused=True, materialize_grads=True)
        products = [move * gradient for move, gradient in zip(moves, found, strict=True)]
    else:
        products = moves
    metrics = metric.detach().split([len(members) for members in by_layer.values()])
    return list(zip(by_layer.values(), products, metrics, strict=True))


def _of_units(bucket: PathBucket, layer: int, units: list[int], delta: Tensor) -> Tensor:
    """Δ of each row's own unit, zero elsewhere in the site; the whole Δ for rows of a whole site."""
    if units[0] < 0:
        return delta
    table = bucket.units[np.array(units)]
    row, one = torch.arange(len(units), device=delta.device), torch.zeros_like(delta)
    index = torch.as_tensor(table.index, device=delta.device)
    if parts := per_layer(bucket.lm, table.kind):
        split, into = delta.unflatten(-1, (parts, -1)), one.unflatten(-1, (parts, -1))
        into[row, :, index] = split[row, :, index]
    else:
        one = delta.clone()
    if not table.positional:
        return one
    position = torch.as_tensor(table.position - bucket.tape.start, device=delta.device)
    at = torch.zeros_like(one)
    at[row, position] = one[row, position]
    return at


def _join(bucket: PathBucket, layer: int, example: Tensor, change: Tensor) -> Join:
    decoder = bucket.lm.decoder
    at = where(decoder, bucket.place, layer)
    return join(
        decoder, bucket.base, at, example, 0, lambda: output_change(decoder, bucket.base, at, example, 0, change)
    )
