"""Attribution graphs of cross-layer transcoders: a feature's write goes to several layers."""

import pytest
import torch
from bridges import as_model
from slopes import by_rules
from tiny_models import make
from transcoders import cross_layer, random_task

import veracausa as vc


@pytest.mark.parametrize(
    ("family", "reads", "post"), [("llama", "n", ""), ("gpt2", "mid", ""), ("gemma2", "mid", ".post")]
)
def test_rows_add_up_to_what_nodes_have(family, reads, post):
    lm, task = as_model(make(family), family), random_task()
    own, _ = cross_layer(lm.width, lm.layers, "jumprelu", reads=reads, post=post)
    for some in (own, own[:2]):  # of two layers the third one's MLP is an error, less what they write there
        graph = vc.graphs.attribution_graph(lm, task, dictionary=some, targets="top", most=2)
        whole, features = graph.adjacency.sum(1) + graph.bias, graph.kinds == 0
        assert torch.allclose(whole[features], graph.activation[features], rtol=0, atol=1e-9)
        assert torch.allclose(whole[graph.kinds == 3], graph.total[graph.kinds == 3], rtol=0, atol=1e-9)
        assert int(features.sum()) > 10


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_are_the_slopes_of_backward_rules_at_every_layer_written_to(family):
    lm, task = as_model(make(family), family), random_task()
    own, theirs = cross_layer(lm.width, lm.layers)
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own)
    ids, names, seen = torch.tensor([task.clean[0]]), list(graph.names), 0
    for target in [i for i, name in enumerate(names) if name.startswith("f2.") and graph.kinds[i] == 0][::5]:
        feature, position = int(names[target].split(".")[1].split("@")[0]), int(graph.positions[target])
        slopes, _ = by_rules(lm, ids, theirs[2]["w_enc"][:, feature], 2, position)
        for source, name in enumerate(names):
            layer, at = int(graph.layers[source]), int(graph.positions[source])
            if graph.kinds[source] == 0 and layer < 2:
                rows = theirs[layer]["w_dec"][int(name.split(".")[1].split("@")[0])]
                each = [(slopes[1 + layer + k][0, at] * row).sum() for k, row in enumerate(rows)]
                wanted = float(graph.activation[source] * sum(each))
                assert float(graph.adjacency[target, source]) == pytest.approx(wanted, abs=1e-9), name
                seen += 1
    assert seen > 20


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "reads"), [("llama", "n"), ("gpt2", "mid")])
def test_without_thresholds_the_sum_over_ways_is_the_frozen_run(family, reads):
    lm, task = as_model(make(family), family), random_task()
    own, _ = cross_layer(lm.width, lm.layers, "linear", reads=reads)
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own)
    found = vc.graphs.check(lm, graph, task, dictionary=own, top=1000)
    assert torch.allclose(found.frozen, found.linear, rtol=0, atol=1e-8)
    assert float(found.frozen.abs().max()) > 0.1
    live = vc.exact(lm, task.side(True)[:1], units=["f1.3"], ablation="zero", dictionary=own, show_progress=False)
    where = {name: i for i, name in enumerate(found.names)}
    assert float(live.values[0, 0]) != 0 and any(name.startswith("f1.3@") for name in where)
