"""Paths that move the whole model by moving its input, and the point path: one pass gives every layer's gradients.

Points γ_k of the embeddings are run by the model's own forward, as many at a time as the budget allows; the prefix that
both prompts share comes from the tape. With `combine`:

* mean: Σ_k w_k Δ_u · g_k;
* increments on points with both ends: Σ_k (a_u^{k+1} − a_u^k) · ½(g_k + g_{k+1}), with the left rule · g_k;
* increments elsewhere (Gauss nodes, draws): Σ_k w_k (da_u/dα) · g_k, da_u/dα by a Jacobian–vector product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import memory_errors, shrinking
from veracausa.engine.patches import Place, as_site, recorded, sites_for
from veracausa.engine.rules import applied
from veracausa.engine.tape import State, record
from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.progress import Tick

Found = TypeVar("Found")


@dataclass(frozen=True)
class Points:
    """Points of a path over the input, of every example.

    `weights`: of each point in the mean. `tangent`: dγ/dα where increments need it, else None.
    """

    embeddings: Float[Tensor, "examples points positions width"]
    weights: Float[Tensor, " points"]
    tangent: Float[Tensor, "examples positions width"] | None = None


def embeddings(bucket: PathBucket) -> tuple[Tensor, Tensor]:
    """Embeddings of the patched run's prompts and of the other run's, [examples, positions, width] each."""
    clean, corrupted = bucket.tape.tokens
    start, embed = bucket.tape.start, bucket.lm.decoder.embeddings
    with torch.no_grad():
        ends = embed(clean[:, start:]), embed(corrupted[:, start:])
    return ends if bucket.noising else ends[::-1]


def run(
    bucket: PathBucket,
    points: Float[Tensor, "rows positions width"],
    example: Int[Tensor, " rows"],
    *,
    sites: Sequence[str] = (),
    grad: bool = True,
) -> State:
    """Run embeddings of some examples through the model, behind their prefix; counts the forward pass."""
    decoder, start = bucket.lm.decoder, bucket.tape.start
    prefix = None
    if start:
        prefix = State(
            keys=[keys[example, :, :start].detach() for keys in bucket.base.keys],
            values=[values[example, :, :start].detach() for values in bucket.base.values],
        )
    return record(decoder, None, embeddings=points, prefix=prefix, sites=sites, grad=grad, cost=bucket.cost)[0]


def gradients(bucket: PathBucket, state: State, example: Tensor, places: Sequence[Place]) -> list[dict[int, Tensor]]:
    """∂M/∂(site) of a recorded run with its graph, by layer, for each place; counts the backward pass."""
    wanted = [recorded(state, place, layer) for place in places for layer in bucket.layers]
    rows, positions = state.residual[0].shape[:2]
    with torch.enable_grad(), memory_errors(f"The backward pass of {rows} prompts"):
        metric = bucket.read(state.last, example).sum()
        found = torch.autograd.grad(
            metric, wanted, allow_unused=True, materialize_grads=True, retain_graph=bucket.graddrop
        )
    bucket.cost.backward += rows * positions * bucket.lm.layers
    sites = iter(found)
    return [{layer: as_site(next(sites), place, positions) for layer in bucket.layers} for place in places]


def walk_points(bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
    """Run all points of a path and add up their scores by the method's combination."""
    if bucket.edges is not None:
        bucket.edges.walk_points(bucket, points, sums, tick)
    elif bucket.method.combine == "mean":
        _mean(bucket, points, sums, tick)
    elif points.tangent is not None:
        _tangents(bucket, points, sums, tick)
    else:
        _increments(bucket, points, sums, tick)


def _chunks(bucket: PathBucket, points: Points, tick: Tick, places: Sequence[Place]) -> Iterator[_Chunk]:
    """Run the points in order (example, point), a chunk at a time, with their gradients at some places."""
    sites = sorted({site for place in places for site in sites_for(place)})
    ran = chunks(bucket, points, tick, sites, lambda state, example: gradients(bucket, state, example, places))
    for row, example, state, found in ran:
        yield _Chunk(row, example, row % points.embeddings.shape[1], state, found)


def chunks(
    bucket: PathBucket,
    points: Points,
    tick: Tick,
    sites: Sequence[str],
    differentiate: Callable[[State, Tensor], Found],
    most: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, State, Found]]:
    """Run the points in order (example, point): yields rows (example · points + point), their examples, the run, and
    what `differentiate` makes of it. `most`: rows at a time."""
    count, nodes = points.embeddings.shape[:2]
    every = points.embeddings.flatten(0, 1)
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length, backward=True)
    size = size if most is None else max(1, min(size, most))
    first = 0
    while first < count * nodes:

        def attempt(most: int, first: int = first) -> tuple[Tensor, Tensor, State, Found]:
            row = torch.arange(first, min(first + most, count * nodes), device=every.device)
            example = torch.div(row, nodes, rounding_mode="floor")
            with applied(bucket.lm.decoder, bucket.rule):
                state = run(bucket, every[row].detach().requires_grad_(), example, sites=sites)
                return row, example, state, differentiate(state, example)

        chunk, size = shrinking(size, attempt, f"{bucket.positions} tokens")
        first += len(chunk[0])
        tick(2 * len(chunk[0]) * bucket.positions * bucket.lm.layers)
        yield chunk


@dataclass(frozen=True)
class _Chunk:
    row: Tensor
    example: Tensor
    node: Tensor
    state: State
    gradients: list[dict[int, Tensor]]


def _mean(bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
    draws = bucket.method.path == "draws" and points.embeddings.shape[1] > 1
    if draws:
        sums.squares = torch.zeros_like(sums.values)
    for chunk in _chunks(bucket, points, tick, [bucket.gradient_place]):
        weights = points.weights[chunk.node].to(sums.values)[:, None]
        add_state(bucket, chunk.state, chunk.example, chunk.gradients[0], weights, sums)
        if sums.squares is not None:
            for layer, gradient in chunk.gradients[0].items():
                scores = bucket.scores(layer, gradient, chunk.example)
                chosen = torch.as_tensor(bucket.of_layer(layer), device=scores.device)
                sums.squares[:, chosen] = sums.squares[:, chosen].index_add(0, chunk.example, scores.square())


def add_state(
    bucket: PathBucket, state: State, example: Tensor, gradient: dict[int, Tensor], weights: Tensor, sums: Sums
) -> None:
    """Add Δ · gradient of one run's rows, weighted; with graddrop the mean magnitude over dropped layers instead."""
    if not bucket.graddrop:
        for layer, g in gradient.items():
            sums.add(bucket, layer, bucket.scores(layer, g, example) * weights, example)
        return
    layers, place = bucket.lm.layers, bucket.gradient_place
    stream = torch.autograd.grad(
        bucket.read(state.last, example).sum(), state.residual[1:], allow_unused=True, materialize_grads=True,
        retain_graph=True,
    )  # fmt: skip
    bucket.cost.backward += len(example) * bucket.positions * layers
    for dropped in range(layers):
        # dropping block ℓ passes the gradient behind it straight to the stream before it; later blocks are as they were
        below = [layer for layer in bucket.layers if layer < dropped]
        found = torch.autograd.grad(
            state.residual[dropped], [recorded(state, place, layer) for layer in below], stream[dropped],
            allow_unused=True, materialize_grads=True, retain_graph=True,
        ) if below else ()  # fmt: skip
        bucket.cost.backward += len(example) * bucket.positions * (dropped if below else 0)
        without = {layer: as_site(g, place, bucket.positions) for layer, g in zip(below, found, strict=True)}
        without |= {layer: gradient[layer] for layer in bucket.layers if layer > dropped}
        for layer, g in without.items():
            others = layers - (layer < layers)  # the final stream is no block's own
            sums.add(bucket, layer, bucket.scores(layer, g, example).abs() * weights / others, example)


def _increments(bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
    """Consecutive points: the change of the activation times the mean (or the first) of both gradients."""
    left, last = bucket.method.combine == "left-increments", points.embeddings.shape[1] - 1
    carried: tuple[_Chunk, dict[int, Tensor], dict[int, Tensor]] | None = None
    sums.complete = bucket.rule.plain
    for chunk in _chunks(bucket, points, tick, [bucket.place, "residual"]):
        site, stream = (
            {layer: as_site(recorded(chunk.state, place, layer), place, bucket.positions).detach()
             for layer in bucket.layers}
            for place in (bucket.place, "residual")
        )  # fmt: skip
        for i, layer in enumerate(bucket.layers):
            for kind, values in ((0, site), (1, stream)):
                a, g = values[layer], chunk.gradients[kind][layer]
                example, node = chunk.example, chunk.node
                if carried is not None:  # the last row of the chunk before
                    before, *old = carried
                    a = torch.cat([old[kind][layer][-1:], a])
                    g = torch.cat([before.gradients[kind][layer][-1:], g])
                    example, node = (
                        torch.cat([x[-1:], y]) for x, y in ((before.example, example), (before.node, node))
                    )
                products = (a[1:] - a[:-1]) * (g[:-1] if left else (g[1:] + g[:-1]) / 2)
                within = node[:-1] != last  # the next row is the next point of the same example
                if kind == 0:
                    sums.add(bucket, layer, bucket.contract(layer, products[within]), example[:-1][within])
                else:
                    total = products[within].to(sums.claimed).sum((1, 2))
                    sums.claimed[i].index_add_(0, example[:-1][within], total)
        carried = (chunk, site, stream)
    true_change(bucket, sums)


def _tangents(bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
    """Σ_k w_k (da/dα) · g_k, da/dα by forward-mode differentiation of the same run."""
    assert points.tangent is not None
    sums.complete = bucket.rule.plain
    places: list[Place] = [bucket.place, "residual"]
    sites = sorted({site for place in places for site in sites_for(place)})
    every = points.embeddings.flatten(0, 1)
    for chunk in _chunks(bucket, points, tick, places):
        weights = points.weights[chunk.node].to(sums.values)
        with torch.no_grad(), forward_ad.dual_level(), attention_function(bucket.lm.decoder, SUFFIX):
            moving = forward_ad.make_dual(every[chunk.row].detach(), points.tangent[chunk.example])
            state = run(bucket, moving, chunk.example, sites=sites, grad=False)
            bucket.cost.add(len(chunk.row), bucket.positions * bucket.lm.layers)  # the tangents' own pass
            for i, layer in enumerate(bucket.layers):
                for kind, place in enumerate(places):
                    tangent = forward_ad.unpack_dual(recorded(state, place, layer)).tangent
                    if tangent is None:  # nothing there moves with the input
                        continue
                    products = as_site(tangent, place, bucket.positions) * chunk.gradients[kind][layer]
                    if kind == 0:
                        scores = bucket.contract(layer, products) * weights[:, None]
                        sums.add(bucket, layer, scores, chunk.example)
                    else:
                        total = products.to(sums.claimed).sum((1, 2)) * weights
                        sums.claimed[i].index_add_(0, chunk.example, total)
    true_change(bucket, sums)


def true_change(bucket: PathBucket, sums: Sums) -> None:
    """M(other run) − M(patched run): what increments over the residual stream at any layer must sum to."""
    with torch.no_grad():
        change = bucket.read.of_state(bucket.other) - bucket.read.of_state(bucket.base)
    sums.true += change.to(sums.true)


def walk_point(bucket: PathBucket, sums: Sums, tick: Tick) -> None:
    """The point path: one backward pass through the patched run, which was recorded with its graph."""
    if bucket.edges is not None:
        bucket.edges.walk_point(bucket, sums, tick)
        return
    with applied(bucket.lm.decoder, bucket.rule):
        [gradient] = gradients(bucket, bucket.base, bucket.every, [bucket.gradient_place])
    one = torch.ones(len(bucket.every), 1, dtype=sums.values.dtype, device=sums.values.device)
    add_state(bucket, bucket.base, bucket.every, gradient, one, sums)
    tick(len(bucket.every) * bucket.positions * bucket.lm.layers)
