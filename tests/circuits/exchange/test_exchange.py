"""Circuits to other programs and back; EAP-IG's graph against one written out by hand in its own terms."""

import dataclasses
import json
import random

import brute
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.exchange.eap_json import read_eap_json, scores_from_eap_json, write_eap_json
from veracausa.circuits.exchange.graphml import read_csv, read_graphml, write_csv, write_graphml
from veracausa.errors import CircuitError, FileError, MethodError, UnitError

FEW = ("gpt2", "llama", "gpt_neox", "olmo2", "deepseek_v3")


def circuit_in(lm, seed=0, share=0.2, importance=True):
    rng = random.Random(seed)
    names = [name for name in brute.every_name(lm.graph) if rng.random() < share]
    circuit = Circuit.from_names(lm, names)
    values = np.array([rng.gauss(0, 1) for _ in names]) if importance else None
    return Circuit(circuit.edges, circuit.model, circuit.task, "made up", {"how": "random"}, ("a note",), values)


def same(one, two, tolerance=0.0):
    assert one.names == two.names and one.graph == two.graph
    if one.importance is None:
        assert two.importance is None
    else:
        np.testing.assert_allclose(two.importance, one.importance, rtol=tolerance, atol=0)


@pytest.mark.parametrize("importance", [True, False])
@pytest.mark.parametrize("family", FEW)
def test_graphml(tiny, tmp_path, family, importance):
    circuit = circuit_in(tiny(family), importance=importance)
    again = read_graphml(write_graphml(circuit, tmp_path / "circuit.graphml"))
    same(circuit, again)
    for part in ("model", "task", "method", "settings", "notes"):
        assert getattr(again, part) == getattr(circuit, part)


def test_graphml_is_read_by_networkx(tiny, tmp_path):
    import networkx as nx

    circuit = circuit_in(tiny("llama")).prune()
    made = nx.read_graphml(write_graphml(circuit, tmp_path / "circuit.graphml"), force_multigraph=True)
    assert set(made) == set(circuit.nodes) and nx.has_path(made, "input", "logits")
    assert made.nodes["a1.h2"] == {"kind": "head", "layer": 1, "head": 2}


def test_graphml_that_is_damaged_or_foreign(tiny, tmp_path):
    import networkx as nx

    path = write_graphml(circuit_in(tiny("llama")), tmp_path / "circuit.graphml")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 12, max(1, len(whole) // 30)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            read_graphml(path)
    nx.write_graphml(nx.path_graph(3), path)
    with pytest.raises(FileError, match="was not written by veracausa"):
        read_graphml(path)
    with pytest.raises(FileError, match="no file"):
        read_graphml(tmp_path / "missing.graphml")


@pytest.mark.parametrize("importance", [True, False])
@pytest.mark.parametrize("family", FEW)
def test_csv(tiny, tmp_path, family, importance):
    lm = tiny(family)
    circuit = circuit_in(lm, importance=importance)
    same(circuit, read_csv(write_csv(circuit, tmp_path / "circuit.csv"), lm).require_for(lm))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("edge\ninput->m0\n", "no column 'name'"),
        ("name\ninput->m9\n", "m9"),
        ("name\ninput->m0\ninput->m0\n", "twice"),
        ("name,importance\ninput->m0,\n", "no number"),
        ("", "no CSV"),
    ],
)
def test_csv_that_is_wrong(tiny, tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(FileError, match=words):
        read_csv(tmp_path / "x.csv", tiny("llama"))
    with pytest.raises(FileError, match="no file"):
        read_csv(tmp_path / "missing.csv", tiny("llama"))


# ---- EAP-IG ---------------------------------------------------------------------------------------------------------


def their_edges(layers, heads, parallel):
    """Names of all edges, in their own construction: a stream that every block reads and appends to."""
    stream, names = ["input"], []
    for layer in range(layers):
        attention = [f"a{layer}.h{h}" for h in range(heads)]
        names += [f"{u}->{v}<{letter}>" for u in stream for v in attention for letter in "qkv"]
        if not parallel:
            stream = stream + attention
        names += [f"{u}->m{layer}" for u in stream]
        stream = [*stream, *(attention if parallel else []), f"m{layer}"]
    return [*names, *(f"{u}->logits" for u in stream)], [*stream, "logits"]


@pytest.mark.parametrize("family", FEW)
def test_the_graph_is_theirs(tiny, tmp_path, family):
    lm = tiny(family)
    body = json.loads(write_eap_json(lm, tmp_path / "g.json", circuit=circuit_in(lm)).read_text())
    edges, nodes = their_edges(lm.layers, lm.heads, family == "gpt_neox")
    assert set(body["edges"]) == set(edges) and set(body["nodes"]) == set(nodes)
    assert body["cfg"] == {"n_layers": lm.layers, "n_heads": lm.heads, "parallel_attn_mlp": family == "gpt_neox",
                           "d_model": lm.width}  # fmt: skip
    assert all(set(entry) == {"score", "in_graph"} for entry in body["edges"].values())


@pytest.mark.parametrize("importance", [True, False])
@pytest.mark.parametrize("family", FEW)
def test_circuits_there_and_back(tiny, tmp_path, family, importance):
    lm = tiny(family)
    circuit = circuit_in(lm, importance=importance)
    path = write_eap_json(lm, tmp_path / "g.json", circuit=circuit)
    same(circuit, read_eap_json(path, lm).require_for(lm), 1e-15)
    in_graph = {name for name, node in json.loads(path.read_text())["nodes"].items() if node["in_graph"]}
    assert in_graph == set(circuit.nodes)


def test_keys_of_a_group_are_split(tiny, tmp_path):
    lm = tiny("llama")  # 4 heads, 2 key/value heads
    circuit = Circuit.from_names(lm, ["input->a1.kv1<k>", "input->a1.h2<q>", "a1.h2->logits"])
    circuit = Circuit(circuit.edges, circuit.model, circuit.task, "x", importance=np.array([0.5, 3.0, -1.0]))
    body = json.loads(write_eap_json(lm, tmp_path / "g.json", circuit=circuit).read_text())
    kept = {name: entry["score"] for name, entry in body["edges"].items() if entry["in_graph"]}
    assert kept == {"input->a1.h2<q>": 0.5, "input->a1.h2<k>": 1.5, "input->a1.h3<k>": 1.5, "a1.h2->logits": -1.0}


def test_inputs_of_a_shared_reader_are_split_and_must_agree(tiny, tmp_path):
    lm = tiny("deepseek_v3")  # 4 heads, one reader of keys and values
    circuit = Circuit.from_names(lm, ["input->a1<q>", "input->a1<kv>", "a1.h2->logits"])
    circuit = Circuit(circuit.edges, circuit.model, circuit.task, "x", importance=np.array([2.0, 4.0, -1.0]))
    path = write_eap_json(lm, tmp_path / "g.json", circuit=circuit)
    body = json.loads(path.read_text())
    kept = {name: entry["score"] for name, entry in body["edges"].items() if entry["in_graph"]}
    shared = {f"input->a1.h{h}<{letter}>": 0.5 for h in range(4) for letter in "qkv"}
    assert kept == shared | {"a1.h2->logits": -1.0}
    body["edges"]["input->a1.h3<v>"]["in_graph"] = False
    path.write_text(json.dumps(body))
    with pytest.raises(FileError, match="input->a1<kv> is one edge here, but its flag is true for 7 of the 8 inputs"):
        read_eap_json(path, lm)
    assert read_eap_json(path, lm, groups="any").names == circuit.names


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FEW)
def test_scores_there_and_back(tiny, task_of, tmp_path, family, direction):
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = vc.exact(lm, task, units="edges", direction=direction, show_progress=False)
    path = write_eap_json(lm, tmp_path / "g.json", scores=scores)
    again = scores_from_eap_json(path, lm, direction=direction, task=task)
    assert again.units.names == scores.units.names and again.direction == direction
    torch.testing.assert_close(again.mean(), scores.mean(), rtol=1e-14, atol=0)
    torch.testing.assert_close(again.importance(), scores.importance(), rtol=1e-14, atol=0)
    assert vc.agreement(again, scores).r == pytest.approx(1)
    value = dict(zip(scores.units.names, scores.importance().tolist(), strict=True))
    there = json.loads(path.read_text())["edges"]
    assert there["input->m1"]["score"] == value["input->m1"] and not any(one["in_graph"] for one in there.values())
    with pytest.raises(CircuitError, match="scores_from_eap_json"):
        read_eap_json(path, lm)
    for how in ("top", "abs", "greedy"):
        assert vc.select(again, n=20, how=how).names == vc.select(scores, n=20, how=how).names
    alone = scores_from_eap_json(path, lm, direction=direction)
    assert alone.n == 1 and "not known" in repr(alone)


def test_scores_and_a_circuit_in_one_file(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    scores = vc.exact(lm, task, units="edges", show_progress=False)
    circuit = vc.select(scores, n=25)
    path = write_eap_json(lm, tmp_path / "g.json", circuit=circuit, scores=scores)
    same(circuit, read_eap_json(path, lm), 1e-14)
    torch.testing.assert_close(scores_from_eap_json(path, lm).mean(), scores.mean(), rtol=1e-14, atol=0)


def written(lm, tmp_path, change):
    path = write_eap_json(lm, tmp_path / "g.json", circuit=circuit_in(lm))
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    return path


def test_the_older_form(tiny, tmp_path):
    """Plain flags as nodes, null scores, no width."""
    lm = tiny("llama")

    def older(body):
        del body["cfg"]["d_model"]
        body["nodes"] = {name: node["in_graph"] for name, node in body["nodes"].items()}
        for entry in body["edges"].values():
            entry["score"] = None

    same(circuit_in(lm, importance=False), read_eap_json(written(lm, tmp_path, older), lm))


def test_flags_of_a_group_must_agree(tiny, tmp_path):
    lm = tiny("llama")
    name = next(name for name in circuit_in(lm).names if "kv" in name)
    reader = name.split("->")[1]
    head = brute.nodes_fed(lm.graph, reader)[1]

    def cut(body):
        body["edges"][f"{name.split('->')[0]}->{head}{reader[-3:]}"]["in_graph"] = False

    path = written(lm, tmp_path, cut)
    with pytest.raises(FileError) as caught:
        read_eap_json(path, lm)
    assert name in str(caught.value) and "1 of the 2" in str(caught.value)
    same(circuit_in(lm), read_eap_json(path, lm, groups="any"), 1e-15)
    with pytest.raises(MethodError, match="groups"):
        read_eap_json(path, lm, groups="all")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.pop("cfg"), "lacks cfg"),
        (lambda body: body.update(edges=[]), "lacks edges"),
        (lambda body: body["cfg"].update(n_layers=12), "n_layers 12 instead of 3"),
        (lambda body: body["cfg"].update(d_model=7), "d_model 7"),
        (lambda body: body["cfg"].pop("parallel_attn_mlp"), "parallel_attn_mlp None"),
        (lambda body: body["edges"].update({"m2->m1": {"score": 0.0, "in_graph": True}}), "m2->m1"),
        (lambda body: body["nodes"].update({"m7": {"in_graph": True}}), "m7"),
        (lambda body: body["edges"]["input->m0"].update(score="high"), "no finite number"),
        (lambda body: body["edges"]["input->m0"].update(score=float("nan")), "no finite number"),
        (lambda body: body["edges"]["input->m0"].update(in_graph=1), "neither true nor false"),
        (lambda body: body["edges"].update({"input->m0": 3}), "input->m0"),
        (lambda body: body["nodes"]["m0"].update(neurons=[True, False]), "some dimensions"),
    ],
)
def test_graphs_that_are_wrong(tiny, tmp_path, change, words):
    path = written(tiny("llama"), tmp_path, change)
    for read in (read_eap_json, scores_from_eap_json):
        with pytest.raises(FileError, match=words):
            read(path, tiny("llama"))


def test_graphs_cut_short(tiny, tmp_path):
    lm = tiny("llama")
    path = write_eap_json(lm, tmp_path / "g.json", circuit=circuit_in(lm))
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            read_eap_json(path, lm)
    with pytest.raises(FileError, match="no file"):
        read_eap_json(tmp_path / "missing.json", lm)


def test_what_cannot_be_written(tiny, task_of, tmp_path):
    lm, path = tiny("llama"), tmp_path / "g.json"
    with pytest.raises(CircuitError, match="Nothing to write"):
        write_eap_json(lm, path)
    with pytest.raises(CircuitError, match="kv_heads"):
        write_eap_json(lm, path, circuit=circuit_in(tiny("gpt2")))
    with pytest.raises(MethodError, match="heads"):
        write_eap_json(lm, path, scores=vc.exact(lm, task_of(6), units="heads", show_progress=False))
    foreign = vc.exact(tiny("gpt2"), task_of(6), units="edges", show_progress=False)
    with pytest.raises(UnitError, match="kv_heads"):
        write_eap_json(lm, path, scores=dataclasses.replace(foreign, model=foreign.model | {"identity": lm.identity}))
    with pytest.raises(MethodError, match="other weights"):
        other = foreign.model | {"identity": "other", "source": "other weights"}
        write_eap_json(tiny("gpt2"), path, scores=dataclasses.replace(foreign, model=other))
    with pytest.raises(MethodError, match="direction"):
        scores_from_eap_json(write_eap_json(lm, path, circuit=circuit_in(lm)), lm, direction="up")
    assert [file.name for file in tmp_path.iterdir()] == ["g.json"]
