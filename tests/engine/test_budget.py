"""How large chunks are, and costs in token-layers, counted by hand."""

import pytest
import torch

import veracausa as vc
from veracausa.cost import Cost
from veracausa.engine import budget


def test_chunks_are_at_least_one_row_and_shrink_with_memory(tiny, monkeypatch):
    lm = tiny("llama")
    assert budget.free_memory(torch.device("cpu")) > 2**20
    plenty = budget.rows_per_chunk(lm, 8, 16)
    monkeypatch.setattr(budget, "free_memory", lambda device: 2_000_000)
    few = budget.rows_per_chunk(lm, 8, 16)
    assert 1 <= few < plenty
    assert budget.rows_per_chunk(lm, 8, 16, backward=True) < few
    monkeypatch.setattr(budget, "free_memory", lambda device: 0)
    assert budget.rows_per_chunk(lm, 8, 16) == 1


# ---- token-layers, counted by hand -----------------------------------------------------------------------------------
# One pair of n = 6 tokens, L = 3 blocks, first difference at position 2: prefix p = 2, suffix S = 4.

N, L, P = 6, 3, 2
S = N - P
RECORDED = P * L + 2 * S * L  # the prefix once, both suffixes
UNPATCHED = S * L


@pytest.fixture
def pair():
    return vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))


def test_cost_of_exact_heads(tiny, pair):
    """A head of layer l joins between attention and MLP of block l: L − l blocks of S tokens, the first in part."""
    cost = vc.exact(tiny("llama"), pair, units=["a0.h0", "a1.h2", "a2.h3", "a2.h1"], show_progress=False).cost
    rows = S * (L + (L - 1) + 2 * (L - 2))
    # measured once by the bare model, then recorded once for the patched runs
    assert cost.forward == 2 * RECORDED + UNPATCHED + rows
    assert cost.backward == 0
    assert cost.full == N * L
    assert cost.forward_equivalents == cost.token_layers / (N * L)


def test_cost_of_exact_mlps(tiny, pair):
    """An MLP's patch joins before the next block."""
    cost = vc.exact(tiny("llama"), pair, units="mlps", show_progress=False).cost
    assert cost.forward == 2 * RECORDED + UNPATCHED + S * (2 + 1 + 0)


def test_cost_of_single_positions(tiny, pair):
    """Only from the position on; nothing before the first difference."""
    cost = vc.exact(tiny("llama"), pair, units=[f"a1.h0@{p}" for p in range(N)], show_progress=False).cost
    assert cost.forward == 2 * RECORDED + UNPATCHED + 2 * (4 + 3 + 2 + 1)


def test_cost_without_sharing_the_prefix(tiny, pair):
    cost = vc.exact(tiny("llama"), pair, units=["a0.h0"], share_prefix=False, show_progress=False).cost
    assert cost.forward == RECORDED + 2 * N * L + N * L + N * L


def test_cost_of_atp(tiny, pair):
    """Both recorded runs, and one backward pass over the suffix."""
    cost = vc.attribute(tiny("llama"), pair, show_progress=False).cost
    assert (cost.forward, cost.backward) == (RECORDED, S * L)


def test_cost_of_ig(tiny, pair):
    """Per layer: m nodes forward and backward, one row more for the true change; and the unpatched run."""
    m, blocks = 5, 3 + 2 + 1
    cost = vc.attribute(tiny("llama"), pair, method="ig", nodes=m, show_progress=False).cost
    assert cost.forward == RECORDED + UNPATCHED + S * blocks * (m + 1)
    assert cost.backward == S * blocks * m


def test_costs_add_up():
    total = Cost(10, 4, 7, 1.5) + Cost(1, 1, 7, 0.5)
    assert total == Cost(11, 5, 7, 2.0)
    assert total.token_layers == 16 and total.to_dict()["token_layers"] == 16
    assert total.forward_equivalents == 16 / 7
