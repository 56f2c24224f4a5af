"""Influence, pruning and scores against their definitions, written with inverses, sets and loops."""

import pytest
import torch

from veracausa.graphs.influence import completeness_score, edge_influence, influence, pruned, replacement_score


def drawn(seed, features=9, errors=5, tokens=3, logits=2):
    """A random graph without circles: features feed later ones."""
    g = torch.Generator().manual_seed(seed)
    n = features + errors + tokens + logits
    a = torch.randn(n, n, generator=g, dtype=torch.float64)
    kinds = torch.tensor([0] * features + [1] * errors + [2] * tokens + [3] * logits)
    a[(kinds == 1) | (kinds == 2)] = 0
    a[:, kinds == 3] = 0
    a[:features, :features] = a[:features, :features].tril(-1)
    a[torch.rand(n, n, generator=g) < 0.3] = 0
    w = torch.zeros(n, dtype=torch.float64)
    w[-logits:] = torch.tensor([0.6, 0.3])
    return a, w, kinds


def shares(a):
    rows = a.abs().tolist()
    return torch.tensor([[v / sum(row) if sum(row) else 0.0 for v in row] for row in rows], dtype=torch.float64)


def by_inverse(a, w):
    eye = torch.eye(len(a), dtype=torch.float64)
    return w @ (torch.linalg.inv(eye - shares(a)) - eye)


def least(values, share):
    total, found = 0.0, 0.0
    for value in sorted(values, reverse=True):
        found += value
        total = value
        if found / sum(values) >= share:
            break
    return total


def naive_pruned(a, w, kinds, nodes_share, edges_share):
    n, flow = len(a), by_inverse(a, w).tolist()
    kept = {i for i in range(n) if flow[i] >= least(flow, nodes_share) or kinds[i] >= 2}
    inside = torch.tensor([[float(a[t, s]) if {t, s} <= kept else 0.0 for s in range(n)] for t in range(n)])
    inside = inside.double()
    through = by_inverse(inside, w) + w
    along = {(t, s): float(shares(inside)[t, s] * through[t]) for t in range(n) for s in range(n)}
    bar = least(list(along.values()), edges_share)
    edges = {edge for edge, value in along.items() if value >= bar and inside[edge] != 0}
    while True:
        edges = {(t, s) for t, s in edges if {t, s} <= kept}
        left = {i for i in kept if kinds[i] >= 2 or any(s == i for _, s in edges)}
        left = {i for i in left if kinds[i] != 0 or any(t == i for t, _ in edges)}
        if left == kept:
            return kept, edges
        kept = left


@pytest.mark.parametrize("seed", range(6))
def test_all_are_what_their_definitions_give(seed):
    a, w, kinds = drawn(seed)
    flow = by_inverse(a, w)
    assert torch.allclose(influence(a, w), flow, rtol=0, atol=1e-12)
    assert torch.allclose(edge_influence(a, w), shares(a) * (flow + w)[:, None], rtol=0, atol=1e-12)
    tokens, errors = float(flow[kinds == 2].sum()), float(flow[kinds == 1].sum())
    assert replacement_score(a, w, kinds) == pytest.approx(tokens / (tokens + errors))
    explained = [1 - float(shares(a)[i, kinds == 1].sum()) for i in range(len(a))]
    out = (flow + w).tolist()
    wanted = sum(e * o for e, o in zip(explained, out, strict=True)) / sum(out)
    assert completeness_score(a, w, kinds) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shares_kept", [(0.8, 0.98), (0.5, 0.7), (0.95, 0.9)])
def test_pruning_keeps_what_loops_keep(seed, shares_kept):
    a, w, kinds = drawn(seed)
    found = pruned(a, w, kinds, *shares_kept)
    nodes, edges = naive_pruned(a, w, kinds, *shares_kept)
    assert set(found.nodes.nonzero()[:, 0].tolist()) == nodes
    assert {tuple(one) for one in found.edges.nonzero().tolist()} == edges
    assert float(found.cumulative.max()) == pytest.approx(1.0)
