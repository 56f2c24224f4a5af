"""Modules: planted ones are found, random graphs keep degrees, the index of agreement is that of its definition."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from two_layers import QUIET, asked

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import VeracausaError
from veracausa.interplay.results import Interactions
from veracausa.report.charts.modules import modules_part
from veracausa.statistics.partitions import adjusted_rand, swapped

SETTINGS = {"method": "exact", "way": "whole", "ablation": "zero"}
MODEL = {"name": "made", "source": "made up", "identity": "x"}
TASK = {"name": "made", "description": "made up", "digest": "x", "metric": "logit", "n": 8}


def planted(groups, layers=4, each=6, n=8, noise=0.05, seed=0):
    """A chain in which part k of every layer talks to the parts of the next with the same k modulo `groups`."""
    drawn, found = np.random.default_rng(seed), []
    for k in range(layers - 1):
        same = np.arange(each)[:, None] % groups == np.arange(each)[None] % groups
        j = same * 1.0 + noise * drawn.random((n, each, each))
        names = [tuple(f"a{step}.h{i}" for i in range(each)) for step in (k, k + 1)]
        squares, zeros = torch.tensor(j**2), torch.zeros(n, each, dtype=torch.float64)
        settings = SETTINGS | {"sources": f"heads of layer {k}", "readers": f"heads of layer {k + 1}"}
        found.append(Interactions(
            *names, squares, torch.tensor(j), torch.full((n, each), 5), zeros, zeros, settings, MODEL, TASK, Cost()
        ))  # fmt: skip
    return found


@pytest.mark.parametrize("weight", ["share", "raw", "log"])
def test_planted_modules_are_found(weight):
    found = vc.interplay.modules(planted(3), keep=36, weight=weight, draws=10)
    assert found.sizes.tolist() == [8, 8, 8]
    by_group = {frozenset(found.members(k)) for k in range(3)}
    assert by_group == {frozenset(f"a{s}.h{i}" for s in range(4) for i in (g, g + 3)) for g in range(3)}
    assert found.z > 3 and min(found.stability) == 1.0 and found.inside > 0.8 and len(found.random) == 20


def test_where_nothing_was_planted_random_graphs_have_the_same():
    found = vc.interplay.modules(planted(1, noise=3.0, each=8), keep=24)
    assert abs(found.z) < 3 and np.mean(found.stability) < 0.9


def test_a_draw_is_repeated_and_its_numbers_are_those_of_networkx():
    one, other = (vc.interplay.modules(planted(2), keep=20, seed=3) for _ in range(2))
    assert one == other
    graph = one.to_networkx()
    groups = [set(one.members(k)) for k in range(len(one.sizes))]
    assert nx.community.modularity(graph.to_undirected(), groups) == pytest.approx(one.modularity)
    assert all(graph.nodes[a]["step"] + 1 == graph.nodes[b]["step"] for a, b in graph.edges)


def test_with_a_higher_resolution_modules_are_smaller():
    """At 0.05 the expected weight hardly counts, so that weak edges, too, make one module of all."""
    sizes = [vc.interplay.modules(planted(3), keep=36, resolution=one).sizes.tolist() for one in (0.05, 1.0, 4.0)]
    assert sizes == [[24], [8, 8, 8], [2] * 12]


def test_weights_are_normalised_within_two_neighbouring_sites():
    found = planted(2)
    share = vc.interplay.modules(found, keep=10)
    steps = np.array(share.step)[list(share.source)]
    assert np.allclose([np.array(share.weight)[steps == k].sum() for k in range(3)], 1)
    log = vc.interplay.modules(found, keep=10, weight="log")
    raw = vc.interplay.modules(found, keep=10, weight="raw")
    assert raw.weight == raw.strength
    for k in range(3):
        own = np.sort(found[k].strength, axis=None)[::-1][:10]
        logs = np.array(log.weight)[np.array(log.step)[list(log.source)] == k]
        assert np.allclose(np.sort(logs)[::-1], np.log10(own / own[-1])[:9])  # the weakest kept has none


@pytest.mark.parametrize("seed", range(4))
def test_the_rand_index_is_scikit_learn_s(seed):
    drawn = np.random.default_rng(seed)
    one, other = drawn.integers(4, size=(2, 30))
    assert adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other))
    assert adjusted_rand(one, (one + 1) % 4) == 1.0
    assert adjusted_rand(np.zeros(5, int), np.zeros(5, int)) == adjusted_rand(np.arange(5), np.arange(5)) == 1.0


def test_random_graphs_keep_every_node_s_number_of_edges():
    drawn = np.random.default_rng(0)
    source, target = np.unravel_index(drawn.permutation(120)[:40], (10, 12))
    new = swapped(source, target, drawn)
    assert len(set(zip(source, new, strict=True))) == 40 and (new != target).mean() > 0.5
    assert np.array_equal(np.bincount(new, minlength=12), np.bincount(target, minlength=12))


def test_modules_of_a_model_go_out_and_come_back(tmp_path):
    _, lm, task = asked("llama", count=3)
    chain = ["heads:0", "neurons:0", "heads:1", "neurons:1"]
    found = [vc.interactions(lm, task, a, b, method="exact", **QUIET) for a, b in pairwise(chain)]
    made = vc.interplay.modules(found, keep=30)
    assert vc.open(made.save(tmp_path / "modules.json")) == made
    graph = nx.read_graphml(made.graphml(tmp_path / "modules.graphml"))
    assert set(graph) == set(made.nodes) and graph.number_of_edges() == len(made.source)
    assert {data["module"] for _, data in graph.nodes(data=True)} == set(made.module)
    assert made.chart().to_dict()["title"]


def test_what_is_no_chain_is_refused():
    found, (_, lm, task) = planted(2), asked("llama")
    other = vc.interactions(lm, task, "heads:0", "heads:1", method="exact", **QUIET)
    for given, how, said in (
        ([], {}, "there are none"), (found[::2], {}, "No chain"), (found, {"weight": "x"}, "share"),
        (found, {"random": 3}, "random=20"), ([other, *found[1:]], {}, "differ in ablation"),
    ):  # fmt: skip
        with pytest.raises(VeracausaError, match=said):
            vc.interplay.modules(given, **how)


@pytest.mark.parametrize(("layers", "most"), [(4, 6), (9, 3)])
def test_names_in_a_drawing_of_many_sites_are_few_and_apart(layers, most):
    """Lines run between neighbouring sites, so that names of all parts could not be read."""
    found = vc.interplay.modules(planted(2, layers=layers), draws=2)
    spec = modules_part(found, "drawing").view.to_dict()
    words = next(one for one in spec["layer"] if one["mark"]["type"] == "text")
    rows = {}
    for row in words["data"]["values"]:
        rows.setdefault(row["y"], []).append(row["x"])
    assert {*rows} == {*range(layers)} and {len(row) for row in rows.values()} <= {*range(1, most + 1)}
    assert max(map(len, rows.values())) == (6 if layers == 4 else most)
    if layers == 9:
        assert all(b - a > 0.3 for row in rows.values() for a, b in pairwise(sorted(row)))
    assert spec["layer"][0]["encoding"]["y"]["axis"]["title"] == "heads of layer"
