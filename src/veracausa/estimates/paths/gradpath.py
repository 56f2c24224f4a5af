"""GradPath (EAP-GP, 2502.06852): a path over the input that follows the model's own gradient to the other run's output.

    d_j = ∇_γ ‖G(γ_j) − G(e′)‖²,   G = the logits at all positions that are run

As published: γ_{j+1} = γ_j − d_j / ‖d_j‖₂, steps of length 1 whatever the embeddings' scale, from the patched run's
embeddings; the score is the mean gradient at γ_1 … γ_k times the total difference. The path need not come near e′, and
most of it may lie on the prefix that both prompts share, so that prefix is run, too.

Completed (ours): only positions that differ or come later move; step j = 0 … k − 1 has the length ‖e′ − γ_j‖ / (k − j)
and the direction of (1 − β)·(−d_j/‖d_j‖) + β·(e′ − γ_j)/‖e′ − γ_j‖ with β = (j + 1) / k. The pull β grows to 1 evenly,
so γ_k = e′ and every step shrinks as 1/k: increments along the path are complete in the limit. (A pull that came only
with the last steps, such as 1 / (k − j), would leave most of the way to them however many there are.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.memory import chunks
from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.network import Points, embeddings, run, walk_points

if TYPE_CHECKING:
    from jaxtyping import Float

#: Below this norm a direction is nothing but rounding.
FLOOR = 1e-12


def walk_published(sums: Sums) -> None:
    """γ_1 … γ_k with equal weights."""
    points = published(sums.bucket)
    weights = torch.full((points.shape[1],), 1 / points.shape[1], device=points.device, dtype=torch.float64)
    walk_points(sums, Points(points, weights))


def walk_completed(sums: Sums) -> None:
    """γ_0 … γ_k, from e to e′."""
    walk_points(sums, Points.even(completed(sums.bucket)))


def published(bucket: PathBucket) -> Float[Tensor, "examples steps positions width"]:
    """γ_1 … γ_k of the published path."""
    point, end = embeddings(bucket)
    target = _outputs(bucket, end)
    points = []
    for _ in range(bucket.method.nodes):
        direction = _descent(bucket, point, target)
        point = point - direction / _norm(direction)
        points.append(point)
    return torch.stack(points, 1)


def completed(bucket: PathBucket) -> Float[Tensor, "examples points positions width"]:
    """γ_0 … γ_k of the completed path, both ends included."""
    point, end = embeddings(bucket)
    target, steps = _outputs(bucket, end), bucket.method.nodes
    points = [point]
    for step in range(steps - 1):
        field, rest, pull = _descent(bucket, point, target), end - point, (step + 1) / steps
        distance = _norm(rest)
        direction = pull * rest / distance - (1 - pull) * field / _norm(field)
        point = point + distance / (steps - step) * direction / _norm(direction)
        points.append(point)
    return torch.stack([*points, end], 1)


def _norm(values: Tensor) -> Tensor:
    """L2 norm over positions × width, per example."""
    return torch.linalg.vector_norm(values, dim=(1, 2), keepdim=True).clamp_min(FLOOR)


def _outputs(bucket: PathBucket, points: Tensor) -> Tensor:
    with torch.no_grad():
        return _logits(bucket, points, bucket.every, grad=False)


def _logits(bucket: PathBucket, points: Tensor, example: Tensor, grad: bool) -> Tensor:
    state = run(bucket, points, example, grad=grad)
    final = state.residual[-1]
    return bucket.lm.decoder.logits(final.flatten(0, 1)).unflatten(0, final.shape[:2])


def _descent(bucket: PathBucket, points: Tensor, target: Tensor) -> Tensor:
    """∇_γ ‖G(γ) − G(e′)‖² of every example; one forward and one backward pass."""

    def slope(example: Tensor) -> Tensor:
        leaf = points[example].detach().requires_grad_()
        with torch.enable_grad():
            distance = (_logits(bucket, leaf, example, grad=True) - target[example]).square().sum()
            return torch.autograd.grad(distance, leaf)[0]

    found: list[Tensor] = []
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length, backward=True)
    for example, part in chunks(bucket.every, size, slope, f"{bucket.positions} tokens"):
        bucket.cost.backward += len(example) * bucket.positions * bucket.lm.layers
        bucket.advance()
        found.append(part)
    return torch.cat(found)
