"""Turns of known curves, and where they leave their slopes."""

import numpy as np
import pytest

from veracausa.causes.curves.curve_shapes import follows_until, turns


def test_a_parabola_is_found_between_its_points():
    """Three points make a parabola, so its vertex is exact on any grid."""
    x = np.array([-1, -0.3, 0.1, 0.5, 1.4])
    (turn,) = turns(x, 2 - 3 * (x - 0.27) ** 2)
    assert turn.peak and turn.alpha == pytest.approx(0.27) and turn.value == pytest.approx(2)


def test_a_sine():
    """Peaks at π/2 + 2πk, troughs at 3π/2 + 2πk; the parabola is off by the sine's fourth derivative, about h⁴."""
    x = np.linspace(0, 4 * np.pi, 81)
    found = turns(x, np.sin(x))
    assert [turn.peak for turn in found] == [True, False, True, False]
    np.testing.assert_allclose([turn.alpha for turn in found], np.pi * np.array([0.5, 1.5, 2.5, 3.5]), atol=1e-2)
    np.testing.assert_allclose([turn.value for turn in found], [1, -1, 1, -1], atol=1e-3)


def test_ends_and_rounding_are_no_turns():
    x = np.linspace(-2, 3, 21)
    assert turns(x, 3 * x) == () and turns(x, 0 * x) == ()
    assert turns(x, 3 * x + 1e-6 * np.cos(20 * x)) == ()


def test_where_a_curve_leaves_its_slope():
    x = np.linspace(-1, 2, 301)
    assert follows_until(x, 2 * x, 2, 0.05) is None
    assert follows_until(x, 2 * x + x**2, 2, 0.09) == pytest.approx(0.3, abs=1e-3)
    assert follows_until(x, np.where(x < 0, 5.0, 2 * x), 2, 0.05) is None, "only [0, 1] counts"
