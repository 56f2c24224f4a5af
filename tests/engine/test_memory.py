"""Memory runs out: smaller chunks, then smaller batches, then a clear error; never other numbers."""

import pytest
import torch

import veracausa as vc
from veracausa.engine import memory
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
    OutOfMemoryError("Recording 8 prompts of 9 tokens does not fit into memory. Use shorter prompts or bfloat16"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError("no"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2147483648 bytes."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_rows_are_halved_until_they_fit(error):
    attempt, asked = out_of_memory_above(6, error)
    assert memory.shrinking(50, attempt, "16 tokens") == (60, 6)
    assert asked == [50, 25, 12, 6]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_one_row_that_does_not_fit_is_a_clear_error(error):
    attempt, asked = out_of_memory_above(0, error)
    with pytest.raises(OutOfMemoryError) as caught:
        memory.shrinking(5, attempt, "16 tokens")
    assert asked == [5, 2, 1]
    what = "Recording 8 prompts" if isinstance(error, OutOfMemoryError) else "one row of 16 tokens"
    for words in (what, "shorter prompts", "bfloat16"):
        assert words in str(caught.value)


def test_other_errors_are_not_swallowed():
    attempt, asked = out_of_memory_above(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        memory.shrinking(8, attempt, "16 tokens")
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


def test_points_of_a_path_that_do_not_fit_together_are_run_in_smaller_chunks(tiny, task_of, agree):
    """The points of one pair are halved, although what records them tells the error in its own words."""
    lm, task = tiny("llama", fresh=True), task_of(6, n=1)
    options = {"method": "eap-ig", "nodes": 4, "show_progress": False}
    scores = vc.attribute(lm, task, units="heads", **options)

    def refuse(module, args):
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    lm.hf.model.layers[1].mlp.register_forward_pre_hook(refuse)
    agree(vc.attribute(lm, task, units="heads", **options).values, scores.values, scores.gap)


def test_a_run_that_cannot_do_one_row_says_so(tiny, task_of):
    lm = tiny("llama", fresh=True)

    def refuse(module, args):
        if lm.hf.config._attn_implementation == "veracausa_suffix":
            raise torch.OutOfMemoryError("CUDA out of memory")

    lm.hf.model.layers[1].mlp.register_forward_pre_hook(refuse)
    with pytest.raises(OutOfMemoryError, match="memory"):
        vc.exact(lm, task_of(6), show_progress=False)
    assert lm.hf.config._attn_implementation == "sdpa"


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
