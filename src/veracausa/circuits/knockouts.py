"""Circuits with some of their parts removed: masks for `evaluate.run_circuits`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from veracausa.errors import CircuitError, MethodError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from veracausa.circuits.circuit import Circuit
    from veracausa.model import Model

    Mask = Bool[np.ndarray, "readers writers"]


def mask_to_test(lm: Model, circuit: Circuit) -> Mask:
    """The mask of a circuit of this model that has something to remove.

    Raises:
        CircuitError: a circuit of another model or graph, or one without edges.
    """
    mask = circuit.require_for(lm).mask
    if not mask.any():
        raise CircuitError(
            "The circuit has no edges, so there is nothing in it to test: its run is the corrupted run. Select more "
            "edges, or look at its notes for what was pruned."
        )
    return mask


def without_edges(mask: Mask, writer: Int[np.ndarray, " edges"], reader: Int[np.ndarray, " edges"]) -> list[Mask]:
    """For every edge the circuit without it."""
    masks = []
    for u, v in zip(writer, reader, strict=True):
        masks.append(mask.copy())
        masks[-1][v, u] = False
    return masks


def without_writers(mask: Mask, writers: Iterable[int]) -> Mask:
    """The circuit without all edges out of some writers: their writes are ablated for everybody who reads them."""
    left = mask.copy()
    left[:, list(writers)] = False
    return left


def inner_nodes(mask: Mask) -> Int[np.ndarray, " nodes"]:
    """Writers of a circuit's nodes that can be removed: heads and MLPs with a kept edge out."""
    writers = np.flatnonzero(mask.any(0))
    return writers[writers > 0]


def require_count(**counts: int) -> None:
    """Raise MethodError unless every count is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise MethodError(f"{name}={count}: at least 1 is needed.")
