"""Paths that move the whole model by moving its input, and the point path: one pass gives every gradient.

Points γ_k of the embeddings are run by the model's own forward, as many at a time as the budget allows; the prefix that
both prompts share comes from the tape. With `combine`, for units u and in the same way for edges:

* mean: Σ_k w_k Δ_u · g_k;
* increments on points with both ends: Σ_k (a_u^{k+1} − a_u^k) · ½(g_k + g_{k+1}), with the left rule · g_k;
* increments elsewhere (Gauss nodes, draws): Σ_k w_k (da_u/dα) · g_k, da_u/dα by a Jacobian–vector product.

What a, Δ and g are, and what becomes of their products, is told by the `Sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import chunks
from veracausa.engine.recording import record
from veracausa.engine.rules import applied
from veracausa.engine.stretches import Stretch, joined, rows_of
from veracausa.engine.tape import State
from veracausa.errors import MethodError
from veracausa.estimates.paths.bucket import PathBucket, Sums

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Points:
    """Points of a path over the input, of every example.

    `weights`: of each point in the mean. `tangent`: dγ/dα where increments need it, else None.
    """

    embeddings: Float[Tensor, "examples points positions width"]
    weights: Float[Tensor, " points"]
    tangent: Float[Tensor, "examples positions width"] | None = None

    @classmethod
    def even(cls, embeddings: Float[Tensor, "examples points positions width"]) -> Points:
        """Points from one end to the other, with the weights of the trapezoid rule."""
        count = embeddings.shape[1]
        weights = torch.full((count,), 1 / (count - 1), device=embeddings.device, dtype=torch.float64)
        weights[[0, -1]] /= 2
        return cls(embeddings, weights)

    @property
    def rows(self) -> Float[Tensor, "rows positions width"]:
        """All points in the order (example, point)."""
        return self.embeddings.flatten(0, 1)

    def example(self, row: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """The example of each row."""
        return torch.div(row, self.embeddings.shape[1], rounding_mode="floor")

    def weight(self, row: Int[Tensor, " rows"], like: Tensor) -> Float[Tensor, " rows"]:
        """The weight of each row in the mean."""
        return self.weights[row % self.embeddings.shape[1]].to(like)


@dataclass(frozen=True)
class _Chunk:
    """Rows of a path that were run together; `found`: their gradients, as `Sums.wanted` asked for them."""

    row: Int[Tensor, " rows"]
    example: Int[Tensor, " rows"]
    state: State
    found: list[Tensor]

    def cut(self, stretch: Stretch) -> _Chunk:
        """Some positions of all rows."""
        return replace(self, state=stretch.state(self.state), found=[*map(stretch.cut, self.found)])

    def joined(self, other: _Chunk) -> _Chunk:
        """Its rows, and behind them those of another."""
        both = [(self.row, other.row), (self.example, other.example), *zip(self.found, other.found, strict=True)]
        row, example, *found = map(torch.cat, both)
        return _Chunk(row, example, joined(self.state, other.state), found)

    def last(self) -> _Chunk:
        """The last row, by itself."""
        row = slice(len(self.row) - 1, len(self.row))
        found = [one[row].clone() for one in self.found]
        return _Chunk(self.row[row], self.example[row], rows_of(self.state, row, copied=True), found)


def embeddings(bucket: PathBucket) -> tuple[Tensor, Tensor]:
    """Embeddings of the patched run's prompts and of the other run's, [examples, positions, width] each."""
    clean, corrupted = bucket.tape.tokens
    start, embed = bucket.tape.start, bucket.lm.decoder.embedded
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


def walk_point(sums: Sums) -> None:
    """The point path: one backward pass through the patched run, which was recorded with its graph."""
    bucket = sums.bucket
    with applied(bucket.lm.decoder, bucket.rule):
        found = bucket.slopes(bucket.base, bucket.every, sums.wanted(bucket.base), again=not bucket.method.signed)
    one = torch.ones(len(bucket.every), dtype=sums.values.dtype, device=sums.values.device)
    sums.add_mean(bucket.base, found, bucket.every, one)
    sums.close()
    bucket.advance()


def walk_points(sums: Sums, points: Points) -> None:
    """Run all points of a path and add up their scores by the method's combination."""
    walk = _mean if sums.bucket.method.combine == "mean" else _increments if points.tangent is None else _tangents
    walk(sums, points)
    sums.close()


def _mean(sums: Sums, points: Points) -> None:
    """Σ_k w_k Δ · g_k."""

    def add(chunk: _Chunk) -> None:
        sums.add_mean(chunk.state, chunk.found, chunk.example, points.weight(chunk.row, sums.values))

    _each(sums, points, add)


def _increments(sums: Sums, points: Points) -> None:
    """Consecutive points: what changes between them, times the mean (or the first) of both gradients."""
    left, nodes = sums.bucket.method.combine == "left-increments", points.embeddings.shape[1]
    before: list[_Chunk] = []  # the last row of the chunk before

    @torch.no_grad()
    def add(chunk: _Chunk) -> None:
        row = torch.cat([one.row for one in (*before, chunk)])[:-1]
        example, within = points.example(row), (row % nodes != nodes - 1).to(sums.values)  # not to the next example
        for stretch in sums.stretches(len(row) + 1):
            part = reduce(_Chunk.joined, [one.cut(stretch) for one in (*before, chunk)])
            moving, steps = sums.moving(part.state), {}
            for which, key, g in sums.gradients(part.state, part.found):
                if which not in steps:
                    steps = {which: _steps(moving.pop(0))}
                g = g[..., :-1, :, :] if left else (g[..., 1:, :, :] + g[..., :-1, :, :]) / 2
                sums.add(key, steps[which], g, example, within, stretch)
        before[:] = [chunk.last()]

    _each(sums, points, add)


def _tangents(sums: Sums, points: Points) -> None:
    """Σ_k w_k (da/dα) · g_k, da/dα by forward-mode differentiation of the same run."""
    bucket = sums.bucket

    @torch.no_grad()
    def add(chunk: _Chunk) -> None:
        assert points.tangent is not None
        weights = points.weight(chunk.row, sums.values)
        with _forward_mode(bucket.lm.name), attention_function(bucket.lm.decoder, SUFFIX):
            moving = forward_ad.make_dual(points.rows[chunk.row], points.tangent[chunk.example])
            state = run(bucket, moving, chunk.example, sites=sums.sites, grad=False)
            for stretch in sums.stretches(len(chunk.row)):
                part, moved = chunk.cut(stretch), sums.moving(stretch.state(state))
                tangents = [forward_ad.unpack_dual(one).tangent for one in moved]
                for which, key, gradient in sums.gradients(part.state, part.found):
                    if tangents[which] is not None:  # else nothing there moves with the input
                        sums.add(key, tangents[which], gradient, chunk.example, weights, stretch)
        bucket.cost.add(len(chunk.row), bucket.positions * bucket.lm.layers)  # the tangents' own pass

    _each(sums, points, add)


@contextmanager
def _forward_mode(name: str) -> Iterator[None]:
    """Forward-mode differentiation, of a model whose parts have it."""
    try:
        with forward_ad.dual_level():
            yield
    except NotImplementedError as error:
        raise MethodError(
            f"Increments between points need forward-mode derivatives, and a part of {name} has a backward pass of its "
            f"own making and no such derivative ({error}). Take combine='mean', or a path that holds both its ends."
        ) from error


def _each(sums: Sums, points: Points, add: Callable[[_Chunk], None]) -> None:
    """Run the points in order (example, point), as many at a time as fit, with their gradients; `add` each chunk's."""
    bucket, rows = sums.bucket, points.rows
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length, backward=True, beside=sums.told)
    size = size if sums.most is None else max(1, min(size, sums.most))
    every = torch.arange(len(rows), device=rows.device)
    for _, chunk in chunks(every, size, partial(_chunk, sums, points), f"{bucket.positions} tokens"):
        bucket.advance()
        add(chunk)
        del chunk  # before the next one runs


def _chunk(sums: Sums, points: Points, row: Tensor) -> _Chunk:
    bucket, example = sums.bucket, points.example(row)
    with applied(bucket.lm.decoder, bucket.rule):
        state = run(bucket, points.rows[row].detach().requires_grad_(), example, sites=sums.sites)
        found = bucket.slopes(state, example, sums.wanted(state), again=not bucket.method.signed)
    return _Chunk(row, example, state, found)


def _steps(values: Float[Tensor, "rows ..."]) -> Float[Tensor, "steps ..."]:
    """How values change from row to row."""
    return values[1:] - values[:-1]
