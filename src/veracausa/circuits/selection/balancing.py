"""How much edges that work against a behaviour count beside those that carry it, so that f of what stays is 1.

Few edges by |score| undershoot (f < 1), few by importance overshoot, since they leave out what works against the
behaviour. Between the two lie rankings by

    |s| · (1 + λ · sign s)        λ = 0: |score|, λ = 1: importance, λ = −1: only what works against it

and a round of iterated selection takes the λ with which the circuit that it leaves, when it is run, has f nearest to 1
(there may be none with f = 1): of a few circuits, from the λ of the round before on, along the secant. This balances
means over pairs, no single pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from veracausa.errors import NumericsError

if TYPE_CHECKING:
    from jaxtyping import Float

#: λ of the first round, circuits that a round runs at most, and |1 − f| that is near enough.
BEGIN, TRIES, NEAR = 0.15, 3, 0.02
#: df/dλ, as it was seen, until two circuits of a round tell it; slopes of a size in these bounds are believed.
_RATE, _SLOPES = 0.65, (0.1, 5.0)
#: A smaller change of λ is none.
_LEAST = 0.01


def strength(own: Float[np.ndarray, " edges"], weight: float) -> Float[np.ndarray, " edges"]:
    """What edges of these importances are ranked by."""
    return np.abs(own) * (1 + weight * np.sign(own))


def balanced(begin: float, f_of: Callable[[float], float], tries: int = TRIES) -> tuple[float, float]:
    """(λ, f) of the circuit whose f is nearest to 1, of at most `tries` that are run; `f_of`: of the circuit of a λ.

    Raises:
        NumericsError: a circuit's f is NaN or infinity.

    >>> balanced(0.0, lambda weight: 0.8 + 0.5 * weight)
    (0.4, 1.0)
    """
    tried: list[tuple[float, float]] = []
    weight, rate = begin, _RATE
    for _ in range(tries):
        f = f_of(weight)
        if not np.isfinite(f):
            raise NumericsError("NaN or infinity in a circuit's run. Run the model in float32.")
        if tried:
            slope = (f - tried[-1][1]) / (weight - tried[-1][0])
            rate = slope if _SLOPES[0] < abs(slope) < _SLOPES[1] else rate
        tried.append((weight, f))
        weight = float(np.clip(weight + (1 - f) / rate, -1, 1))
        if abs(1 - f) < NEAR or abs(weight - tried[-1][0]) < _LEAST:
            break
    return min(tried, key=lambda one: abs(one[1] - 1))
