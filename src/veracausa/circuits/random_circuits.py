"""Random circuits to compare one with: random ways from the input to the logits (as in 2410.13032).

Edges drawn one by one would nearly all be dead ends, and any circuit beats a dead one. A way starts at the input; at
each writer one of the readers that see it is drawn uniformly, a key or value goes on to one head of its group, until
the logits are drawn. A circuit of n edges is a union of such ways; those that would exceed n are passed over, and after
`_PATIENCE` of them in a row the rest is drawn uniformly among edges whose writer is reached and whose reader leads on
(among all edges where there are none).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.circuits.wiring import writers_fed
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError

if TYPE_CHECKING:
    from jaxtyping import Bool

#: Ways in a row that bring nothing (do not fit, or are there already) before other means are taken.
_PATIENCE = 200
Way = list[tuple[int, int]]


def random_circuit(graph: Graph, size: int, generator: np.random.Generator) -> Bool[np.ndarray, "readers writers"]:
    """The mask of a random circuit of exactly `size` edges."""
    mask = np.zeros((graph.readers, graph.writers), dtype=bool)
    left, idle, ways = size, 0, random_ways(graph, generator)
    while left and idle < _PATIENCE:
        new = [edge for edge in next(ways) if not mask[edge]]
        if not 0 < len(new) <= left:
            idle += 1
            continue
        for edge in new:
            mask[edge] = True
        left, idle = left - len(new), 0
    whole = all_edges_mask(graph)
    while left:
        missing = whole & ~mask
        live = missing & graph.reached(mask) & graph.leading(mask)[:, None]
        among = np.argwhere(live if live.any() else missing)
        chosen = generator.permutation(among)[:left]
        mask[tuple(chosen.T)] = True
        left -= len(chosen)
    return mask


def inflated(
    graph: Graph, mask: Bool[np.ndarray, "readers writers"], generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "readers writers"], tuple[int, int]]:
    """A circuit with a random way added to it, and one of the edges (reader, writer) that are new, drawn uniformly.

    Where nearly all edges are kept, one missing edge is added instead.

    Raises:
        CircuitError: the circuit is the whole graph.
    """
    missing = all_edges_mask(graph) & ~mask
    if not missing.any():
        raise CircuitError("The circuit is the whole graph: no edge can be added to it, and no random one is another.")
    for _, way in zip(range(50 * _PATIENCE), random_ways(graph, generator), strict=False):
        new = [edge for edge in way if not mask[edge]]
        if new:
            break
    else:
        new = [tuple(generator.permutation(np.argwhere(missing))[0].tolist())]
    larger = mask.copy()
    for edge in new:
        larger[edge] = True
    return larger, new[generator.integers(len(new))]


def random_ways(graph: Graph, generator: np.random.Generator, batch: int = 64) -> Iterator[Way]:
    """Endlessly many ways from the input to the logits, as lists of (reader, writer)."""
    first = np.searchsorted(graph.reader_order, graph.writer_order)  # readers stand in the order of the stream
    fed = [writers_fed(graph, reader) for reader in range(graph.readers)]
    base, count = np.array([one[0] if one else 0 for one in fed]), np.array([len(one) for one in fed])
    while True:
        ways: list[Way] = [[] for _ in range(batch)]
        alive, writer = np.arange(batch), np.zeros(batch, dtype=int)
        while len(alive):
            seen = first[writer]
            reader = seen + (generator.random(len(alive)) * (graph.readers - seen)).astype(int)
            for way, edge in zip(alive.tolist(), zip(reader.tolist(), writer.tolist(), strict=True), strict=True):
                ways[way].append(edge)
            going = count[reader] > 0
            alive, reader = alive[going], reader[going]
            writer = base[reader] + (generator.random(len(alive)) * count[reader]).astype(int)
        yield from ways


def profiled(
    graph: Graph, mask: Bool[np.ndarray, "readers writers"], generator: np.random.Generator, parts: str = "edges"
) -> Bool[np.ndarray, "readers writers"]:
    """The mask of a random circuit with a circuit's layer profile.

    As many edges from each layer to each other one, drawn uniformly among those that there are; of nodes as many of
    each layer, with all their edges out.
    """
    whole, made = all_edges_mask(graph), np.zeros_like(mask)
    if parts == "nodes":
        kept: np.ndarray = np.any(mask, axis=0)
        for layer in np.unique(graph.writer_layer):
            nodes = np.flatnonzero(graph.writer_layer == layer)
            made[:, generator.permutation(nodes)[: int(kept[nodes].sum())]] = True
        return np.asarray(made & whole)
    cell = graph.reader_layer[:, None] * (graph.layers + 2) + graph.writer_layer[None]
    for one in np.unique(cell[mask]):
        among = np.argwhere(whole & (cell == one))
        reader, writer = generator.permutation(among)[: int(mask[cell == one].sum())].T
        made[reader, writer] = True
    return made
