"""Selection against brute force over names; the integer program against enumeration; stability against sets."""

import dataclasses
import itertools

import brute
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.selection import integer_program as program
from veracausa.circuits.selection.select import significant
from veracausa.circuits.selection.stability import stability
from veracausa.errors import MethodError
from veracausa.statistics.bootstrap import LEAST
from veracausa.units.edges import Edges

GRAPHS = [brute.SMALL, brute.GROUPED, brute.PARALLEL]


def random(graph, n=1, seed=0, ties=False):
    values = np.random.default_rng(seed).normal(size=(n, graph.size))
    return brute.scores(graph, np.round(2 * values) / 2 if ties else values)


def by_name(scores):
    return dict(zip(scores.units.names, scores.importance().tolist(), strict=True))


# ---- top, abs, greedy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 7, 30])
def test_against_brute_force(graph, ties, n):
    scores = random(graph, seed=n, ties=ties)
    value = by_name(scores)
    strength = {name: abs(x) for name, x in value.items()}

    def taken(**options):
        return set(vc.select(scores, n=n, **options).names)

    assert taken(how="top", prune=False) == set(sorted(value, key=lambda name: -value[name])[:n])
    assert taken(how="abs", prune=False) == set(sorted(value, key=lambda name: -strength[name])[:n])
    assert taken(how="abs", prune=False) == taken(how="top", by="abs_mean", prune=False)
    assert taken(how="greedy", prune=False) == brute.greedy(graph, strength, n)
    assert taken(how="greedy", by="importance", prune=False) == brute.greedy(graph, value, n)
    for how in ("top", "abs", "greedy"):
        assert taken(how=how) == brute.prune(graph, taken(how=how, prune=False))


def test_noising_turns_the_sign_and_magnitudes_have_none():
    graph = brute.SMALL
    scores = random(graph)
    best = vc.select(scores, n=5, how="top", prune=False)
    noising = brute.scores(graph, -scores.values, settings={"direction": "noising"})
    assert vc.select(noising, n=5, how="top", prune=False).names == best.names
    assert (best.importance == vc.select(noising, n=5, how="top", prune=False).importance).all()
    sizes = brute.scores(graph, scores.values.abs(), settings={"direction": "noising"}, signed=False)
    strong = vc.select(sizes, n=5, how="top", prune=False)
    assert strong.names == vc.select(scores, n=5, how="abs", prune=False).names and "magnitudes" in str(strong.notes)


def test_the_order_of_the_table_does_not_matter():
    scores = random(brute.GROUPED, ties=True)
    shuffled = np.random.default_rng(1).permutation(len(scores))
    other = brute.scores(brute.GROUPED, scores.values[:, shuffled], units=scores.units[shuffled])
    for how in ("connected", "top", "abs", "greedy", "optimal"):
        one, two = (vc.select(table, n=12, how=how, prune=False) for table in (scores, other))
        assert one.names == two.names and (one.importance == two.importance).all(), how


def test_what_a_circuit_says_about_itself():
    scores = random(brute.GROUPED, n=3)
    circuit = vc.select(scores, n=150, how="top")
    assert circuit.settings == {"how": "top", "by": "importance", "asked": 150, "taken": 150, "bootstrap": None,
                                "pruned": True, "direction": "denoising", "scores": scores.settings,
                                "verified": scores.verified}  # fmt: skip
    assert f"trust   {scores.verified}" in circuit.describe() and circuit.describe().count(scores.verified) == 1
    assert "trust   not verified" in dataclasses.replace(circuit, settings={}).describe()
    assert circuit.model == scores.model and circuit.task == scores.task and circuit.method == "exact"
    assert "against the behaviour" in str(circuit.notes)
    value = by_name(scores)
    assert [value[name] for name in circuit.names] == circuit.importance.tolist()


def test_all_edges_and_no_path():
    scores = random(brute.SMALL)
    assert len(vc.select(scores, n=brute.SMALL.size)) == brute.SMALL.size
    values = np.zeros(brute.SMALL.size)
    values[scores.units.names.index("a0.h0->a1.h0<q>")] = 1
    alone = vc.select(brute.scores(brute.SMALL, values), n=1, how="top")
    assert len(alone) == 0 and "pruned" in str(alone.notes) and "no edges" in repr(alone)


def test_a_part_of_the_edges():
    scores = random(brute.SMALL)
    part = brute.scores(brute.SMALL, scores.values[:, ::2], units=scores.units[::2])
    assert set(vc.select(part, n=6, how="greedy").names) <= set(part.units.names)
    few = brute.scores(brute.SMALL, [[1.0, 1.0]], units=scores.units[[0, 1]])
    assert "only 0 of the 2" in str(vc.select(few, n=2, how="greedy").notes)


# ---- optimal --------------------------------------------------------------------------------------------------------


def sparse(graph, seed, edges, negative=0.3):
    """Few edges with a value; all others forbidden by leaving them out."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(graph.size, edges, replace=False))
    value = rng.normal(size=edges).round(3)
    value = np.where(rng.random(edges) < negative, -abs(value), abs(value))
    whole = brute.scores(graph, np.zeros(graph.size))
    return brute.scores(graph, value, units=whole.units[chosen])


@pytest.mark.cases(1)
@pytest.mark.parametrize("graph", [brute.SMALL, brute.GROUPED])
def test_optimal_is_the_best_of_all_connected_sets(graph):
    found_some = 0
    for seed in range(25):
        scores = sparse(graph, seed, 14 if graph is brute.SMALL else 15)
        names = brute.prune(graph, scores.units.names)
        value = {name: x for name, x in by_name(scores).items() if name in names}
        for n in (2, 4, 6):
            circuit = vc.select(scores, n=n, how="optimal")
            assert len(circuit) <= n and brute.prune(graph, circuit.names) == set(circuit.names)
            assert circuit.importance.sum() == pytest.approx(brute.optimum(graph, value, n), abs=1e-9), (seed, n)
            assert "not proved" not in str(circuit.notes) and "pruned" not in str(circuit.notes)
            found_some += len(circuit) > 2
    assert found_some > 5  # otherwise nothing was to be found


def test_a_harmful_edge_is_taken_where_it_connects():
    whole = brute.scores(brute.SMALL, np.zeros(brute.SMALL.size))
    value = {"input->m0": -0.5, "m0->logits": 2.0, "input->m1": 1.0}
    rows = [whole.units.names.index(name) for name in value]
    scores = brute.scores(brute.SMALL, list(value.values()), units=whole.units[rows])
    assert vc.select(scores, n=3, how="optimal").names == ["input->m0", "m0->logits"]
    assert len(vc.select(scores, n=1, how="optimal")) == 0


@pytest.mark.parametrize("n", [10, 60])
def test_solving_over_the_strongest_edges_first_changes_nothing(monkeypatch, n):
    graph = vc.select(random(brute.GROUPED), n=5).graph
    scores = random(graph, seed=4)
    whole = vc.select(scores, n=n, how="optimal").importance.sum()
    calls = []
    solve = program._Program._solved
    monkeypatch.setattr(program._Program, "_solved", lambda *args: calls.append(len(args[1])) or solve(*args))
    monkeypatch.setattr(program, "_LEAST", n)
    monkeypatch.setattr(program, "_FIRST", 1)
    assert vc.select(scores, n=n, how="optimal").importance.sum() == pytest.approx(whole, abs=1e-9)
    assert n < calls[0] < graph.size  # the relaxation let some in, but not all
    monkeypatch.setattr(program, "MOST", n)
    cut = vc.select(scores, n=n, how="optimal")
    assert cut.importance.sum() <= whole + 1e-9
    assert "not proved" in str(cut.notes)
    assert float(str(cut.notes).split("more than ")[1].split("'")[0]) >= whole - 1e-4


def test_the_optimum_is_no_worse_than_any_other_selection():
    for seed, n in itertools.product(range(3), (5, 20, 80)):
        scores = random(brute.PARALLEL, seed=seed)
        best = vc.select(scores, n=n, how="optimal").importance.sum()
        for how, by in (("top", None), ("greedy", None), ("greedy", "importance")):
            assert best >= vc.select(scores, n=n, how=how, by=by).importance.sum() - 1e-9


# ---- bootstrap ------------------------------------------------------------------------------------------------------


def test_bootstrap_keeps_what_differs_from_zero():
    graph = brute.GROUPED
    rng = np.random.default_rng(0)
    mean = np.where(np.arange(graph.size) % 3 == 0, 2.0, 0.0) * rng.choice([-1, 1], graph.size)
    scores = brute.scores(graph, mean + rng.normal(size=(40, graph.size)))
    clear = significant(scores, level=0.95, draws=1000, seed=0)
    assert clear[mean != 0].all() and 0 < clear[mean == 0].mean() < 0.12
    circuit = vc.select(scores, n=graph.size, how="top", bootstrap=True, prune=False)
    assert {scores.units.names[i] for i in np.flatnonzero(clear)} == set(circuit.names)
    assert "95% interval" in str(circuit.notes) and "to be had" in str(circuit.notes)
    assert circuit.names == vc.select(scores, n=graph.size, how="top", bootstrap=0.95, prune=False).names
    assert significant(scores, level=0.999, draws=3000, seed=0).sum() < clear.sum()


def test_bootstrap_interval_by_hand():
    scores = random(brute.SMALL, n=LEAST, seed=3)
    picks = np.random.default_rng(5).integers(LEAST, size=(20_000, LEAST))
    low, high = np.quantile(scores.values.numpy()[picks].mean(1), [0.1, 0.9], axis=0)
    ours = significant(scores, level=0.8, draws=20_000, seed=0)
    sure = np.minimum(abs(low), abs(high)) > 0.03  # clear of the quantiles' own noise
    assert sure.sum() > 30 and (ours == ((low > 0) | (high < 0)))[sure].all() and 0 < ours.sum() < len(ours)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, ["n=0", "from_names"]),
        ({"n": 10_000}, ["n=10000", "46"]),
        ({"n": 3, "how": "best"}, ["how='best'", "greedy"]),
        ({"n": 3, "by": "mean"}, ["by='mean'"]),
        ({"n": 3, "how": "abs", "by": "importance"}, ["by='importance'"]),
        ({"n": 3, "bootstrap": 1.5}, ["1.5"]),
        ({"n": 3, "bootstrap": 0.99, "draws": 20}, ["draws=20"]),
    ],
)
def test_options_that_are_wrong(options, words):
    with pytest.raises(MethodError) as caught:
        vc.select(random(brute.SMALL, n=LEAST), **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_scores_that_are_wrong(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    with pytest.raises(MethodError, match="heads"):
        vc.select(vc.exact(lm, task, units="heads", show_progress=False), n=3)
    scores = random(brute.SMALL, n=4)
    at_first = Edges.of(brute.SMALL, *brute.SMALL.edges, np.zeros(brute.SMALL.size, dtype=int))
    positional = brute.scores(brute.SMALL, scores.values, units=at_first)
    with pytest.raises(MethodError, match="per position"):
        vc.select(positional, n=3)
    for n in (1, LEAST - 1):
        with pytest.raises(MethodError, match=f"no interval under {LEAST} pairs"):
            vc.select(random(brute.SMALL, n=n), n=3, bootstrap=True)
    scores = random(brute.SMALL, n=LEAST)
    with pytest.raises(MethodError, match="magnitudes"):
        vc.select(brute.scores(brute.SMALL, scores.values.abs(), signed=False), n=3, bootstrap=True)
    fixed = brute.scores(brute.SMALL, scores.values, settings={"direction": "noising", "per_example": False})
    for call in (lambda: vc.select(fixed, n=3, bootstrap=True), lambda: stability(fixed, n=3)):
        with pytest.raises(MethodError, match="one value"):
            call()
    with pytest.raises(MethodError, match="draws=1"):
        stability(scores, n=3, draws=1)


# ---- stability ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "by"), [("abs", "abs_mean"), ("top", "importance")])
def test_stability_without_pruning_is_that_of_units(how, by):
    scores = random(brute.GROUPED, n=8, seed=1)
    ours = stability(scores, n=20, how=how, draws=50, prune=False, seed=7)
    theirs = vc.scores.stability(scores, top=20, by=by, draws=50, seed=7)
    assert ours.jaccard == pytest.approx(theirs.jaccard, abs=1e-12)
    np.testing.assert_allclose(ours.probability, theirs.probability.numpy())
    assert (ours.sizes == 20).all()


@pytest.mark.parametrize("how", ["top", "abs", "greedy", "optimal"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_stability_is_that_of_selecting_anew(how, direction):
    from veracausa.statistics.bootstrap import with_replacement as _with_replacement

    graph, draws = brute.SMALL, 6
    scores = brute.scores(graph, random(graph, n=5, seed=2).values, settings={"direction": direction})
    found = stability(scores, n=12, how=how, draws=draws, seed=3)
    sets = []
    for weights in torch.from_numpy(_with_replacement(5, 5, draws, 3)).long():
        again = brute.scores(graph, scores.values.repeat_interleave(weights, 0), settings={"direction": direction})
        sets.append(set(vc.select(again, n=12, how=how).names))
    assert [len(one) for one in sets] == found.sizes.tolist()
    pairs = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in itertools.combinations(sets, 2)]
    assert found.jaccard == pytest.approx(np.mean(pairs), abs=1e-6)
    counts = [sum(name in one for one in sets) / draws for name in scores.units.names]
    np.testing.assert_allclose(found.probability, counts)
    assert "Jaccard" in repr(found) and "<table" in found._repr_html_()
    assert len(found.table()) == graph.size and set(found.stable) == set.intersection(*sets)


def test_from_a_model_to_a_circuit(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), n=4)
    scores = vc.exact(lm, task, units="edges", show_progress=False)
    for how in ("top", "abs", "greedy", "optimal"):
        circuit = vc.select(scores, n=30, how=how).require_for(lm)
        assert len(circuit) and circuit.prune() is circuit
