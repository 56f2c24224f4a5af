"""Edges with mixers against runs put together by hand, write by write (`naive_mixed_edges`)."""

import naive_mixed_edges as naive
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.wiring import nodes_of
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError, UnitError
from veracausa.tasks.task import Task

QUIET = {"show_progress": False}
FAMILIES = list(naive.LAYOUTS)
FAST = ("mamba", "mamba2", "nemotron_h")
#: Scans of heads compute in float32, whatever the model is in.
CLOSE = 1e-6


@pytest.fixture(scope="module", params=tiny_models.mostly_slow(FAMILIES, FAST))
def both(request):
    """(model, task, edges by hand)."""
    return made(request.param)


def made(family, length=9, **over):
    lm = as_model(tiny_models.make(family, seed=1, **over), family)
    pair = tiny_models.pairs(family, 1, length)[0]
    by_hand = naive.NaiveEdges(naive.Naive(lm.hf, family, lm.decoder.mixer_heads), *pair)
    task = Task("t", (tuple(pair.clean),), (tuple(pair.corrupted),), ((pair.correct,),), ((pair.incorrect,),))
    return lm, task, by_hand


def numbers(scores, table):
    return scores.values[0], torch.tensor([table[name] for name in scores.units.names], dtype=torch.float64)


def test_graphs_hold_the_same_edges_and_effects_are_theirs(both):
    lm, task, by_hand = both
    scores = vc.exact(lm, task, units="edges", **QUIET)
    assert scores.units.names == by_hand.naive.edges
    ours, true = numbers(scores, {name: by_hand.effect(name) for name in by_hand.naive.edges})
    assert true.abs().max() > 0.5 and torch.allclose(ours, true, atol=CLOSE)


@pytest.mark.parametrize(("method", "grid"), [("eap", [0.0]), ("eap-ig", [1.0, 0.8, 0.6, 0.4, 0.2])])
def test_gradient_estimates(both, method, grid):
    """The difference is (corrupted − clean) everywhere; the gradients are those at embeddings from the corrupted end on."""
    lm, task, by_hand = both
    ours, true = numbers(
        vc.attribute(lm, task, units="edges", method=method, **QUIET), by_hand.slopes(dict.fromkeys(grid, 1 / len(grid)))
    )
    assert true.abs().max() > 0.5 and torch.allclose(ours, true, atol=CLOSE)


def test_circuits_carry_the_corrupted_writes_elsewhere(both):
    lm, task, by_hand = both
    graph, rng = lm.graph, np.random.default_rng(0)
    masks = [all_edges_mask(graph) & (rng.random((graph.readers, graph.writers)) < share) for share in (0.5, 0.8, 0.95)]
    ours = run_circuits(lm, task, masks, **QUIET).metric[:, 0].tolist()
    names, (writer, reader) = by_hand.naive.edges, graph.edges
    true = [by_hand.circuit({name for name, kept in zip(names, mask[reader, writer], strict=True) if kept})
            for mask in masks]  # fmt: skip
    assert ours == pytest.approx(true, abs=CLOSE)
    ends = run_circuits(lm, task, [all_edges_mask(graph), np.zeros_like(masks[0])], **QUIET).metric[:, 0].tolist()
    assert ends == pytest.approx([float(by_hand.metric(run)) for run in (by_hand.clean, by_hand.other)], abs=CLOSE)


def test_edges_at_positions_add_up_to_the_estimate_and_stay_there(both):
    """Estimates sum over positions; an edge into a mixer at one position lets the reader see the change there alone."""
    lm, task, by_hand = both
    whole = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
    parts = vc.attribute(lm, task, units="edges@positions", method="eap", **QUIET)
    summed = parts.values[0].nan_to_num().reshape(len(whole.units), -1).sum(1)
    assert torch.allclose(summed, whole.values[0], atol=CLOSE)
    one = next(part for part in by_hand.naive.parts if part.kind == "mixer")
    edge, at = f"input->{one.readers[0]}", next(i for i in range(9) if task.clean[0][i] != task.corrupted[0][i])
    change = torch.zeros_like(by_hand.embedded)
    change[:, at] = (by_hand.other.writes["input"] - by_hand.embedded)[:, at]

    def see(reader, place, stream, writes):
        return stream + change if reader == one.readers[0] else stream

    with torch.no_grad():
        true = by_hand.metric(by_hand.naive.run(by_hand.embedded, see)) - by_hand.metric(by_hand.clean)
    ours = float(vc.exact(lm, task, units=[f"{edge}@{at}"], **QUIET).values)
    assert abs(float(true)) > 1e-3 and ours == pytest.approx(float(true), abs=CLOSE)
