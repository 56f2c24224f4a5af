"""Draws of examples with replacement, and from how many examples on they say how far a figure can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

#: Fewest examples that a bootstrap is believed for: from here on nominal 95% holds in 90% or more of what was simulated
#: (benchmarks/coverage.py) for means, slopes and sets of the strongest.
LEAST = 16


def with_replacement(n: int, size: int, draws: int, seed: int) -> Float[np.ndarray, "draws examples"]:
    """How often each of n examples is drawn in bootstrap draws of `size`."""
    generator = np.random.default_rng([seed, 0, size])
    return generator.multinomial(size, np.full(n, 1 / n), size=draws).astype(float)


def too_few(n: int, least: int = LEAST) -> str:
    """Why n examples have no interval, or nothing where they have one.

    >>> too_few(3)
    'no interval under 16 pairs'
    """
    return "" if n >= least else f"no interval under {least} pairs"


def disjoint(n: int, size: int, draws: int, seed: int) -> Iterator[Float[Tensor, "draws examples"]]:
    """Two disjoint sets of `size` of n examples for every draw, as weights 0 and 1: all first sets, all second ones."""
    generator = np.random.default_rng([seed, 1, size])
    order = torch.from_numpy(generator.permuted(np.tile(np.arange(n), (draws, 1)), axis=1))
    for part in (order[:, :size], order[:, size : 2 * size]):
        yield torch.zeros(draws, n).scatter_(1, part, 1.0)
