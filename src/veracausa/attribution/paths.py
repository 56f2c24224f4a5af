"""Paths: where gradients are taken on the way from a run's own activations to their replacements.

A path is given a recorded bucket and yields, layer by layer, the weighted mean gradient at one site,

    ḡ_l = Σ_k w_k ∂M/∂a_l at the k-th point,   [examples, S, site width],

where the weights sum to 1. The integrator (`estimate`) contracts ḡ with the differences Δ of the units.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veracausa.attribution.ablations import Replacement
from veracausa.attribution.grids import grid
from veracausa.attribution.methods import Method
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.cost import Cost
from veracausa.engine.guard import attention_function
from veracausa.engine.measure import Readout
from veracausa.engine.memory import memory_errors, shrinking
from veracausa.engine.patches import Place, activation, join, output_change, where
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, Tape
from veracausa.model import Model
from veracausa.progress import Tick


@dataclass(frozen=True)
class Bucket:
    """What a path walks through: a recorded bucket, the run that is patched, and what its units move towards."""

    lm: Model
    tape: Tape
    base: State
    read: Readout
    place: Place
    source: Replacement
    cost: Cost

    def own(self, layer: int) -> Tensor:
        """The patched run's activations at the site of a layer, [B, S, site]."""
        return activation(self.base, self.place, layer).detach()

    def difference(self, layer: int) -> Tensor:
        """Δ of every unit of the site: replacement − own value, [B, S, site]."""
        every = torch.arange(len(self.tape.examples), device=self.lm.device)
        return self.source.rows(self.tape, self.place, layer, every, every).detach() - self.own(layer)


def point_gradients(bucket: Bucket, layers: Sequence[int], tick: Tick) -> Generator[tuple[int, Tensor], None, None]:
    """The point path: one backward pass through the patched run, which was recorded with its graph."""
    positions = bucket.tape.length - bucket.tape.start
    wanted = [activation(bucket.base, bucket.place, layer) for layer in layers]
    with torch.enable_grad(), memory_errors(f"The backward pass of {len(bucket.tape.examples)} prompts"):
        metric = bucket.read.of_state(bucket.base).sum()
        gradients = torch.autograd.grad(metric, wanted, allow_unused=True, materialize_grads=True)
    bucket.cost.backward += len(bucket.tape.examples) * positions * bucket.lm.layers
    tick(len(bucket.tape.examples) * positions * bucket.lm.layers)
    yield from zip(layers, gradients, strict=True)


def layer_gradients(
    bucket: Bucket, layers: Sequence[int], tick: Tick, method: Method, ends: dict[int, Tensor]
) -> Generator[tuple[int, Tensor], None, None]:
    """The layer path: all units of a layer's site at a + α(a′ − a), for every node α of the grid.

    Rows (layer, example, node) of all layers share sweeps. One more row per layer and example, at α = 1 and without
    a gradient, gives the effect of patching the whole site, which the scores must sum to: `ends[layer]` = M there.
    """
    alphas, weights = grid(method.grid, method.nodes)
    count = len(bucket.tape.examples)
    examples = range(count)
    with attention_function(bucket.lm.decoder, SUFFIX):
        with torch.no_grad():
            for layer, values in _walk(bucket, [(layer, e, 1.0) for layer in layers for e in examples], False, tick):
                ends[layer] = torch.cat([ends[layer], values]) if layer in ends else values
        rows = [(layer, e, float(a)) for layer in layers for e in examples for a in alphas]
        found: dict[int, list[Tensor]] = {}
        node_weights = torch.as_tensor(weights)
        for layer, gradient in _walk(bucket, rows, True, tick):
            found.setdefault(layer, []).append(gradient)
            if sum(len(part) for part in found[layer]) == count * len(alphas):
                every = torch.cat(found.pop(layer)).unflatten(0, (count, len(alphas)))
                yield layer, torch.einsum("k,ek...->e...", node_weights.to(every), every)


def _walk(
    bucket: Bucket, rows: list[tuple[int, int, float]], backward: bool, tick: Tick
) -> Iterator[tuple[int, Tensor]]:
    """Run rows (layer, example, α), sorted by layer; yields per layer M ([rows]) or, with `backward`, the gradients."""
    positions = bucket.tape.length - bucket.tape.start
    size = rows_per_chunk(bucket.lm, positions, bucket.tape.length, backward)
    while rows:

        def attempt(most: int, waiting: list[tuple[int, int, float]] = rows) -> list[tuple[int, Tensor]]:
            return _chunk(bucket, waiting[:most], backward)

        results, size = shrinking(size, attempt, f"{positions} tokens")
        part, rows = rows[:size], rows[size:]
        layers = bucket.lm.layers
        tick(sum((layers - layer) * positions * (1 + backward) for layer, _, _ in part))
        yield from results


def _chunk(bucket: Bucket, rows: list[tuple[int, int, float]], backward: bool) -> list[tuple[int, Tensor]]:
    """One sweep of rows (layer, example, α): M of each, or ∂M/∂(site) where `backward`."""
    lm, device = bucket.lm, bucket.lm.device
    by_layer: dict[int, list[tuple[int, float]]] = {}
    for layer, example, alpha in rows:
        by_layer.setdefault(layer, []).append((example, alpha))
    leaves: dict[int, Tensor] = {}
    joins: list[Join] = []
    for layer, members in by_layer.items():
        index = torch.tensor([example for example, _ in members], device=device)
        share = torch.tensor([alpha for _, alpha in members], device=device, dtype=lm.dtype)[:, None, None]
        leaves[layer] = (share * bucket.difference(layer)[index]).requires_grad_(backward)
        joins.append(_join(bucket, layer, index, leaves[layer]))
    with torch.set_grad_enabled(backward):
        last = sweep(lm.decoder, bucket.tape, bucket.base, joins, start=bucket.tape.start, backward=backward,
                     cost=bucket.cost)  # fmt: skip
        metric = bucket.read(last, torch.cat([join.example for join in joins]))
    if not backward:
        return list(zip(by_layer, metric.split([len(members) for members in by_layer.values()]), strict=True))
    gradients = torch.autograd.grad(metric.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return list(zip(by_layer, gradients, strict=True))


def _join(bucket: Bucket, layer: int, example: Tensor, change: Tensor) -> Join:
    decoder = bucket.lm.decoder
    block = decoder.blocks[min(layer, decoder.layers - 1)]
    at = where(decoder, bucket.place, layer)
    return join(decoder, bucket.base, at, example, 0, lambda: output_change(block, bucket.place, change))
