"""Paths: where gradients are taken on the way from a run's own state to the other's.

To add a path: one file with a function walk(bucket, sums, tick), and one line in `PATHS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.geodesic import walk_geodesic
from veracausa.estimates.paths.gradpath import walk_completed, walk_published
from veracausa.estimates.paths.inputs import walk_draws, walk_inputs
from veracausa.estimates.paths.network import walk_point
from veracausa.estimates.paths.sites import walk_layer, walk_unit
from veracausa.progress import Tick

if TYPE_CHECKING:
    from veracausa.estimates.paths.method import Method


@dataclass(frozen=True)
class Path:
    """A path: what moves, how it is walked, and what it costs.

    `moves`: "nothing", the "input", one layer's "site", or one "unit". `passes(method)`: forward and backward passes of
    the whole network (moves: nothing, input), or of the blocks behind the site, per layer or unit. `ends`: whether its
    points can include both ends, so that increments between them add up. `shares_prefix`: whether no point leaves the
    prefix that both prompts share.
    """

    description: str
    walk: Callable[[PathBucket, Sums, Tick], None]
    moves: Literal["nothing", "input", "site", "unit"]
    passes: Callable[[Method], float]
    ends: bool = True
    shares_prefix: bool = True


PATHS: dict[str, Path] = {
    "point": Path("the patched run alone: one slope", walk_point, "nothing", lambda m: 0.5, ends=False),
    "inputs": Path("all embeddings, straight", walk_inputs, "input", lambda m: m.nodes),
    "draws": Path("all embeddings, straight, at random α", walk_draws, "input", lambda m: m.nodes),
    "gradpath": Path(
        *("EAP-GP's path as published", walk_published, "input", lambda m: 2 * m.nodes), ends=False, shares_prefix=False
    ),
    "gradpath-complete": Path(
        "GradPath pulled to the other end", walk_completed, "input", lambda m: 2 * m.nodes
    ),
    "geodesic": Path(
        "the shortest way where steep regions are long", walk_geodesic, "input",
        lambda m: (m.nodes + 1) * (1 + 2 * (1 + m.descent)), shares_prefix=False,
    ),
    "layer": Path("all units of one layer's site, straight", walk_layer, "site", lambda m: m.nodes + 0.5),
    "unit": Path("one unit, straight", walk_unit, "unit", lambda m: m.nodes + 0.5),
}  # fmt: skip
