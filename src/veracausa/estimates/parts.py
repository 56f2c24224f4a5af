"""What a method is made of: paths, backward rules and combinations, each in words; plain tables, nothing that runs.

The walks along the paths are in `paths`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from veracausa.estimates.method import Method


@dataclass(frozen=True)
class Path:
    """A path: what moves, and what it costs.

    `moves`: "nothing", the "input", one layer's "site", or one "unit". `passes(method)`: forward and backward passes of
    the whole network (moves: nothing, input), or of the blocks behind the site, per layer or unit. `ends`: whether its
    points can include both ends, so that increments between them add up. `shares_prefix`: whether no point leaves the
    prefix that both prompts share. `of_any_length`: whether pairs of several lengths can go along it in one batch, and
    gain by it: it measures no distances over positions, and moves no single site, of which many rows run anyway.
    """

    description: str
    moves: Literal["nothing", "input", "site", "unit"]
    passes: Callable[[Method], float]
    ends: bool = True
    shares_prefix: bool = True
    of_any_length: bool = False


PATHS: dict[str, Path] = {
    "point": Path("the patched run alone: one slope", "nothing", lambda m: 0.5, ends=False, of_any_length=True),
    "inputs": Path(
        *("all embeddings, straight", "input", lambda m: m.nodes * (2 if m.tangents else 1)), of_any_length=True
    ),
    "draws": Path(
        *("all embeddings, straight, at random α", "input", lambda m: m.nodes * (2 if m.tangents else 1)),
        of_any_length=True,
    ),
    "gradpath": Path(
        *("EAP-GP's path as published", "input", lambda m: 2 * m.nodes + 0.5), ends=False, shares_prefix=False
    ),
    "gradpath-complete": Path("GradPath pulled to the other end", "input", lambda m: 2 * m.nodes + 0.5),
    "geodesic": Path(
        "the shortest way where steep regions are long", "input",
        lambda m: (m.nodes + 1) * (1 + 2 * (1 + m.descent)), shares_prefix=False,
    ),
    "layer": Path("all units of one layer's site, straight", "site", lambda m: m.nodes + 0.5),
    "encoded": Path(
        *("what a dictionary reads, straight, its features encoded anew at every step", "site", lambda m: m.nodes + 0.5)
    ),
    "unit": Path("one unit, straight", "unit", lambda m: m.nodes + 0.5),
}  # fmt: skip
#: Backward rule → what gradients become on their way back.
RULES = {
    "plain": "the model's own backward pass",
    "gim": "norms frozen, softmax at temperature 2, q and k × 0.25, v × 0.5, gated product × 0.5 (2505.17630)",
    "relp": "norm denominators frozen, activations linear in their input, gated product halved (2508.21258)",
    "qk-exact": "queries and keys: attention pattern recomputed exactly (AtP*, 2403.00745); elsewhere plain",
    "graddrop": "mean magnitude over passes that each drop one other layer's gradient (AtP*); unsigned",
    "qk-exact+graddrop": "both parts of AtP*; unsigned",
}
#: Combination → the score of a unit u.
COMBINATIONS = {
    "mean": "Δ_u · Σ_k w_k g_k",
    "increments": "Σ_k (a_u^{k+1} − a_u^k) · ½(g_k + g_{k+1}), or Σ_k w_k (da_u/dα) · g_k on Gauss nodes and draws",
    "left-increments": "Σ_k (a_u^{k+1} − a_u^k) · g_k",
}
