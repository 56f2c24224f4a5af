"""Chunks shrink when memory runs out, down to one row, and then say so; costs are counted exactly."""

import pytest
import torch

import veracausa as vc
from veracausa.engine import budget
from veracausa.engine.cost import Cost
from veracausa.errors import OutOfMemoryError


def out_of_memory_above(limit, error):
    asked = []

    def attempt(rows):
        asked.append(rows)
        if rows > limit:
            raise error
        return rows * 10

    return attempt, asked


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError("no"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2147483648 bytes."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_rows_are_halved_until_they_fit(error):
    attempt, asked = out_of_memory_above(6, error)
    assert budget.shrinking(50, attempt, "16 tokens") == (60, 6)
    assert asked == [50, 25, 12, 6]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_one_row_that_does_not_fit_is_a_clear_error(error):
    attempt, asked = out_of_memory_above(0, error)
    with pytest.raises(OutOfMemoryError) as caught:
        budget.shrinking(5, attempt, "16 tokens")
    assert asked == [5, 2, 1]
    for words in ("one row of 16 tokens", "shorter prompts", "bfloat16"):
        assert words in str(caught.value)


def test_other_errors_are_not_swallowed():
    attempt, asked = out_of_memory_above(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        budget.shrinking(8, attempt, "16 tokens")
    assert asked == [8]


@pytest.mark.parametrize("method", ["exact", "ig"])
def test_a_run_that_meets_the_limit_gives_the_same_numbers(tiny, task_of, agree, method):
    """A real run on a model that refuses more than two rows at once."""
    lm, task = tiny("llama", fresh=True), task_of(6)

    def run():
        if method == "exact":
            return vc.exact(lm, task, units="heads", show_progress=False)
        return vc.attribute(lm, task, units="heads", method="ig", nodes=4, show_progress=False)

    scores, sizes = run(), []

    def refuse(module, args):
        sizes.append(args[0].shape[0])
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    lm.hf.model.layers[0].mlp.register_forward_pre_hook(refuse)
    # rows of layer 0's attention pass here
    agree(run().values, scores.values, scores.gap)
    assert max(sizes) > 2


@pytest.mark.xfail(strict=True, raises=torch.OutOfMemoryError, reason="the unpatched run is not guarded")
def test_a_run_that_cannot_do_one_row_says_so(tiny, task_of):
    lm = tiny("llama", fresh=True)

    def refuse(module, args):
        if lm.hf.config._attn_implementation == "veracausa_suffix":
            raise torch.OutOfMemoryError("CUDA out of memory")

    lm.hf.model.layers[1].mlp.register_forward_pre_hook(refuse)
    with pytest.raises(OutOfMemoryError, match="memory"):
        vc.exact(lm, task_of(6), show_progress=False)
    assert lm.hf.config._attn_implementation == "sdpa"


@pytest.mark.xfail(strict=True, raises=OutOfMemoryError, reason="a bucket that is too large is not split")
def test_a_recording_that_does_not_fit_is_split(tiny, task_of, agree):
    """Smaller batches of pairs first, then the error."""
    lm, task = tiny("llama", fresh=True), task_of(6, n=1)[[0, 0, 0, 0]]
    scores = vc.exact(lm, task, show_progress=False)

    def refuse(module, args):
        if args[0].shape[0] > 2 and lm.hf.config._attn_implementation != "veracausa_suffix":
            raise torch.OutOfMemoryError("CUDA out of memory")

    lm.hf.model.layers[1].mlp.register_forward_pre_hook(refuse)
    agree(vc.exact(lm, task, show_progress=False).values, scores.values, scores.gap)


def test_a_recording_that_does_not_fit_says_so(tiny, task_of):
    lm = tiny("llama", fresh=True)

    def refuse(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    lm.hf.model.layers[1].mlp.register_forward_pre_hook(refuse)
    with pytest.raises(OutOfMemoryError, match=r"Recording 1 prompts? of 1 token"):
        vc.exact(lm, task_of(6), show_progress=False)


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
