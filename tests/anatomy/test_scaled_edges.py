"""Edges where the stream is scaled behind each block, keys are values, and biases stand in front of post-norms."""

from __future__ import annotations

import naive_graph
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.circuits.knockouts import without_edges
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import all_edges_mask

BIASES = {"attention_bias": True}
CASES = [("gemma4", {}), ("gemma4-keys-are-values", BIASES), ("gemma4-experts", {}), ("gemma2", BIASES),
         ("olmo2", BIASES)]  # fmt: skip
CASES = [pytest.param(*case, id=f"{case[0]}{'-biases' * bool(case[1])}") for case in CASES]
CASES[2:] = [pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) for case in CASES[2:]]
EDGES = ["a0.h3->m0", "a1.h2->m1", "a0.h0->logits", "m0->logits"]
CLOSE = 1e-10  # rounding of float64; effects are about 1


def model(family, over):
    return as_model(tiny_models.make(family, seed=1, **over), family)


def edges(lm):
    """Into an MLP, the logits, and every kind of readers of an attention."""
    graph = lm.graph
    first = {int(graph.reader_kind[r]): f"m0->{name}" for r, name in enumerate(graph.reader_names) if name[:2] == "a2"}
    return [*EDGES, *first.values()]


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "over"), CASES)
def test_effects_and_slopes_are_those_of_a_naive_graph(family, over, task_of):
    """EAP against the central difference of a partly kept edge: its error is h² · a third derivative, h = 1e-4."""
    lm, task = model(family, over), task_of(7)
    whole, names = all_edges_mask(lm.graph).astype(float), edges(lm)
    assert naive_graph.metric(lm, task) == pytest.approx(float(lm.measure(task).clean[0]), abs=CLOSE)
    exact = vc.exact(lm, task, units=names, show_progress=False)
    slopes = vc.attribute(lm, task, units=names, method="eap", show_progress=False).values[0].tolist()
    clean, h, other = naive_graph.metric(lm, task), 1e-4, naive_graph.run(lm, task.corrupted[0])[1]
    for name, effect, slope in zip(names, exact.values[0].tolist(), slopes, strict=True):
        writer, reader = lm.graph.parse(name)
        (mask,) = without_edges(whole, [writer], [reader])
        assert effect == pytest.approx(naive_graph.metric(lm, task, mask, other) - clean, abs=CLOSE), name
        ends = []
        for kept in (1 - h, 1 + h):
            mask = whole.copy()
            mask[reader, writer] = kept
            ends.append(naive_graph.metric(lm, task, mask, other))
        if family != "gemma4-experts":  # a choice of experts has no slope
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize(("family", "over"), CASES)
def test_circuits_are_those_of_a_naive_graph(family, over, task_of):
    """Half of the edges at random, against the corrupted run and against zeros; no edges: the corrupted run."""
    lm, task = model(family, over), task_of(7)
    whole = all_edges_mask(lm.graph)
    mask = whole & (np.random.default_rng(0).random(whole.shape) < 0.5)
    found = run_circuits(lm, task, [mask, np.zeros_like(mask)], show_progress=False).metric[:, 0].tolist()
    other = naive_graph.run(lm, task.corrupted[0])[1]
    assert found[0] == pytest.approx(naive_graph.metric(lm, task, mask, other), abs=CLOSE)
    assert found[1] == pytest.approx(float(lm.measure(task).corrupted[0]), abs=CLOSE)
    zeros = dict.fromkeys(lm.graph.writer_names, torch.zeros(lm.width, dtype=torch.float64))
    found = run_circuits(lm, task, [mask], ablation="zero", show_progress=False).metric[0, 0]
    assert float(found) == pytest.approx(naive_graph.metric(lm, task, mask, constants=zeros), abs=CLOSE)


@pytest.mark.parametrize(("family", "over"), CASES[1:2])
def test_what_crosses_the_stream_adds_up(family, over, task_of):
    """Increments over all edges give M(x′) − M(x) at every place of the stream, and shares of a reader's input, 1."""
    lm, task = model(family, over), task_of(7)
    method = vc.Method(path="inputs", combine="increments", nodes=64)
    found = vc.attribute(lm, task, units="edges", method=method, show_progress=False)
    gap = float(found.corrupted[0] - found.clean[0])
    assert found.completeness.claimed[:, 0].tolist() == pytest.approx([gap] * (lm.layers + 1), abs=1e-3)
    shares = vc.attribute(lm, task, units="edges", method="ifr", show_progress=False)
    into = torch.zeros(lm.graph.readers).index_add(0, torch.tensor(shares.units.reader), shares.values[0].float())
    assert torch.allclose(into[:-1], torch.ones(lm.graph.readers - 1), atol=1e-5)


@pytest.mark.parametrize(("family", "over"), CASES[1:4])
def test_paths_are_those_of_a_naive_graph(family, over, task_of):
    """A change that two arrows pass on: the head sees it, and the logits alone see what the head makes of it."""
    lm, task = model(family, over), task_of(7)
    paths = {
        "m0->a2.h1<q>->logits": (["m0"], ["a2.h1<q>"]),
        "a0.h1+m0->m1->logits": (["a0.h1", "m0"], ["m1"]),
        "input->a1.h3<q>->m2->logits": (["input"], ["a1.h3<q>", "m2"]),
    }
    exact = vc.exact(lm, task, units=[*paths], show_progress=False).values[0].tolist()
    for (path, steps), effect in zip(paths.items(), exact, strict=True):
        assert effect == pytest.approx(naive_graph.path(lm, task, *steps), abs=CLOSE), path
