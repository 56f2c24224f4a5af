"""Paths: where gradients are taken on the way from a run's own state to the other's.

To add a path: one file with a function walk(sums), one line in `WALKS` and one in `parts.PATHS`.
"""

from __future__ import annotations

from collections.abc import Callable

from veracausa.estimates.paths.bucket import Sums
from veracausa.estimates.paths.geodesic import walk_geodesic
from veracausa.estimates.paths.gradpath import walk_completed, walk_published
from veracausa.estimates.paths.inputs import walk_draws, walk_inputs
from veracausa.estimates.paths.network import walk_point
from veracausa.estimates.paths.sites import walk_layer, walk_unit

#: Path → the walk along it.
WALKS: dict[str, Callable[[Sums], None]] = {
    "point": walk_point,
    "inputs": walk_inputs,
    "draws": walk_draws,
    "gradpath": walk_published,
    "gradpath-complete": walk_completed,
    "geodesic": walk_geodesic,
    "layer": walk_layer,
    "encoded": walk_layer,
    "unit": walk_unit,
}
