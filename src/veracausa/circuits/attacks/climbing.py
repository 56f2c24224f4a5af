"""How an adversary chooses weights: by the gradient of M with respect to them, and by running what it chose.

* **Ascent** (free, bounded): r ← clip(r + η_t · way · sign(∂f/∂r), 0, most), η_t = first step / √t. What counts is the
  strongest point on the way, so more steps are never weaker. A gradient within rounding of nothing moves nothing.
* **Order** (sparse): others by way · ∂f/∂r, one order for all sizes. By the *gradient* at r = 0; by that on the
  *path* on which all others are restored together (its mean at r = 1/6, 1/2, 5/6: where the circuit's run is flat, as
  behind a saturated softmax, the gradient there says nothing); *greedily*: with those chosen so far restored the
  gradient is taken anew, and chooses the next ones; or *greedily above*: the same with the rest at `GROUND`, so that an
  edge is also chosen for what it does once others are restored, too.

Where nothing has a slope (at r = 0 of a circuit of whole nodes without dead ends, say: what leads into another node and
out of it again is two edges at least), ascent moves all others by half of the largest weight, the gradient at r = 0 is
replaced by that on the path, and both greedy orders take theirs with the rest at `GROUND`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.circuits.attacks.others import Field
from veracausa.estimates.learned.descent import rounding, signs

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: The orders of a sparse adversary; the last two choose anew at every size.
ORDERS = ("gradient", "path", "greedy", "greedy above")
#: Where on the path from the circuit to the model gradients are taken: midpoints of three parts.
PATH = (1 / 6, 1 / 2, 5 / 6)
#: Weight of the rest in "greedy above", and in "greedy" where nothing has a slope at 0.
GROUND = PATH[0]


@dataclass(frozen=True, eq=False)
class Point:
    """The strongest weights after at most `steps` steps, and M of every pair there."""

    steps: int
    r: Float[Tensor, "*pairs others"]
    metric: Float[Tensor, " examples"]


def ascent(
    field: Field, start: Float[Tensor, "*pairs others"], way: float, steps: Sequence[int], most: float, first: float
) -> Iterator[Point]:
    """The strongest points after these rising numbers of steps.

    `way`: +1 to raise the metric, −1 to lower it. `most`: the largest weight. `first`: the first step's size. Where
    each pair has weights of its own, each keeps its own strongest point.
    """
    r, best = start, Point(0, start, torch.full_like(field.recorded.measured.clean, -way * float("inf")))
    for t in range(1, steps[-1] + 1):
        metric, slope = field.slope(r)
        best = _stronger(best, Point(t - 1, r, metric), way)
        move = most / 2 if is_flat(field, slope) else first / t**0.5 * way * signs(slope)
        r = (r + move).clamp(0, most)
        if t in steps:
            last = Point(t, r, field.metric(r))
            best = _stronger(best, last, way)
            yield Point(t, best.r, best.metric)


def _stronger(best: Point, other: Point, way: float) -> Point:
    """The stronger of two points: by the sum over pairs, or pair by pair where each has weights of its own."""
    if best.r.ndim == 1:
        return other if way * float((other.metric - best.metric).sum()) > 0 else best
    better = way * (other.metric - best.metric) > 0
    at = better.to(best.r.device)[:, None]
    return Point(other.steps, torch.where(at, other.r, best.r), torch.where(better, other.metric, best.metric))


def orders_of(sizes: int) -> tuple[str, ...]:
    """The orders that a sparse adversary tries at so many sizes: at a single one nothing is chosen anew."""
    return ORDERS if sizes > 1 else ORDERS[:2]


def in_order(slope: Float[Tensor, "*pairs others"], way: float) -> Int[Tensor, "*pairs others"]:
    """Others by how much restoring each moves the metric this way, to first order; ties in the graph's order."""
    size = rounding(slope).clamp_min(torch.finfo(slope.dtype).tiny)
    return torch.argsort(-way * (slope / size).round(), dim=-1, stable=True)


def is_flat(field: Field, slope: Float[Tensor, "*pairs others"]) -> bool:
    """Whether this slope of M, summed over pairs or each pair's own, is within rounding of f: none."""
    gap = field.recorded.measured.gap.double()
    size = float(gap.sum().abs()) if slope.ndim == 1 else float(gap.abs().mean())
    return float(slope.abs().max()) <= 64 * torch.finfo(slope.dtype).eps * size


def greedy_order(
    field: Field, slope: Float[Tensor, "*pairs others"], way: float, sizes: Sequence[int], ground: float = 0.0
) -> Int[Tensor, "*pairs others"]:
    """The same, chosen anew at every size with those before restored and the rest at `ground`; `slope`: at first."""
    chosen = in_order(slope, way)[..., : sizes[0]]
    for more in sizes[1:]:
        restored = restoring(field, chosen)
        slope = field.slope(restored.clamp_min(ground))[1]
        order = in_order(slope, way)
        rest = order[restored.gather(-1, order) == 0].unflatten(0, (*order.shape[:-1], -1))
        chosen = torch.cat([chosen, rest[..., : more - chosen.shape[-1]]], -1)
    return chosen


def restoring(field: Field, chosen: Int[Tensor, "*pairs chosen"]) -> Float[Tensor, "*pairs others"]:
    """r = 1 for the chosen, 0 for all others."""
    r = field.zeros(*chosen.shape[:-1])
    return r.scatter(-1, chosen, 1.0)
