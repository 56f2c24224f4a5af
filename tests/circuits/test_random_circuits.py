"""Random circuits: sizes, ways, and the distribution of ways against all of them enumerated."""

import brute
import numpy as np
import pytest
from scipy.stats import chisquare

from veracausa.circuits.random_circuits import inflated, random_circuit, random_ways
from veracausa.circuits.wiring import live_edges, writers_fed
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError

GRAPHS = [brute.SMALL, brute.GROUPED, brute.PARALLEL, brute.LATENT]


def every_way(graph, writer=0, way=(), probability=1.0):
    """(way, its probability) of all ways from a writer on."""
    readers = [r for r in range(graph.readers) if graph.sees(r, writer)]
    for reader in readers:
        longer, fed = (*way, (reader, writer)), writers_fed(graph, reader)
        if not fed:
            yield longer, probability / len(readers)
        for after in fed:
            yield from every_way(graph, after, longer, probability / len(readers) / len(fed))


@pytest.mark.parametrize("graph", [brute.SMALL, brute.PARALLEL])
def test_ways_have_the_stated_distribution(graph):
    expected = dict(every_way(graph))
    assert sum(expected.values()) == pytest.approx(1)
    stream, n = random_ways(graph, np.random.default_rng(0)), 6000
    seen: dict = {}
    for _ in range(n):
        way = tuple(next(stream))
        seen[way] = seen.get(way, 0) + 1
    assert set(seen) <= set(expected)
    common = [way for way, p in expected.items() if n * p >= 5]
    counts = [seen.get(way, 0) for way in common]
    rest = [n - sum(counts)], [n * (1 - sum(expected[way] for way in common))]
    assert chisquare([*counts, *rest[0]], [*(n * expected[way] for way in common), *rest[1]]).pvalue > 0.001


@pytest.mark.parametrize("graph", GRAPHS)
def test_circuits_have_their_size_and_no_dead_ends(graph):
    whole = all_edges_mask(graph)
    for size in (1, 2, 7, graph.size // 3, graph.size - 1, graph.size):
        masks = [random_circuit(graph, size, np.random.default_rng([0, k])) for k in range(8)]
        assert all(mask.sum() == size and not (mask & ~whole).any() for mask in masks)
        assert all((live_edges(graph, mask) == mask).all() for mask in masks)  # never one, on these graphs
        again = random_circuit(graph, size, np.random.default_rng([0, 3]))
        assert (again == masks[3]).all()
    assert (masks[0] == whole).all()


@pytest.mark.parametrize("graph", GRAPHS)
def test_inflated_circuits(graph):
    for draw in range(20):
        generator = np.random.default_rng([1, draw])
        mask = random_circuit(graph, graph.size // 4, generator)
        larger, edge = inflated(graph, mask, generator)
        new = larger & ~mask
        assert (larger[mask]).all() and new[edge] and not mask[edge]
        assert (live_edges(graph, larger) == larger).all()  # what is added is a whole way


def test_nearly_whole_and_whole():
    graph = brute.GROUPED
    mask = all_edges_mask(graph)
    with pytest.raises(CircuitError, match="whole graph"):
        inflated(graph, mask, np.random.default_rng(0))
    for edge in (0, 100, graph.size - 1):
        writer, reader = (end[edge] for end in graph.edges)
        most = mask.copy()
        most[reader, writer] = False
        larger, new = inflated(graph, most, np.random.default_rng(0))
        assert (larger == mask).all() and new == (reader, writer)
