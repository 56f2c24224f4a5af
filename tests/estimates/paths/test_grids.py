"""Quadrature grids: their nodes, their weights, and the polynomials that they integrate exactly."""

import numpy as np
import pytest

from veracausa.errors import MethodError
from veracausa.estimates.paths.grids import GRIDS, grid


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("nodes", [2, 3, 16])
def test_weights_sum_to_one_and_nodes_lie_inside(name, nodes):
    alphas, weights = grid(name, nodes)
    assert len(alphas) == len(weights) == nodes
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert (np.diff(alphas) > 0).all() and alphas[0] >= 0 and alphas[-1] <= 1


@pytest.mark.parametrize(
    ("name", "alphas", "weights"),
    [
        ("trapezoid", [0, 0.5, 1], [0.25, 0.5, 0.25]),
        ("midpoint", [1 / 6, 0.5, 5 / 6], [1 / 3] * 3),
        ("left", [0, 1 / 3, 2 / 3], [1 / 3] * 3),
        ("right", [1 / 3, 2 / 3, 1], [1 / 3] * 3),
        ("gauss", [0.5 - np.sqrt(0.15), 0.5, 0.5 + np.sqrt(0.15)], [5 / 18, 8 / 18, 5 / 18]),
    ],
)
def test_three_nodes(name, alphas, weights):
    found = grid(name, 3)
    assert found[0] == pytest.approx(alphas) and found[1] == pytest.approx(weights)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_gauss_is_exact_to_degree_2m_minus_1(nodes):
    alphas, weights = grid("gauss", nodes)
    for degree in range(2 * nodes):
        assert weights @ alphas**degree == pytest.approx(1 / (degree + 1), abs=1e-13)
    assert abs(weights @ alphas ** (2 * nodes) - 1 / (2 * nodes + 1)) > 1e-9


@pytest.mark.parametrize(("name", "nodes"), [("simpson", 3), ("gauss", 0), ("left", -1), ("trapezoid", 1)])
def test_refused(name, nodes):
    with pytest.raises(MethodError):
        grid(name, nodes)
