"""Quadrature grids on [0, 1]: where a path is sampled, and with which weights.

    ∫₀¹ g(α) dα ≈ Σ_k w_k g(α_k)

Gauss–Legendre is the default of layer and unit paths: with m nodes it is exact for polynomials of degree 2m − 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from veracausa.errors import MethodError
from veracausa.suggestions import not_known

Grid = tuple[np.ndarray, np.ndarray]


def _gauss(m: int) -> Grid:
    nodes, weights = np.polynomial.legendre.leggauss(m)
    return (nodes + 1) / 2, weights / 2


def _trapezoid(m: int) -> Grid:
    if m < 2:
        raise MethodError("grid='trapezoid' needs at least 2 nodes, one at each end.")
    weights = np.full(m, 1 / (m - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, m), weights


#: Grids with a node at both ends, between which increments add up to the whole change.
BOTH_ENDS = ("trapezoid",)

#: Name → function of the number of nodes, giving (α, weights).
GRIDS: dict[str, Callable[[int], Grid]] = {
    "gauss": _gauss,
    "trapezoid": _trapezoid,
    "midpoint": lambda m: ((np.arange(m) + 0.5) / m, np.full(m, 1 / m)),
    "left": lambda m: (np.arange(m) / m, np.full(m, 1 / m)),
    "right": lambda m: ((np.arange(m) + 1) / m, np.full(m, 1 / m)),
    # k/m, k = 0 … m − 1, from the corrupted end, as EAP-IG publishes it; `grid` turns it round where α = 1 is corrupted
    "published": lambda m: (np.arange(m) / m, np.full(m, 1 / m)),
}


def grid(name: str, nodes: int, *, corrupted_at_one: bool = True) -> Grid:
    """Nodes α_k and weights w_k of a named grid, α = 0 at the patched run.

    `corrupted_at_one`: α = 1 is the corrupted end (noising); only the published grid depends on it.

    Raises:
        MethodError: an unknown grid, or fewer nodes than it needs.
    """
    if name not in GRIDS:
        raise MethodError(not_known("grid", name, GRIDS))
    if nodes < 1:
        raise MethodError(f"nodes={nodes}: a path needs at least one node.")
    alphas, weights = GRIDS[name](nodes)
    if name == "published" and corrupted_at_one:
        return 1 - alphas[::-1], weights
    return alphas, weights
