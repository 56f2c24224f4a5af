"""Memory by part: what is told against bytes that are alive, and calls that cannot fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from live import LiveBytes

import veracausa as vc
from veracausa.arguments import bytes_of
from veracausa.engine import budget
from veracausa.errors import OutOfMemoryError
from veracausa.tasks.task import Task

#: Calls that take different forms of memory, and (slow) the others.
CALLS = {
    "exact": (vc.exact, {"units": ["a0.h0", "a0.h1"]}),
    "atp": (vc.attribute, {"units": "neurons"}),
    "eap-ig": (vc.attribute, {"units": "edges", "method": "eap-ig", "nodes": 2}),
    "circuits": (vc.circuits.learn, {"how": "top-k", "keep": 20, "steps": 1}),
}
SLOW = {
    "edges": (vc.exact, {"units": ["a0.h0->m1", "m1->a3.h0<q>"]}),
    "ig": (vc.attribute, {"method": "ig", "nodes": 2}),
    "eap": (vc.attribute, {"units": "edges", "method": "eap"}),
    "qk-exact": (vc.attribute, {"units": "edges", "method": "qk-exact"}),
    "ceap": (vc.attribute, {"units": "edges", "method": "ceap", "nodes": 3}),
    "masks": (vc.estimates.learn_mask, {"steps": 1}),
    "discover": (vc.discover, {"method": "eap", "edges": 20, "sizes": (0.1,), "top": 2, "sample": 2}),
}


@pytest.fixture(scope="module")
def lm(tiny):
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny("llama", dtype=torch.float32, **sizes, **heads)


def pairs(vocabulary: int, count: int, length: int) -> Task:
    clean = np.random.default_rng(0).integers(5, vocabulary - 5, (count, length))
    corrupted = clean.copy()
    corrupted[:, 1] += 1
    rows = [tuple(map(tuple, prompts.tolist())) for prompts in (clean, corrupted)]
    return Task("random", rows[0], rows[1], ((3,),) * count, ((4,),) * count)


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", [*CALLS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_forecast_is_within_a_fifth_of_the_peak(lm, name):
    verb, options = (CALLS | SLOW)[name]
    task = pairs(len(lm.decoder.unembedding.weight), 6, 48)
    said = vc.forecast(verb, lm, task, measure=False, **options).memory
    with LiveBytes() as live:
        verb(lm, task, **options, show_progress=False)
    assert said.beside == pytest.approx(live.peak, rel=0.2)
    assert said.weights == sum(one.nbytes for one in lm.hf.parameters())


@pytest.mark.slow
@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["eap", "eap-ig", "ceap"])
def test_edges_of_long_prompts_fit_where_all_that_writers_add_does_not(tiny, agree, method):
    """Many narrow heads, so that writes are most of what there is."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "head_dim": 4}
    lm = tiny("llama", dtype=torch.float32, **sizes, num_attention_heads=16, num_key_value_heads=2)
    task = pairs(len(lm.decoder.unembedding.weight), 1, 240)
    asked = {"units": "edges", "method": method} | ({} if method == "eap" else {"nodes": 2})
    whole = vc.attribute(lm, task, **asked, show_progress=False)
    memory = int(0.7 * vc.forecast(vc.attribute, lm, task, measure=False, memory=10**12, **asked).memory.beside)
    with budget.within(memory), LiveBytes() as live:
        said = vc.forecast(vc.attribute, lm, task, measure=False, memory=memory, **asked).memory
        found = vc.attribute(lm, task, **asked, show_progress=False)
    assert live.peak < memory and said.beside == pytest.approx(live.peak, rel=0.2)
    agree(found.values, whole.values, whole.gap, 1e-4)  # float32


@pytest.mark.slow
def test_circuits_of_long_prompts_fit_where_all_that_writers_add_does_not(tiny, agree):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "head_dim": 4}
    lm = tiny("llama", dtype=torch.float32, **sizes, num_attention_heads=16, num_key_value_heads=2)
    task = pairs(len(lm.decoder.unembedding.weight), 1, 240)
    circuit = vc.Circuit.of(lm.graph, *(ends[::2] for ends in lm.graph.edges))
    whole = vc.faithfulness(lm, task, circuit, show_progress=False)
    plenty = vc.forecast(vc.faithfulness, lm, task, circuit=circuit, measure=False, memory=10**12).memory
    memory = int(0.5 * plenty.beside)
    with budget.within(memory), LiveBytes() as live:
        said = vc.forecast(vc.faithfulness, lm, task, circuit=circuit, measure=False, memory=memory).memory
        found = vc.faithfulness(lm, task, circuit, show_progress=False)
    assert live.peak < memory and said.beside == pytest.approx(live.peak, rel=0.2)
    agree(found.metric, whole.metric, lm.measure(task).gap, 1e-4)  # float32


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["exact edges", "eap", "eap-ig", "circuits"])
def test_nothing_grows_with_edges_times_width_times_positions(tiny, name):
    """Of twice the blocks, and so nearly four times the edges, twice as much at most, scores left out."""
    said, peaks, edges = [], [], []
    for layers in (4, 8):
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers, "head_dim": 4}
        lm = tiny("llama", dtype=torch.float32, **sizes, num_attention_heads=16, num_key_value_heads=8)
        verb, options = {
            "exact edges": (vc.exact, {"units": ["a0.h0->m1", "m1->a3.h0<q>"]}),
            "eap": (vc.attribute, {"units": "edges", "method": "eap"}),
            "eap-ig": (vc.attribute, {"units": "edges", "method": "eap-ig", "nodes": 2}),
            "circuits": (vc.faithfulness, {"circuit": vc.Circuit.of(lm.graph, *lm.graph.edges)}),
        }[name]
        task = pairs(len(lm.decoder.unembedding.weight), 2, 60)
        memory = vc.forecast(verb, lm, task, measure=False, **options).memory
        with LiveBytes() as live:
            verb(lm, task, **options, show_progress=False)
        said.append(memory.beside - memory.scores)
        peaks.append(live.peak - memory.scores)
        edges.append(lm.graph.size)
    assert edges[1] > 3.5 * edges[0] and said[1] < 2.1 * said[0] and peaks[1] < 2.1 * peaks[0]
    assert max(peaks) < 4 * edges[1] * 64 * 60 / 10  # a tenth of float32 numbers of that count, of one pair alone


def test_chunks_follow_the_memory_that_is_given(lm):
    task = pairs(len(lm.decoder.unembedding.weight), 6, 48)
    plenty = vc.forecast(vc.exact, lm, task, measure=False)
    few = vc.forecast(vc.exact, lm, task, measure=False, memory=4e6)
    assert few.memory.beside < 4e6 < plenty.memory.beside and "recordings" in repr(few)


@pytest.mark.parametrize(
    ("verb", "options", "memory", "remedy"),
    [
        (vc.exact, {}, 600_000, r"prompts of (\d+) tokens fit"),
        (vc.attribute, {"units": "edges", "method": "eap"}, 800_000, r"prompts of (\d+) tokens fit"),
        (vc.circuits.learn, {}, 12_000_000, r"fit \(task\[:(\d+)\]\)"),
    ],
    ids=["exact", "edges", "circuits"],
)
def test_what_cannot_fit_is_refused_before_it_runs_and_says_what_would(lm, verb, options, memory, remedy):
    count, length, vocabulary = 16, 128, len(lm.decoder.unembedding.weight)
    task = pairs(vocabulary, count, length)
    with budget.within(memory), pytest.raises(OutOfMemoryError, match=remedy) as refused:
        verb(lm, task, **options, show_progress=False)
    found = re.search(remedy, str(refused.value))
    assert found and f"{memory / 1e6:.1f} MB can be had" in str(refused.value)
    with pytest.raises(OutOfMemoryError, match=remedy):
        vc.forecast(verb, lm, task, measure=False, memory=memory, **options)
    fitting = task[: int(found[1])] if "task" in remedy else pairs(vocabulary, count, int(found[1]))
    assert vc.forecast(verb, lm, fitting, measure=False, memory=memory, **options).memory.beside > 0


def test_half_the_bytes_a_number_are_offered_first(lm):
    task = pairs(len(lm.decoder.unembedding.weight), 2, 128)
    whole = vc.forecast(vc.attribute, lm, task[:1], measure=False).memory.beside
    with pytest.raises(OutOfMemoryError, match="dtype='bfloat16'"):
        vc.forecast(vc.attribute, lm, task, measure=False, memory=0.7 * whole)


def test_calls_work_within_the_memory_that_they_are_given(lm, agree):
    task = pairs(len(lm.decoder.unembedding.weight), 6, 48)
    options = {"units": ["a0.h0", "a0.h1"], "show_progress": False}
    with LiveBytes() as plenty:
        whole = vc.exact(lm, task, **options)
    with LiveBytes() as few:
        found = vc.exact(lm, task, **options, memory="4MB")
    assert few.peak < 4e6 < plenty.peak and found.cost.token_layers >= whole.cost.token_layers
    agree(found.values, whole.values, whole.gap, 1e-4)  # float32


def test_a_call_that_does_not_fit_into_what_it_is_given_says_what_would(lm):
    task = pairs(len(lm.decoder.unembedding.weight), 2, 128)
    with pytest.raises(
        OutOfMemoryError, match=r"0.6 MB can be had: prompts of .* memory='(\d+MB)' would do"
    ) as refused:
        vc.exact(lm, task, memory=600_000, show_progress=False)
    enough = re.search(r"memory='(\d+MB)'", str(refused.value))
    assert enough and len(vc.exact(lm, task, memory=enough[1], show_progress=False).values) == 2
    with pytest.raises(vc.errors.MethodError, match="memory='much': give bytes, or a size such as '8GB'"):
        vc.exact(lm, task, memory="much", show_progress=False)


def test_sizes_in_words():
    assert bytes_of("8GB") == bytes_of(8e9) == bytes_of("8 g") == 8_000_000_000
    assert bytes_of("1.5GiB") == 3 << 29 and bytes_of("500") == 500 and bytes_of(None) is None
    for wrong in ("", "GB", "-1", "8XB", 0, float("nan"), float("inf"), True, [8]):
        with pytest.raises(vc.errors.MethodError, match="memory="):
            bytes_of(wrong)
