"""Losses of a circuit's parts: in the whole graph they are minus the exact effects; in a true circuit none is idle."""

import dataclasses

import naive_circuit
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.errors import CircuitError, MethodError
from veracausa.ground_truth import load_compiled


def run(lm, task, circuit, **options):
    return vc.circuits.minimality(lm, task, circuit, show_progress=False, **options)


def whole(lm):
    return Circuit.of(lm.graph, *lm.graph.edges)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_in_the_whole_graph_losses_are_minus_exact_effects(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    effects = vc.exact(lm, task, units="edges", show_progress=False)
    found = run(lm, task, whole(lm), sample=None if family == "llama" else 40)
    order = [effects.units.names.index(name) for name in found.names]
    agree(found.loss, -effects.values[:, order], effects.gap)
    assert found.of == lm.graph.size and len(found.names) == (found.of if family == "llama" else 40)
    mlps = vc.exact(lm, task, units="mlps", show_progress=False)
    nodes = run(lm, task, whole(lm), parts="nodes")
    assert len(nodes.names) == lm.layers * (lm.heads + 1)
    agree(nodes.loss[:, [nodes.names.index(name) for name in mlps.units.names]], -mlps.values, effects.gap)


def test_in_a_circuit_against_runs_written_out(tiny, task_of, agree):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    edges = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    circuit = vc.select(edges, n=60, how="abs")
    found = run(lm, task, circuit, sample=5, seed=3)
    assert found.of == len(circuit) and len(found.names) == 5 and set(found.names) <= set(circuit.names)
    for at, name in enumerate(found.names):
        rest = Circuit.from_names(lm, [other for other in circuit.names if other != name])
        theirs = naive_circuit.metrics(lm, task, circuit.mask) - naive_circuit.metrics(lm, task, rest.mask)
        agree(found.loss[:, at], theirs, edges.gap)
    table = found.table()
    assert table["loss"].is_monotonic_decreasing and list(table.columns) == ["name", "loss", "stderr"]
    top = found.loss[:, found.names.index(table["name"][0])].mean() / edges.gap.mean()
    assert table["loss"][0] == pytest.approx(float(top))
    assert f"of {len(circuit)}, drawn at random" in repr(found) and "<table" in found._repr_html_()


def test_a_true_circuit_needs_each_edge_and_node_and_no_other():
    lm, program = load_compiled("sort")
    task = program.task(n=100)
    true = sorted(program.edges)
    extra = ["input->a1.h0<q>", "input->logits", "m0->m1"]
    assert not set(extra) & program.edges
    found = run(lm, task, Circuit.from_names(lm, true + extra))
    loss = dict(zip(found.names, found.share.tolist(), strict=True))
    assert all(abs(loss[name]) < 1e-4 for name in extra)  # float32: 1e-4 of the gap is what rounding may do
    assert all(loss[name] > 0.1 for name in true)
    nodes = run(lm, task, Circuit.from_names(lm, true), parts="nodes")
    assert set(nodes.names) == program.nodes and (nodes.share > 0.1).all()
    assert "4 nodes" in repr(nodes)


def test_the_sample_is_drawn_by_its_seed(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    one, same, other = (run(lm, task, whole(lm), sample=8, seed=seed).names for seed in (0, 0, 1))
    assert one == same != other and len(set(one)) == 8


def test_what_cannot_be(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    circuit = Circuit.from_names(lm, ["input->logits"])
    with pytest.raises(MethodError, match="parts='wheels'"):
        run(lm, task, circuit, parts="wheels")
    with pytest.raises(MethodError, match="sample=0"):
        run(lm, task, circuit, sample=0)
    with pytest.raises(MethodError, match="no heads"):
        run(lm, task, circuit, parts="nodes")
    with pytest.raises(CircuitError, match="no edges"):
        run(lm, task, Circuit.of(lm.graph, np.array([], dtype=int), np.array([], dtype=int)))
    with pytest.raises(CircuitError, match="from_names"):
        run(lm, task, dataclasses.replace(circuit, model=circuit.model | {"identity": "other"}))
    assert torch.isfinite(run(lm, task, circuit).loss).all()
