"""Circuits that grow by whole ways, against enumeration; and what is said where a selection leads nowhere."""

from __future__ import annotations

import itertools

import brute
import numpy as np
import pytest

import veracausa as vc
from veracausa.circuits.selection.connected import Ways, shortest
from veracausa.circuits.selection.select import Rule
from veracausa.report.charts.figures import Figure

GRAPHS = [brute.SMALL, brute.GROUPED, brute.PARALLEL]


def random(graph, seed=0):
    return brute.scores(graph, np.random.default_rng(seed).normal(size=(1, graph.size)))


def all_ways(graph, edges):
    """Every way from the input to the logits over these edges (names), by following them."""

    def follow(node, way):
        if node == "logits":
            yield way
            return
        for name in edges:
            start, end = name.split("->")
            if start == node:
                for fed in fed_by(graph, end):
                    yield from follow(fed, (*way, name))

    yield from follow("input", ())


def fed_by(graph, reader):
    """Names of the writers that a reader feeds."""
    base = reader.split("<")[0]
    if ".kv" not in base:
        return [base]
    layer, kv = base.split(".kv")
    group = graph.heads // graph.kv_heads
    return [f"{layer}.h{int(kv) * group + k}" for k in range(group)]


@pytest.mark.cases(2)
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_size_is_connected_and_holds_the_strongest_it_can(graph):
    for seed in range(2):
        scores = random(graph, seed)
        value = dict(zip(scores.units.names, abs(scores.values[0].numpy()), strict=True))
        for n in range(1, graph.size + 1, 4):
            circuit = vc.select(scores, n=n, how="connected", prune=False)
            assert set(circuit.names) == brute.prune(graph, set(circuit.names))  # nothing to prune
            assert 0 < len(circuit) <= n
        assert len(vc.select(scores, n=graph.size)) == graph.size
        strongest = max(value, key=value.get)
        assert strongest in vc.select(scores, n=2 * graph.layers + 1).names  # longer than any way through it can be


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_first_way_is_the_best_through_the_strongest_edge(graph):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        some = np.sort(rng.choice(graph.size, 14, replace=False))
        whole = random(graph, seed)
        scores = brute.scores(graph, whole.values[:, some], units=whole.units[some])
        names = scores.units.names
        value = dict(zip(names, abs(scores.values[0].numpy()), strict=True))
        ways = list(all_ways(graph, names))
        rows = scores.units.writer, scores.units.reader
        assert shortest(graph, *rows) == min(map(len, ways), default=None)
        if not ways:
            continue
        through = next(name for name in sorted(value, key=value.get, reverse=True) if any(name in w for w in ways))
        top = max(value.values())
        product = {w: np.prod([value[name] / top for name in w]) for w in ways if through in w}
        best = max(product.values())
        table = Ways.of(graph, *rows, -np.log(np.array(list(value.values())) / top))
        at = names.index(through)
        table.take(int(rows[0][at]), int(rows[1][at]), len(names))
        taken = [name for name, w, r in zip(names, *rows, strict=True) if table.inside[r, w]]
        assert np.prod([value[name] / top for name in taken]) == pytest.approx(best)


def test_ranks_by_importance_leave_what_works_against_to_the_end():
    scores = random(brute.SMALL)
    value = dict(zip(scores.units.names, scores.importance().tolist(), strict=True))
    circuit = vc.select(scores, n=6, how="connected", by="importance")
    assert max(value, key=value.get) in circuit.names and sum(value[name] for name in circuit.names) > 0


def test_all_zero_and_the_smallest_budget():
    circuit = vc.select(brute.scores(brute.SMALL, np.zeros(brute.SMALL.size)), n=1)
    assert circuit.names == ["input->logits"]


# ---- a selection that leads nowhere ---------------------------------------------------------------------------------


def late(graph):
    """Scores whose strongest edges lie at the end of the network, and lead nowhere without the weak ones."""
    rng = np.random.default_rng(3)
    units = random(graph).units
    strong = np.array(["->logits" in name and "input" not in name for name in units.names])
    return brute.scores(graph, np.where(strong, 5.0, 0.1) + 0.01 * rng.random(graph.size), units=units)


@pytest.mark.parametrize("how", ["top", "abs", "greedy"])
def test_an_empty_selection_says_so_and_which_size_is_not(how):
    graph = brute.SMALL
    scores = late(graph)
    sizes = {n: len(vc.select(scores, n=n, how=how)) for n in range(1, graph.size + 1)}
    first = min(n for n, size in sizes.items() if size)
    assert first > 2
    empty = vc.select(scores, n=2, how=how)
    assert len(empty) == 0
    assert f"the smallest size that has a way is {first:,}" in empty.notes[-1]
    assert "how='connected' gives a circuit from 1 edge on" in empty.notes[-1]
    assert empty.describe().startswith("no edges") and "no edges" in repr(empty) and "no edges" in empty._repr_html_()
    assert len(vc.select(scores, n=2)) > 0  # the default


def test_what_cannot_lead_anywhere_at_any_size():
    scores = random(brute.SMALL)
    inner = [i for i, name in enumerate(scores.units.names) if not name.startswith("input")][:5]
    part = brute.scores(brute.SMALL, scores.values[:, inner], units=scores.units[inner])
    for how in ("connected", "top", "greedy", "optimal"):
        empty = vc.select(part, n=5, how=how)
        assert len(empty) == 0 and "nor do all 5 edges that may be chosen" in empty.notes[-1]
    longer = [i for i, name in enumerate(scores.units.names) if name in ("input->m0", "m0->logits")]
    way = brute.scores(brute.SMALL, [[1.0, 1.0]], units=scores.units[longer])
    assert "the smallest size with a way is 2" in vc.select(way, n=1).notes[-1]
    against = brute.scores(brute.SMALL, [[-1.0, -1.0]], units=scores.units[longer])
    assert "no way has a positive total" in vc.select(against, n=2, how="optimal").notes[-1]


def test_an_empty_circuit_is_drawn_run_and_saved(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=2)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    empty = next(one for n in itertools.count(1) if not len(one := vc.select(scores, n=n, how="greedy")))
    chart = empty.chart().to_dict()
    assert any("no edges: nothing leads" in line for line in chart["title"]["subtitle"])
    empty.chart().save(tmp_path / "empty.png")
    at_each = vc.attribute(lm, task, units="edges@positions", method="eap", show_progress=False)
    assert empty.chart(positions=at_each).to_dict()["title"]["text"] == "eap: no edges"
    found = vc.faithfulness(lm, task, empty, show_progress=False)
    assert found.f == pytest.approx(0, abs=1e-9)
    assert found.metric.tolist() == pytest.approx(found.measured.corrupted.tolist())
    assert len(vc.open(empty.save(tmp_path / "empty.json"))) == 0


def test_draws_of_the_stability_use_the_same_rule(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=3)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    rule = Rule.of(scores, n=9, how="connected", by=None)
    rows, _ = rule.choose(scores.importance().double().numpy())
    assert sorted(scores.units[rows].names) == sorted(vc.select(scores, n=9).names)


def test_a_discovery_without_edges_has_a_page(tiny, task_of, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "png", lambda figure: b"")  # drawn elsewhere
    lm, task = tiny("llama"), task_of(6, n=2)
    options = {"edges": 1, "sizes": (0.5, 1.0), "top": 2, "sample": 2, "show_progress": False}
    assert len(vc.discover(lm, task, **options).circuit) == 1  # the default
    found = vc.discover(lm, task, how="greedy", **options)
    assert len(found.circuit) == 0 and found.evaluation.circuit.f == pytest.approx(0, abs=1e-9)
    assert "No edges: nothing leads" in found.save(tmp_path).read_text()
