"""Graphs as JSON of Neuronpedia and circuit-tracer: written and read again, and bad ones refused in words."""

import json

import pytest
import torch
from bridges import as_model
from tiny_models import make
from transcoders import random_task, transcoder

import veracausa as vc
from veracausa.errors import FileError


@pytest.fixture(scope="module")
def graph():
    lm, task = as_model(make("llama"), "llama"), random_task()
    own = [transcoder(lm.width, 0), transcoder(lm.width, 2)]
    return vc.graphs.attribution_graph(lm, task, dictionary=own, targets="top", most=3)


def test_what_is_written_is_read_again(graph, tmp_path):
    kept = graph.pruned()
    again = vc.graphs.read_graph_json(vc.graphs.write_graph_json(graph, tmp_path / "graph.json"))
    at = kept.nodes.nonzero()[:, 0]
    assert torch.equal(again.adjacency, (graph.adjacency * kept.edges)[at][:, at].double())
    assert torch.equal(again.kinds, graph.kinds[at]) and torch.equal(again.positions, graph.positions[at])
    assert torch.allclose(again.weights, graph.weights[at].double())
    assert 0 < again.replacement_score <= 1 and again.tokens == graph.tokens
    again.save(tmp_path / "again.safetensors")
    assert vc.open(tmp_path / "again.safetensors").describe() == again.describe()


def test_it_has_the_fields_that_viewers_read(graph, tmp_path):
    body = json.loads(vc.graphs.write_graph_json(graph, tmp_path / "graph.json").read_text())
    assert {"slug", "scan", "prompt_tokens", "prompt", "transcoder_list"} <= set(body["metadata"])
    assert {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"} == set(body["qParams"])
    ids = [node["node_id"] for node in body["nodes"]]
    assert len(set(ids)) == len(ids)
    for node in body["nodes"]:
        assert {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"} <= set(node)
        assert isinstance(node["feature"], int) and isinstance(node["layer"], str)
    feature = next(node for node in body["nodes"] if node["feature_type"] == "cross layer transcoder")
    layer, number, position = feature["node_id"].split("_")
    assert feature["clerp"] == f"f{layer}.{number}@{position}" and feature["activation"] > 0


def broken(body, how):
    if how == "no links":
        del body["links"]
    elif how == "unknown node":
        body["links"][0]["source"] = "nobody"
    elif how == "twice":
        body["nodes"].append(body["nodes"][0])
    elif how == "no logit":
        body["nodes"] = [node for node in body["nodes"] if node["feature_type"] != "logit"]
        body["links"] = []
    elif how == "weight":
        body["links"][0]["weight"] = "strong"
    elif how == "behind":
        body["nodes"][0]["ctx_idx"] = 99
    elif how == "circle":
        first = body["links"][0]
        body["links"].append({"source": first["target"], "target": first["source"], "weight": 1.0})
    return body


@pytest.mark.parametrize(("how", "said"), [
    ("no links", "lacks links"), ("unknown node", "not both nodes"), ("twice", "one node_id"), ("no logit", "no logit"),
    ("weight", "weight"), ("behind", "stands behind"), ("circle", "circle"),
])  # fmt: skip
def test_what_does_not_hold_together_is_refused(graph, tmp_path, how, said):
    path = vc.graphs.write_graph_json(graph, tmp_path / "graph.json")
    path.write_text(json.dumps(broken(json.loads(path.read_text()), how)))
    with pytest.raises(FileError, match=said):
        vc.graphs.read_graph_json(path)
