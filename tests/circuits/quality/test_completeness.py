"""Completeness: against runs written out; of whole and true circuits; greedy search against trying every node."""

import dataclasses

import naive_circuit
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError, MethodError
from veracausa.ground_truth import load_compiled
from veracausa.statistics.ratios import share_of_gap


def run(lm, task, circuit, **options):
    return vc.circuits.completeness(lm, task, circuit, show_progress=False, **options)


def some_circuit(lm, task, n=80):
    return vc.select(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), n=n, how="abs")


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_against_runs_written_out(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    circuit = some_circuit(lm, task)
    found = run(lm, task, circuit, draws=3, greedy=2, candidates=3)
    assert found.how == ("none", *["random"] * 3, *["greedy"] * 2)
    gap = found.measured.gap
    for at, chosen in enumerate(found.sets):
        for mask, ours in ((all_edges_mask(lm.graph), found.full), (circuit.mask, found.circuit)):
            left = mask.copy()
            left[:, [lm.graph.writer_names.index(name) for name in chosen]] = False
            agree(ours[at], naive_circuit.metrics(lm, task, left), gap)
        share = (found.full[at] - found.circuit[at]).mean() / gap.mean()
        assert float(found.incompleteness[at]) == pytest.approx(float(share))
    f = vc.faithfulness(lm, task, circuit, show_progress=False).f
    assert float(found.incompleteness[0]) == pytest.approx(1 - f)
    random = found.incompleteness[1:4].abs()
    assert found.mean == pytest.approx(float(random.mean()))
    assert found.stderr == pytest.approx(float(random.std()) / 3**0.5)
    worst = int(found.incompleteness.abs().argmax())
    assert found.worst == (found.sets[worst], pytest.approx(float(found.incompleteness[worst])))
    table = found.table()
    assert table["size"].tolist() == [len(chosen) for chosen in found.sets]
    shares = share_of_gap(found.full - found.circuit, found.measured.gap)  # NaN where the gap is not told from 0
    np.testing.assert_allclose(table["stderr"], [share.stderr for share in shares])
    assert "completeness" in repr(found)


def test_the_whole_graph_is_complete(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    found = run(lm, task, Circuit.of(lm.graph, *lm.graph.edges), draws=5, greedy=1)
    assert (
        torch.equal(found.full, found.circuit)
        and found.mean == 0
        and set(found.nodes) == set(lm.graph.writer_names[1:])
    )


def test_a_true_circuit_is_complete_and_without_an_edge_it_is_not():
    lm, program = load_compiled("sort_by_frequency")
    task, true = program.task(n=60), sorted(program.edges)
    found = run(lm, task, Circuit.from_names(lm, true), draws=10)
    assert float(found.incompleteness.abs().max()) < 1e-4 and set(found.nodes) == program.nodes
    less = Circuit.from_names(lm, true[:-1])
    assert abs(run(lm, task, less, draws=5, greedy=0).worst[1]) > 0.05


@pytest.mark.slow
def test_the_greedy_step_takes_the_node_that_matters_most(tiny, task_of):
    """With every node a candidate, its first two steps are those of trying them all."""
    lm, task = tiny("llama"), task_of(6, n=2)
    circuit = some_circuit(lm, task, 30)
    found = run(lm, task, circuit, draws=1, greedy=2, candidates=99)
    chosen: list[str] = []
    for step in range(2):
        value = {}
        for name in set(found.nodes) - set(chosen):
            out = [lm.graph.writer_names.index(one) for one in (*chosen, name)]
            both = []
            for mask in (all_edges_mask(lm.graph), circuit.mask):
                left = mask.copy()
                left[:, out] = False
                both.append(naive_circuit.metrics(lm, task, left).mean())
            value[name] = abs(float(both[0] - both[1]))
        chosen.append(max(value, key=lambda name: value[name]))
        assert set(found.sets[2 + step]) == set(chosen)


def test_draws_are_keyed(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    circuit = some_circuit(lm, task)
    few, many, other = (
        run(lm, task, circuit, draws=draws, greedy=0, seed=seed).sets for draws, seed in ((3, 0), (6, 0), (3, 1))
    )
    assert few == many[:4] and few != other and few[0] == ()
    sizes = [len(one) for one in run(lm, task, circuit, draws=40, greedy=0).sets[1:]]
    assert len(set(sizes)) > 5 and min(sizes) >= 1


def test_what_cannot_be(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    circuit = some_circuit(lm, task)
    for options in ({"draws": 0}, {"candidates": 0}, {"greedy": -1}):
        with pytest.raises(MethodError):
            run(lm, task, circuit, **options)
    with pytest.raises(MethodError, match="no heads"):
        run(lm, task, Circuit.from_names(lm, ["input->logits"]))
    with pytest.raises(CircuitError, match="no edges"):
        run(lm, task, Circuit.of(lm.graph, np.array([], dtype=int), np.array([], dtype=int)))
    with pytest.raises(CircuitError):
        run(lm, task, dataclasses.replace(circuit, model=circuit.model | {"identity": "other"}))
    with pytest.raises(CircuitError, match="kv_heads"):
        run(tiny("gpt2"), task, circuit)
