"""Straight paths over the input: e + α(e′ − e) for every embedding, on a grid of α or at random draws of it.

EAP-IG's published grid (2403.17806) lies at α = k/m, k = 0 … m − 1, measured from the corrupted end: that end is in
it, the clean one is not. Draws: α ~ U(0, 1), keyed by (seed, example); their mean is unbiased for Δ · ∫ g dα
(expected gradients), which is not the exact effect.
"""

from __future__ import annotations

import numpy as np
import torch

from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.grids import grid
from veracausa.estimates.paths.network import Points, embeddings, walk_points


def walk_inputs(sums: Sums) -> None:
    """Points of the method's grid."""
    bucket = sums.bucket
    alphas, weights = grid(bucket.method.grid, bucket.method.nodes, corrupted_at_one=bucket.noising)
    rows = np.tile(alphas, (len(bucket.tape.examples), 1))
    walk_points(sums, _straight(bucket, rows, weights))


def walk_draws(sums: Sums) -> None:
    """Points at random α, each example's own."""
    bucket, nodes = sums.bucket, sums.bucket.method.nodes
    rows = np.stack([np.random.default_rng([bucket.method.seed, e]).uniform(size=nodes) for e in bucket.tape.examples])
    walk_points(sums, _straight(bucket, rows, np.full(nodes, 1 / nodes)))


def _straight(bucket: PathBucket, alphas: np.ndarray, weights: np.ndarray) -> Points:
    base, other = embeddings(bucket)
    share = torch.as_tensor(alphas, device=base.device, dtype=base.dtype)[:, :, None, None]
    change = other - base
    points = base[:, None] + share * change[:, None]
    return Points(points, torch.as_tensor(weights, device=base.device), change if bucket.method.tangents else None)
