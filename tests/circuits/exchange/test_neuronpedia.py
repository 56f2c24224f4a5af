"""Attribution graphs for Neuronpedia: the facts of its schema, and weights and influence got a second way."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.exchange.neuronpedia import write_neuronpedia
from veracausa.errors import CircuitError, TaskError

FAMILIES = ("gpt2", "llama", "gpt_neox", "olmo2")
#: Fields of graph-schema.json 1.0.0 that must be there, with their types.
METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str}
NODE = {
    "node_id": str, "feature": (int, type(None)), "layer": (str, int), "ctx_idx": int, "feature_type": str,
    "jsNodeId": str, "clerp": str, "influence": (int, float, type(None)), "activation": (int, float, type(None)),
}  # fmt: skip
LINK = {"source": str, "target": str, "weight": (int, float)}


def circuit_in(lm, task, n=60) -> Circuit:
    return vc.select(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), n=n, how="abs")


def at_positions(lm, task):
    return vc.attribute(lm, task, units="edges@positions", method="eap", show_progress=False)


def written(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def has(record: dict, wanted: dict) -> bool:
    return all(isinstance(record[key], kind) and not isinstance(record[key], bool) for key, kind in wanted.items())


@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_facts_of_the_schema_and_of_the_viewer(tiny, task_of, tmp_path, family, positional):
    lm, task = tiny(family), task_of((6, 8), n=2)
    circuit = circuit_in(lm, task)
    positions = at_positions(lm, task) if positional else None
    path = write_neuronpedia(lm, tmp_path / "g.json", circuit=circuit, task=task, pair=1, positions=positions)
    body = written(path)
    assert set(body) == {"metadata", "qParams", "nodes", "links"}
    assert has(body["metadata"], METADATA) and body["metadata"]["schema_version"] == 1
    assert body["metadata"]["prompt_tokens"] == task.tokens(1)[0]
    assert {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"} <= set(body["qParams"])
    nodes = {node["node_id"]: node for node in body["nodes"]}
    assert len(nodes) == len(body["nodes"])
    for node in body["nodes"]:
        assert has(node, NODE) and 0 <= node["ctx_idx"] < task.lengths[1] and 0 <= node["influence"] <= 1
        assert node["layer"] == "E" or 0 <= int(node["layer"]) <= lm.graph.layers + 1
    # the viewer keys nodes by these three
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in body["nodes"]}) == len(nodes)
    tokens = [node for node in body["nodes"] if node["feature_type"] == "embedding"]
    assert [node["ctx_idx"] for node in tokens] == list(range(task.lengths[1]))
    (logit,) = [node for node in body["nodes"] if node["feature_type"] == "logit"]
    assert float(logit["clerp"].split("(p=")[1].split(")")[0]) == pytest.approx(logit["token_prob"], abs=5e-4)
    assert body["links"] and all(has(link, LINK) and np.isfinite(link["weight"]) for link in body["links"])
    ends = [(link["source"], link["target"]) for link in body["links"]]
    assert len(set(ends)) == len(ends) and {end for pair in ends for end in pair} <= set(nodes)
    depth = {name: -1 if node["layer"] == "E" else int(node["layer"]) for name, node in nodes.items()}
    for source, target in ends:
        assert depth[source] <= depth[target] and nodes[source]["ctx_idx"] <= nodes[target]["ctx_idx"]
    assert all(abs(a["weight"]) >= abs(b["weight"]) for a, b in pairwise(body["links"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_circuits_importances(tiny, task_of, tmp_path, family):
    """Lines of the networkx graph, one for each head of a key/value group, each with an even part of its edge."""
    lm, task = tiny(family), task_of(6)
    circuit = circuit_in(lm, task)
    graph = circuit.to_networkx()
    lines = defaultdict(int)
    for *_, what in graph.edges(data=True):
        lines[what["edge"]] += 1
    wanted = defaultdict(float)
    for start, end, what in graph.edges(data=True):
        wanted[start, end] += what["importance"] / lines[what["edge"]]
    body = written(write_neuronpedia(lm, tmp_path / "g.json", circuit=circuit, task=task))
    name = {node["node_id"]: node["clerp"] for node in body["nodes"]}
    name |= {n["node_id"]: {"embedding": "input", "logit": "logits"}[n["feature_type"]]
             for n in body["nodes"] if n["feature_type"] in ("embedding", "logit")}  # fmt: skip
    found = defaultdict(float)
    for link in body["links"]:
        found[name[link["source"]], name[link["target"]]] += link["weight"]
    assert set(found) == set(wanted)
    for ends, value in wanted.items():
        assert found[ends] == pytest.approx(value, rel=1e-9, abs=1e-12)
    differ = [p for p, (a, b) in enumerate(zip(task.clean[0], task.corrupted[0], strict=True)) if a != b]
    where = {n["node_id"]: n["ctx_idx"] for n in body["nodes"]}
    assert {where[x["source"]] for x in body["links"] if name[x["source"]] == "input"} == set(differ)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_at_positions_are_the_pairs_own(tiny, task_of, tmp_path, family):
    lm, task = tiny(family), task_of((6, 8), n=2)
    circuit, positions = circuit_in(lm, task), at_positions(lm, task)
    path = write_neuronpedia(lm, tmp_path / "g.json", circuit=circuit, task=task, pair=1, positions=positions)
    body = written(path)
    place = {node["node_id"]: node for node in body["nodes"]}
    kept = set(circuit.names)
    by_source = defaultdict(float)
    for name, value in zip(positions.units.names, positions.values[1].tolist(), strict=True):
        edge, position = name.split("@")
        if edge in kept and np.isfinite(value):
            by_source[edge.split("->")[0], int(position)] -= value  # noising: importance is −E
    found = defaultdict(float)
    for link in body["links"]:
        node = place[link["source"]]
        start = "input" if node["feature_type"] == "embedding" else node["clerp"]
        found[start, node["ctx_idx"]] += link["weight"]
    scale = max(map(abs, by_source.values()))
    for start in set(found) | {key for key, value in by_source.items() if value}:
        assert found[start] == pytest.approx(by_source[start], abs=1e-9 * scale)


def test_influence_as_the_geometric_series_of_circuit_tracer(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6)
    positions = at_positions(lm, task)
    circuit = circuit_in(lm, task)
    body = written(write_neuronpedia(lm, tmp_path / "g.json", circuit=circuit, task=task, positions=positions))
    row = {node["node_id"]: i for i, node in enumerate(body["nodes"])}
    into = np.zeros((len(row), len(row)))
    for link in body["links"]:
        into[row[link["target"]], row[link["source"]]] = abs(link["weight"])
    into /= np.maximum(into.sum(1, keepdims=True), 1e-300)
    (logit,) = [row[node["node_id"]] for node in body["nodes"] if node["feature_type"] == "logit"]
    reached = np.linalg.inv(np.eye(len(row)) - into)[logit]
    reached[logit] = 0.0
    for node in body["nodes"]:
        own = reached[row[node["node_id"]]]
        if own > 0 and (np.isclose(reached, own, rtol=1e-9).sum()) == 1:  # ties may stand in either order
            share = reached[reached >= own].sum() / reached.sum()
            assert node["influence"] == pytest.approx(share, abs=1e-9)


def test_probability_is_the_bare_models(tiny, task_of, tmp_path):
    lm, task = tiny("gpt2"), task_of(6)
    body = written(write_neuronpedia(lm, tmp_path / "g.json", circuit=circuit_in(lm, task), task=task))
    (logit,) = [node for node in body["nodes"] if node["feature_type"] == "logit"]
    with torch.no_grad():
        logits = lm.hf(torch.tensor([task.clean[0]])).logits[0, -1]
    assert logit["token_prob"] == pytest.approx(float(logits.softmax(-1)[task.correct[0][0]]), abs=1e-9)


def test_names_and_unknown_importances(tiny, task_of, tmp_path):
    lm, task = tiny("gpt2"), task_of(6)
    circuit = Circuit.from_names(lm, ["input->m0", "m0->a1.h0<q>", "m0->a1.kv0<k>", "a1.h0->logits"])
    path = write_neuronpedia(lm, tmp_path / "g.json", circuit=circuit, task=task, slug="mine", scan="gpt2-small")
    body = written(path)
    assert body["metadata"]["slug"] == "mine" and body["metadata"]["scan"] == "gpt2-small"
    assert "importances not known" in body["metadata"]["info"]["description"]
    assert sum(link["weight"] for link in body["links"]) == pytest.approx(len(circuit))
    node = next(node for node in body["nodes"] if node["clerp"] == "a1.h0")
    assert (node["node_id"], node["layer"], node["feature_type"]) == ("1_0_5", "1", "attention head")
    assert node["feature"] == 1  # Cantor's pairing of (1, 0)


def test_what_is_refused(tiny, task_of, tmp_path):
    lm, task = tiny("gpt2"), task_of(6)
    circuit, path = circuit_in(lm, task), tmp_path / "g.json"
    with pytest.raises(TaskError, match="pair=3"):
        write_neuronpedia(lm, path, circuit=circuit, task=task, pair=3)
    with pytest.raises(CircuitError, match="other prompts"):
        write_neuronpedia(lm, path, circuit=circuit, task=task_of(7), positions=at_positions(lm, task))
    with pytest.raises(CircuitError, match="edges@positions"):
        scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
        write_neuronpedia(lm, path, circuit=circuit, task=task, positions=scores)
    with pytest.raises(CircuitError):
        write_neuronpedia(tiny("llama"), path, circuit=circuit, task=task)
    empty = dataclasses.replace(circuit, edges=circuit.edges[:0], importance=circuit.importance[:0])
    with pytest.raises(CircuitError, match="no edges"):
        write_neuronpedia(lm, path, circuit=empty, task=task)
    assert not path.exists()
