"""What a curve M(α) does: where it turns, how far it follows its slope at 0, what it is at 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.signal import find_peaks

if TYPE_CHECKING:
    from jaxtyping import Float

#: A turn is told if the curve comes back from it by this part of its whole span on both sides; rounding does not.
PROMINENCE = 0.03


class Turn(NamedTuple):
    """A peak (else a trough) inside the range, between grid points by a parabola through the three nearest."""

    alpha: float
    value: float
    peak: bool


def turns(alphas: Float[np.ndarray, " alphas"], values: Float[np.ndarray, " alphas"]) -> tuple[Turn, ...]:
    """Peaks and troughs of a curve inside its range, by α."""
    least = PROMINENCE * float(np.ptp(values))
    found = []
    for sign in (1, -1):
        places, _ = find_peaks(sign * values, prominence=least) if least > 0 else ([], {})
        found += [Turn(*_vertex(alphas, values, int(k)), sign > 0) for k in places]
    return tuple(sorted(found))


def follows_until(
    alphas: Float[np.ndarray, " alphas"], values: Float[np.ndarray, " alphas"], slope: float, within: float
) -> float | None:
    """The first α in [0, 1] where the curve is farther than `within` from slope · α; None: it follows to the end.

    Between grid points the distance is taken as linear.
    """
    inside = (alphas >= 0) & (alphas <= 1)
    x, distance = alphas[inside], np.abs(values - slope * alphas)[inside]
    over = np.flatnonzero(distance > within)
    if not len(over):
        return None
    k = int(over[0])
    if k == 0:
        return float(x[0])
    part = (within - distance[k - 1]) / (distance[k] - distance[k - 1])
    return float(x[k - 1] + part * (x[k] - x[k - 1]))


def _vertex(alphas: np.ndarray, values: np.ndarray, k: int) -> tuple[float, float]:
    """α and value of the vertex of the parabola through points k − 1, k, k + 1."""
    (x0, x1, x2), (y0, y1, y2) = alphas[k - 1 : k + 2], values[k - 1 : k + 2]
    first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (second - first) / (x2 - x0)
    if bend == 0:  # a flat top of equal points
        return float(x1), float(y1)
    at = min(max((x0 + x1) / 2 - first / (2 * bend), x0), x2)
    return float(at), float(y1 + first * (at - x1) + bend * (at - x0) * (at - x1))
