"""Live and frozen ablations of a graph's nodes."""

from dataclasses import replace

import naive_features as plain
import numpy as np
import pytest
import torch
from bridges import as_model
from tiny_models import VOCAB, make, pairs
from transcoders import random_task, transcoder

import veracausa as vc
from veracausa.errors import MethodError


@pytest.mark.cases(1)
@pytest.mark.parametrize(("read", "at"), [("n", "mlp_in"), ("r", "resid")])
def test_live_effects_are_those_of_whole_runs(read, at, tmp_path):
    """Of a transcoder that reads what enters its block nodes are known, and sets of nodes are not."""
    hf = make("llama")
    lm, task = as_model(hf, "llama"), random_task()
    own = [transcoder(lm.width, 1, read=read)]
    graphs = [vc.graphs.attribution_graph(lm, task, pair=i, dictionary=own) for i in range(2)]
    found = vc.graphs.check(lm, graphs, task, dictionary=own, top=25)
    e = own[0].encoder
    theirs = plain.Plain("relu", e.weight, e.bias - e.before @ e.weight, own[0].weight, own[0].bias, (at, 1),
                         ("mlp", 1), threshold=None, k=4, skip=None)  # fmt: skip
    prompts, seen = pairs(VOCAB, 2, 6, 3), 0
    for row in found.table().to_dict("records"):
        stem, _, position = row["name"].partition("@")
        if stem.startswith("f1."):
            part, seen = stem.split(".")[1], seen + 1
            part = part if part == "error" else int(part)
            given = (hf, "llama", prompts[row["graph"]], theirs, part)
            assert row["live"] == pytest.approx(plain.effect(*given, "zero", position=int(position)), abs=1e-9)
    assert seen > 10 and {*found.table()["kind"]} >= {"feature", "error"}
    assert ("not run live" in found.sentences[-1]) == (read == "r") == bool(found.circuits[:, 1].isnan().all())
    torch.testing.assert_close(vc.open(found.save(tmp_path / "check")).circuits, found.circuits, equal_nan=True)
    clean = lm.measure(task).clean
    assert torch.allclose(found.circuits[:, 0], clean, rtol=0, atol=1e-9)


def test_without_thresholds_the_sum_over_ways_is_the_frozen_run():
    lm, task = as_model(make("llama"), "llama"), random_task()
    own = [transcoder(lm.width, layer, "linear", skip=layer == 1) for layer in range(3)]
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own)
    found = vc.graphs.check(lm, graph, task, dictionary=own, top=1000)
    assert torch.allclose(found.frozen, found.linear, rtol=0, atol=1e-8)
    assert float(found.frozen.abs().max()) > 0.1
    assert len(found.names) == graph.counts["feature"] + graph.counts["error"] + graph.counts["token"]
    nothing = vc.graphs.check(lm, graph, task, dictionary=own, top=1, node_threshold=1.0, edge_threshold=1.0)
    assert float(nothing.circuits[0, 1] - nothing.circuits[0, 0]) == pytest.approx(0, abs=1e-9)  # all is kept
    assert float(nothing.circuits[0, 2] - nothing.circuits[0, 0]) == pytest.approx(0, abs=1e-9)


def test_where_the_model_is_linear_both_agree():
    """No norms, even patterns, MLPs of zeros: a feature of the last layer does live what it does frozen."""
    lm, truth = vc.ground_truth.load_superposed(dtype=torch.float64)
    task, own = truth.task(n=2), [transcoder(lm.width, 1)]
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own)
    found = vc.graphs.check(lm, graph, task, dictionary=own, top=100)
    last = found.layers == 1
    assert int(last.sum()) > 5
    for frozen in (found.frozen, found.linear, found.direct):
        assert torch.allclose(found.live[last], frozen[last], rtol=0, atol=1e-9)
    assert set(found.agreement("distance")["distance"]) == {1, 2, 3}


def test_bands_have_every_node_once_and_their_agreement_is_that_of_their_nodes():
    lm, task = as_model(make("llama"), "llama"), random_task()
    own = [transcoder(lm.width, layer) for layer in range(3)]
    found = vc.graphs.check(lm, vc.graphs.attribution_graph(lm, task, dictionary=own), task, dictionary=own, top=40)
    far, table = replace(found, settings=found.settings | {"layers": 30}), found.table()
    assert set(found.bands(6)) == {"tokens", "1", "2", "3"} and set(far.bands(6)) == {"tokens", "28", "29", "30"}
    two = far.bands(2)
    assert set(two) == {"tokens", "28–29", "30"} or set(two) == {"tokens", "28", "29–30"}
    agreed = found.agreement(by="band")
    assert [*dict.fromkeys(agreed["band"])][-1] == "tokens" and int(agreed["n"].sum()) == 4 * len(found.names)
    for band in dict.fromkeys(agreed["band"]):
        chosen = [one == band for one in found.bands(len({*agreed["band"]}) - 1)]
        r = np.corrcoef(table["live"][chosen], table["frozen"][chosen])[0, 1]
        assert float(agreed[agreed["band"] == band].iloc[0]["r"]) == pytest.approx(r, abs=1e-9)


def test_a_graph_of_another_task_is_refused():
    lm, task = as_model(make("llama"), "llama"), random_task()
    graph = vc.graphs.attribution_graph(lm, task, dictionary=transcoder(lm.width, 1))
    with pytest.raises(MethodError, match="another model, task or dictionary"):
        vc.graphs.check(lm, graph, task[1:], dictionary=transcoder(lm.width, 1))
    with pytest.raises(MethodError, match="another model, task or dictionary"):
        vc.graphs.check(lm, graph, task, dictionary=transcoder(lm.width, 1, size=15))
