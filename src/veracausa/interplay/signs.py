"""Random signs in the place of a sum over positions: E[(Σ_t φ_t J_t)²] = Σ_t J_t² for φ ∈ {±1} at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import hadamard

if TYPE_CHECKING:
    from jaxtyping import Float


def signs(
    probes: int, length: int, seed: int, example: int, orthogonal: bool = False
) -> Float[np.ndarray, "probes length"]:
    """Vectors of signs, keyed by (seed, example), so that they do not depend on what runs beside.

    `orthogonal`: columns of a Hadamard matrix in random order, with signs of their own: with as many of them as it has
    (the next power of 2 above `length`) the sum is exact, whatever the draw.

    >>> signs(4, 3, 0, 0, orthogonal=True).T @ signs(4, 3, 0, 0, orthogonal=True) / 4
    """
    drawn = np.random.default_rng([seed, example])
    if not orthogonal:
        return drawn.choice([-1.0, 1.0], (probes, length))
    every = hadamard(full(length)).astype(float)
    chosen = every[:, drawn.permutation(len(every))[:probes]].T[:, :length]
    return chosen * drawn.choice([-1.0, 1.0], length)


def full(length: int) -> int:
    """How many orthogonal probes make the sum exact."""
    return 1 << max(0, length - 1).bit_length()
