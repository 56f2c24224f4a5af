"""Circuits against sets of names: nodes, pruning, files, and everything that is refused."""

import dataclasses
import json
import random

import brute
import numpy as np
import pytest

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.wiring import parse_names
from veracausa.errors import CircuitError, FileError, UnitError
from veracausa.storage.files import write_json
from veracausa.units.edges import Edges

GRAPHS = [brute.SMALL, brute.GROUPED, brute.PARALLEL, brute.FLAT, brute.LATENT]


def circuit_of(graph, names, **parts):
    ends = parse_names(graph, names)
    return Circuit.of(graph, ends[:, 0], ends[:, 1], **parts)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.5])
def test_pruning_is_the_naive_fixpoint(graph, share):
    rng = random.Random(0)
    every = brute.every_name(graph)
    partly = 0
    for _ in range(40):
        names = [name for name in every if rng.random() < share]
        circuit = circuit_of(graph, names)
        pruned = circuit.prune()
        assert set(pruned.names) == brute.prune(graph, names)
        assert pruned.prune() is pruned
        dropped = len(names) - len(pruned)
        assert (f"{dropped:,} of {len(names):,}" in str(pruned.notes)) == bool(dropped)
        partly += bool(len(pruned) and dropped)
    assert partly >= 3 or not 0.1 <= share <= 0.2  # otherwise anything agrees


@pytest.mark.parametrize("graph", GRAPHS)
def test_nodes_of_a_pruned_circuit_are_its_writers(graph):
    rng = random.Random(1)
    for _ in range(30):
        pruned = circuit_of(graph, [name for name in brute.every_name(graph) if rng.random() < 0.2]).prune()
        writers = {name.split("->")[0] for name in pruned.names}
        assert set(pruned.nodes) == writers | ({"logits"} if len(pruned) else set())


def test_nodes():
    circuit = circuit_of(brute.GROUPED, ["input->a1.kv1<k>", "input->a0.kv0<v>", "a0.h1->m0", "input->logits"])
    # nobody of the group of a1.kv1 writes or reads, so all of it is touched; of a0.kv0's only the head that writes
    assert circuit.nodes == ["input", "a0.h1", "m0", "a1.h2", "a1.h3", "logits"]
    assert circuit.prune().nodes == ["input", "logits"]
    asking = circuit_of(brute.GROUPED, ["input->a1.kv1<k>", "input->a1.h3<q>"])
    assert asking.nodes == ["input", "a1.h3"]
    assert len(circuit) == 4 and circuit.share == 4 / brute.GROUPED.size
    assert "4 edges (2.11% of 190) · 3 heads, 1 MLPs" in repr(circuit)
    assert "<table" in circuit._repr_html_()


def test_a_key_leads_on_through_any_head_of_its_group():
    names = ["input->a0.kv0<k>", "a0.h1->logits"]
    assert circuit_of(brute.GROUPED, names).prune().names == names
    assert len(circuit_of(brute.GROUPED, ["input->a0.kv1<k>", "a0.h1->logits"]).prune()) == 0
    assert len(circuit_of(brute.GROUPED, ["input->a0.h0<q>", "a0.h1->logits"]).prune()) == 0


@pytest.mark.parametrize("graph", GRAPHS)
def test_mask_and_order(graph):
    rng = random.Random(2)
    names = [name for name in brute.every_name(graph) if rng.random() < 0.3]
    shuffled = rng.sample(names, len(names))
    circuit = circuit_of(graph, shuffled, importance=np.arange(len(names), dtype=float))
    assert circuit.names == names
    assert [circuit.importance[names.index(name)] for name in shuffled] == list(range(len(names)))
    reader, writer = np.nonzero(circuit.mask)
    assert Edges.of(graph, writer, reader).names == names
    table = circuit.table()
    assert list(table.columns) == ["name", "writer", "reader", "layer", "importance"] and list(table["name"]) == names


@pytest.mark.parametrize("graph", GRAPHS)
def test_networkx_knows_the_same_paths(graph):
    import networkx as nx

    rng = random.Random(3)
    names = [name for name in brute.every_name(graph) if rng.random() < 0.15]
    circuit = circuit_of(graph, names, importance=np.array([rng.random() for _ in names])).prune()
    made = circuit.to_networkx()
    assert list(made) == circuit.nodes and nx.is_directed_acyclic_graph(made)
    assert {edge["edge"] for *_, edge in made.edges(data=True)} == set(circuit.names)
    assert all(nx.has_path(made, "input", node) and nx.has_path(made, node, "logits") for node in made)
    assert len({key for *_, key in made.edges(keys=True)}) == made.number_of_edges()


def test_by_name(tiny):
    lm = tiny("llama")
    circuit = Circuit.from_names(lm, ["a0.h0->logits", "input->a0.h0<q>"])
    assert circuit.names == ["input->a0.h0<q>", "a0.h0->logits"] and circuit.require_for(lm) is circuit
    assert vc.Circuit is Circuit


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (["a0.h0->a0.h1<q>"], UnitError, ["cannot exist"]),
        (["wheel->m1"], UnitError, ["wheel"]),
        (["a0.h0"], UnitError, ["a9.h6->m10"]),
        (["a0.h0->m1@3"], CircuitError, ["a0.h0->m1@3", "positions"]),
        (["a0.h0->m1", "a0.h0->m1"], CircuitError, ["twice", "a0.h0->m1"]),
    ],
)
def test_names_that_are_wrong(tiny, names, kind, words):
    with pytest.raises(kind) as caught:
        Circuit.from_names(tiny("llama"), names)
    assert all(word in str(caught.value) for word in words), caught.value


def test_circuits_of_another_model_or_graph(tiny):
    lm, other = tiny("llama"), tiny("gpt2")
    circuit = Circuit.from_names(lm, ["input->logits"])
    with pytest.raises(CircuitError, match=r"kv_heads=2.*kv_heads=4"):
        circuit.require_for(other)
    with pytest.raises(CircuitError, match="from_names"):
        dataclasses.replace(circuit, model=circuit.model | {"identity": "other"}).require_for(lm)
    dataclasses.replace(circuit, model=circuit.model | {"identity": ""}).require_for(lm)


def test_tables_that_are_wrong():
    graph = brute.SMALL
    good = {"model": {}, "task": {}, "method": "m"}
    writer, reader = graph.edges
    with pytest.raises(CircuitError, match="order"):
        Circuit(Edges.of(graph, writer[[1, 0]], reader[[1, 0]] + np.array([1, 0])), **good)
    with pytest.raises(CircuitError, match="twice"):
        Circuit(Edges.of(graph, writer[[0, 0]], reader[[0, 0]]), **good)
    with pytest.raises(CircuitError, match="positions"):
        Circuit(Edges.of(graph, writer[:1], reader[:1], np.array([2])), **good)
    with pytest.raises(UnitError, match="cannot exist"):
        Circuit(Edges.of(graph, np.array([5]), np.array([0])), **good)
    for make in (lambda **more: Circuit(Edges.of(graph, writer, reader), **good, **more),
                 lambda **more: Circuit.of(graph, writer, reader, **more)):  # fmt: skip
        with pytest.raises(CircuitError, match="Importances"):
            make(importance=np.zeros(3))


def saved(tmp_path, **parts):
    circuit = circuit_of(
        brute.GROUPED, ["input->a1.kv1<k>", "a1.h2->m2", "m2->logits"], method="eap", notes=("two", "notes"),
        settings={"how": "top", "asked": 5, "bootstrap": None}, **parts,
    )  # fmt: skip
    return circuit, circuit.save(tmp_path / "new" / "circuit.json")


@pytest.mark.parametrize("importance", [None, np.array([0.1, -1e-9, 3.0])])
def test_saved_and_loaded(tmp_path, importance):
    circuit, path = saved(tmp_path, importance=importance)
    again = vc.open(path)
    assert again.names == circuit.names and again.graph == circuit.graph
    assert (again.importance is None) if importance is None else (again.importance == importance).all()
    for part in ("model", "task", "method", "settings", "notes"):
        assert getattr(again, part) == getattr(circuit, part)
    assert [file.name for file in path.parent.iterdir()] == ["circuit.json"]


def test_a_file_cut_short_anywhere(tmp_path):
    _, path = saved(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match=r"circuit\.json"):
            vc.open(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"format": None}, {"edges": None}, {"edges": ["m0->m9"]}, {"edges": [3]}, {"graph": {}},
        {"graph": {"layers": 3, "heads": 4, "kv_heads": 0, "parallel": False}}, {"importance": [1.0]}, {"model": {}},
        {"graph": {"layers": 3, "heads": 4, "kv_heads": 3, "parallel": False}}, {"importance": ["x", "y", "z"]},
        {"task": []}, {"notes": 3}, {"settings": 3}, {"edges": ["m2->logits", "m2->logits"]}, {"model": 7},
    ],
)  # fmt: skip
def test_files_that_are_wrong(tmp_path, change):
    _, path = saved(tmp_path)
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(FileError, match=r"circuit\.json"):
        vc.open(path)


@pytest.mark.parametrize("text", ["[]", "3", "", "\x00\x01", "{}", "[" * 100_000])
def test_files_of_others(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FileError):
        vc.open(path)
    with pytest.raises(FileError, match="no file"):
        vc.open(tmp_path / "missing.json")
    with pytest.raises(FileError):
        circuit_of(brute.SMALL, ["input->logits"]).save(path / "below-a-file.json")


@pytest.mark.parametrize(
    ("family", "ablation"), [("gemma2", "counterfactual"), ("llama", "counterfactual"), ("gpt2", "zero")]
)
def test_pruning_says_what_it_changed(tiny, task_of, family, ablation):
    """Nothing without post-norms and with counterfactuals; else what two runs give."""
    lm, task = tiny(family), task_of(6, n=2)
    ends = np.random.default_rng(4).permutation(np.stack(lm.graph.edges, 1))[: lm.graph.size // 3]
    circuit = Circuit.of(lm.graph, ends[:, 0], ends[:, 1])
    pruned = circuit.prune(lm, task, ablation=ablation)
    f = [vc.faithfulness(lm, task, one, ablation=ablation, show_progress=False).f for one in (circuit, pruned)]
    assert pruned.names == circuit.prune().names and len(pruned) < len(circuit)
    assert f"changed f from {f[0]:.4f} to {f[1]:.4f} ({ablation} ablation, 2 pairs)" in pruned.notes[-1]
    assert (f[0] == pytest.approx(f[1], abs=1e-9)) == (family == "llama" and ablation == "counterfactual")
    with pytest.raises(CircuitError, match="needs the model and pairs"):
        circuit.prune(lm)


def test_the_circuit_without_edges_is_everything_ablated(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=3)
    circuit = Circuit.from_names(lm, [])
    assert len(circuit) == 0 and circuit.nodes == [] and circuit.prune() is circuit
    assert vc.open(circuit.save(tmp_path / "none.json")).names == []
    assert vc.faithfulness(lm, task, circuit, show_progress=False).f == 0
    few = {"sizes": (1,), "largest": (1.0,), "steps": (1,), "starts": ["zero"], "draws": 0, "show_progress": False}
    attack = vc.circuits.adversary(lm, task, circuit, **few)
    assert attack.attempts[0].budget == "none" and attack.f[0] == 0 and float(attack.f.abs().max()) > 0
