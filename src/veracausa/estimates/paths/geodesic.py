"""Geodesic path (2502.12108): the shortest way from e to e′ where steep regions of the metric are long.

The straight path in m segments is bent, ends fixed, to lower its length under the conformal metric ‖∇M‖,

    L = Σ_i ‖γ_{i+1} − γ_i‖ · ‖∇M(γ_i)‖,

by gradient descent over the inner points (second derivatives of the model, so a step costs more than a pass), with a
step halved whenever it does not lower L. Increments along the result are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function
from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.gradpath import FLOOR
from veracausa.estimates.paths.network import Points, embeddings, run, walk_points

if TYPE_CHECKING:
    from jaxtyping import Float

#: First step of the descent, as a share of the segment's length.
_FIRST = 0.25


def walk_geodesic(sums: Sums) -> None:
    """The bent path's points, one example at a time (their graphs with second derivatives are large)."""
    points = [bend(sums.bucket, i)[0] for i in range(len(sums.values))]
    walk_points(sums, Points.even(torch.cat(points)))


def bend(bucket: PathBucket, example: int) -> tuple[Float[Tensor, "1 points positions width"], list[float]]:
    """The path of one example, and its length before the descent and after every step that was kept."""
    base, other = embeddings(bucket)
    segments = bucket.method.nodes
    share = torch.linspace(0, 1, segments + 1, device=base.device, dtype=base.dtype)[:, None, None]
    path = base[example] + share * (other - base)[example]
    which = bucket.every[example].expand(segments + 1)
    length, slope = _length(bucket, path, which)
    lengths, step = [length], _FIRST * float(torch.linalg.vector_norm(path[1] - path[0]))
    for _ in range(bucket.method.descent):
        moved = path.clone()
        inner = slope[1:-1]
        moved[1:-1] -= step * inner / torch.linalg.vector_norm(inner, dim=(1, 2), keepdim=True).clamp_min(FLOOR)
        length, new = _length(bucket, moved, which)
        if length < lengths[-1]:
            path, slope = moved, new
            lengths.append(length)
        else:
            step /= 2
    return path[None], lengths


def _length(bucket: PathBucket, path: Tensor, which: Tensor) -> tuple[float, Tensor]:
    """L of a path and its gradient; fused attention kernels have no second derivative, ours has."""
    leaf = path.detach().requires_grad_()
    with torch.enable_grad(), attention_function(bucket.lm.decoder, SUFFIX):
        state = run(bucket, leaf, which)
        metric = bucket.read.of_state(state, which).sum()
        (slope,) = torch.autograd.grad(metric, leaf, create_graph=True)
        steep = torch.linalg.vector_norm(slope[:-1], dim=(1, 2))
        length = (torch.linalg.vector_norm(leaf[1:] - leaf[:-1], dim=(1, 2)) * steep).sum()
        (change,) = torch.autograd.grad(length, leaf)
    # the gradient, and both passes of its own backward
    bucket.cost.backward += 3 * len(path) * bucket.positions * bucket.lm.layers
    bucket.advance()
    return float(length.detach()), change
