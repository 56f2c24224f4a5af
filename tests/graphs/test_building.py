"""Attribution graphs: rows add up, and are slopes of the frozen network, told by rules and by differences."""

import pytest
import torch
from bridges import as_model
from slopes import by_rules
from tiny_models import FAMILIES, make, mostly_slow
from transcoders import random_task, transcoder

import veracausa as vc
from veracausa.cost import Cost
from veracausa.engine.frozen_network import FrozenNetwork
from veracausa.engine.guard import borrowed
from veracausa.errors import MethodError
from veracausa.graphs.held import laid_transcoders

FAST = ("llama", "gpt2", "gpt_neox", "gemma2")


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=FAST))
@pytest.mark.parametrize(("kind", "skip", "read", "layers"), [
    ("relu", False, "n", (0, 1, 2)), ("topk", True, "n", (0, 2)), ("jumprelu", False, "r", (1, 2)),
])  # fmt: skip
def test_rows_add_up_to_what_nodes_have(family, kind, skip, read, layers):
    lm, task = as_model(make(family), family), random_task()
    post = ".post" if family.startswith("gemma") and kind == "relu" else ""
    own = [transcoder(lm.width, layer, kind, skip=skip, read=read, post=post) for layer in layers]
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own, targets="top", most=3)
    whole = graph.adjacency.sum(1) + graph.bias
    features, logits = graph.kinds == 0, graph.kinds == 3
    assert torch.allclose(whole[features], graph.activation[features], rtol=0, atol=1e-9)  # what is active is linear
    with torch.no_grad():
        said = lm.hf(torch.tensor([task.clean[0]])).logits[0, -1]
    if lm.decoder.logit_softcap is not None:
        said = torch.atanh(said / lm.decoder.logit_softcap) * lm.decoder.logit_softcap
    top = said.topk(int(logits.sum())).values
    assert torch.allclose(whole[logits], top - said.mean(), rtol=0, atol=1e-9)
    assert float(graph.rest.abs().max()) < 1e-9
    assert bool((graph.adjacency[(graph.kinds == 1) | (graph.kinds == 2)] == 0).all())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_rows_are_the_slopes_of_backward_rules(family):
    lm, task = as_model(make(family), family), random_task()
    own = [transcoder(lm.width, layer) for layer in range(3)]
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own)
    ids, names = torch.tensor([task.clean[0]]), list(graph.names)
    for target in [i for i, name in enumerate(names) if name.startswith("f2.") and graph.kinds[i] == 0][::7]:
        feature, position = int(names[target].split(".")[1].split("@")[0]), int(graph.positions[target])
        slopes, leaves = by_rules(lm, ids, own[2].encoder.weight[:, feature], 2, position)
        for source, name in enumerate(names):
            kind, layer, at = (int(of[source]) for of in (graph.kinds, graph.layers, graph.positions))
            if kind == 2:
                wanted = (slopes[0][0, at] * leaves[0][0, at]).sum()
            elif kind == 0 and layer < 2:
                write = own[layer].weight[int(name.split(".")[1].split("@")[0])]
                wanted = graph.activation[source] * (slopes[1 + layer][0, at] * write).sum()
            else:
                continue
            assert float(graph.adjacency[target, source]) == pytest.approx(float(wanted), abs=1e-9), name


def test_rows_are_differences_of_the_frozen_network():
    lm, task = as_model(make("llama"), "llama"), random_task()
    own = [transcoder(lm.width, layer, skip=layer == 1) for layer in range(3)]
    graph, lm = vc.graphs.attribution_graph(lm, task, dictionary=own), lm.reading(*own)
    ids, names = torch.tensor([task.clean[0]]), list(graph.names)
    with borrowed(lm.decoder), torch.no_grad():
        network = FrozenNetwork.of(lm.decoder, ids, laid_transcoders(lm), Cost())
        for source in [i for i, name in enumerate(names) if name.startswith("f0.") and graph.kinds[i] == 0][::5]:
            feature, position = int(names[source].split(".")[1].split("@")[0]), int(graph.positions[source])

            def write(layer, read, feature=feature, position=position, size=float(graph.activation[source])):
                found = network.writes[layer].clone()
                if layer == 0:
                    found[0, position] -= size * own[0].weight[feature]
                moved = read - network.reads[layer]
                return found if own[layer].skip is None else found + moved @ own[layer].skip

            reads, _ = network.run(network.stream, write)
            for target, name in enumerate(names):
                if graph.kinds[target] == 0 and graph.layers[target] > 0:
                    layer, at = int(graph.layers[target]), int(graph.positions[target])
                    column = own[layer].encoder.weight[:, int(name.split(".")[1].split("@")[0])]
                    change = ((network.reads[layer] - reads[layer])[0, at] * column).sum()
                    assert float(graph.adjacency[target, source]) == pytest.approx(float(change), abs=1e-9), name


def test_of_some_features_rows_are_the_same_and_the_rest_is_said():
    lm, task = as_model(make("llama"), "llama"), random_task()
    own = [transcoder(lm.width, layer) for layer in range(3)]
    whole = vc.graphs.attribution_graph(lm, task, dictionary=own)
    some = vc.graphs.attribution_graph(lm, task, dictionary=own, max_features=20)
    assert some.counts["feature"] == 20 and some.settings["kept"].startswith("20 of ")
    at = torch.tensor([whole.names.index(name) for name in some.names])
    assert torch.allclose(some.adjacency, whole.adjacency[at][:, at], rtol=0, atol=1e-10)
    assert torch.allclose(some.adjacency.sum(1) + some.rest + some.bias, some.total, rtol=0, atol=1e-9)
    assert float(some.rest.abs().max()) > 1e-3
    best = whole.strongest(5)
    assert {whole.names[i] for i in best} <= set(some.names)


def test_what_cannot_be_part_of_one_is_refused_in_words():
    lm, task = as_model(make("llama"), "llama"), random_task()
    with pytest.raises(MethodError, match="needs transcoders"):
        vc.graphs.attribution_graph(lm, task)
    with pytest.raises(MethodError, match="norm or a gate"):
        own = transcoder(lm.width, 1)
        normed = type(own.encoder)(own.encoder.weight, own.encoder.bias, "relu", norm="layer_norm")
        vc.graphs.attribution_graph(lm, task, dictionary=vc.dictionaries.Dictionary.of(
            normed, own.weight, own.bias, site="n1", writes="m1"))  # fmt: skip
    with pytest.raises(MethodError, match="takes transcoders of MLPs"):
        sae = transcoder(lm.width, 1)
        vc.graphs.attribution_graph(lm, task, dictionary=vc.dictionaries.Dictionary.of(
            sae.encoder, sae.weight, sae.bias, site="r1"))  # fmt: skip
    with pytest.raises(MethodError, match="no sum of logits"):
        vc.graphs.attribution_graph(lm, task.with_metric("prob"), dictionary=transcoder(lm.width, 1))
