"""The adversary: circuits whose answer is known, what must hold of any attack, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.attacks.attack import Attack, Attempt
from veracausa.circuits.random_circuits import random_circuit
from veracausa.cost import Cost
from veracausa.errors import CircuitError, MethodError
from veracausa.estimates.learned.descent import signs
from veracausa.ground_truth import COMPILED, load_compiled
from veracausa.report.charts import attacks
from veracausa.tasks.measurement import Measurement

FEW = {
    "sizes": (1, 3, 10), "largest": (0.2, 1.0), "steps": (1, 3), "goals": ("away", "down"), "draws": 1,
    "show_progress": False,
}  # fmt: skip


def attack(lm, task, circuit, **options):
    return vc.circuits.adversary(lm, task, circuit, **(FEW | options))


def some_circuit(lm, n=60):
    """A random one, the same each time."""
    reader, writer = np.nonzero(random_circuit(lm.graph, n, np.random.default_rng(1)))
    return vc.Circuit.of(lm.graph, writer, reader)


@pytest.mark.cases(1)
@pytest.mark.parametrize("program", COMPILED)
def test_a_true_circuit_is_not_moved_and_one_without_any_true_edge_is(program):
    """1e-5: compiled models compute in float32. Without any one of the true edges f is moved by .08 at least.

    Also where f is 1 without it, since on these few pairs nothing depends on it (sort_by_frequency): there it
    is made to matter.
    """
    lm, known = load_compiled(program)
    task, true = known.task(n=6), sorted(known.edges)
    goals = ["away", "down", "up"]
    whole = attack(lm, task, vc.Circuit.from_names(lm, true), goals=goals, sizes=(1, 10), steps=[2], starts=["random"])
    assert whole.moved() < 1e-5 and abs(float(whole.f[0]) - 1) < 1e-5
    assert whole.radius("sparse").outside is None and whole.radius("bounded").outside is None
    lacking = {f"without {edge}": vc.Circuit.from_names(lm, [one for one in true if one != edge]) for edge in true}
    asked = {"budgets": ["sparse", "bounded"], "sizes": (1, 3, 10, 30, 100), "largest": [0.8], "draws": 0}
    found = attack(lm, task, lacking, goals=["up"], **asked)
    assert min(found.moved(number) for number in range(len(lacking))) > 0.08


def test_the_missing_edge_alone_restored_brings_f_back():
    """In a program of which each edge is needed: the first that is restored is the one that lacks."""
    lm, known = load_compiled("sort")
    task, true = known.task(n=6), sorted(known.edges)
    lacking = {f"without {edge}": vc.Circuit.from_names(lm, [one for one in true if one != edge]) for edge in true[:3]}
    found = attack(lm, task, lacking, goals=["up"], budgets=["sparse"], sizes=[1], draws=0)
    for number in range(len(lacking)):
        assert found.moved(number) == pytest.approx(1 - float(found.f[found.attempts.index(Attempt(number))]), abs=1e-5)
        assert found.moved(number) > 0.1


def test_a_missing_edge_without_a_slope_is_found_by_weights_that_are_all_alike():
    """In dyck attention is sure and steps are over, so ascent stands still; 1e-5 as above. f = 1 − the share missed."""
    lm, known = load_compiled("dyck")
    task, true = known.task(n=4), sorted(known.edges)
    two = {"true": true, "lacking": [one for one in true if one != "a4.h1->m4"]}
    circuits = {name: vc.Circuit.from_names(lm, edges) for name, edges in two.items()}
    found = attack(lm, task, circuits, budgets=["bounded"], largest=[0.8], goals=["down"], draws=0)
    assert found.moved(0) < 1e-5
    moved = {one.by: float(f) for one, f in zip(found.attempts, found.f, strict=True) if one.circuit == 1}
    assert moved[""] < 0.9 and moved["from half"] == pytest.approx(moved[""], abs=1e-5)
    assert moved["all alike"] == pytest.approx(1, abs=1e-5)


def test_its_own_run_is_that_of_faithfulness(tiny, task_of):
    """Bit for bit; restored sets are circuits, whose own runs agree to rounding."""
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    circuit = some_circuit(lm)
    found = attack(lm, task[:2], circuit, held_out=task[1:], budgets=["sparse"])
    for pairs, metric in ((task[:2], found.metric), (task[1:], found.held)):
        own = vc.faithfulness(lm, pairs, circuit, show_progress=False)
        assert torch.equal(metric[0], own.metric)
    assert float(found.f[0]) == vc.faithfulness(lm, task[:2], circuit, show_progress=False).f


def test_a_circuit_of_whole_nodes_is_attacked_though_nothing_has_a_slope(tiny, task_of):
    """One edge into a node that is out, or out of it, moves nothing (1e-12: float64), two in a row do.

    So any order by the gradient at r = 0 is no order, and ascent from there would stand still.
    """
    lm, task = tiny("gpt2"), task_of((5, 6), n=3)
    circuit = vc.Circuit.of_nodes(lm, ["input", "a0.h0", "m0", "a1.h1", "m1"]).prune()
    found = attack(lm, task, circuit, budgets=["sparse", "bounded"], sizes=(1, 8, 40), largest=[0.3], goals=["down"])
    own = float(found.f[0])
    for one, f in zip(found.attempts, found.f.tolist(), strict=True):
        if one.budget == "sparse" and one.amount == 1:
            assert f == pytest.approx(own, abs=1e-12)
        if one.by in ("greedy", "from half") and one.amount in (40, 0.3):
            assert f < own - 0.01
    greedy = min(f for one, f in zip(found.attempts, found.f.tolist(), strict=True) if one.by == "greedy")
    assert greedy < found.random("sparse", 40).min()


def test_each_pair_with_its_own_weights_is_at_least_as_strong(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    found = attack(lm, task, some_circuit(lm), each=True, starts=["zero", "half"])
    table = found.table().set_index(["budget", "amount", "weights"])
    for budget, amount in (("sparse", 10), ("bounded", 1.0), ("free", 3)):
        shared, own = (table.loc[(budget, amount, kind)] for kind in ("shared", "each pair"))
        assert abs(own.f - 1) >= abs(shared.f - 1) and own.lowest <= shared.lowest
    assert table.xs("each pair", level="weights").lowest.min() < table.xs("shared", level="weights").lowest.min()
    strong = [found.strongest("free", steps) for steps in (1, 3)]
    assert abs(float(found.f[strong[1]]) - 1) >= abs(float(found.f[strong[0]]) - 1)  # more steps are never weaker


def test_batches_and_seeds_change_nothing_but_draws(tiny, task_of):
    """1e-9: float64; one pair at a time against all at once."""
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    circuit, options = some_circuit(lm), {"starts": ["random"], "each": True, "sizes": (3, 10), "steps": [2]}
    options["budgets"] = ["sparse", "free"]
    one, again = attack(lm, task, circuit, **options), attack(lm, task, circuit, memory=1e6, **options)
    assert one.attempts == again.attempts
    torch.testing.assert_close(one.metric, again.metric, rtol=0, atol=1e-9)
    few = {"budgets": ["free"], "steps": [1], "starts": ["zero", "random"], "goals": ["down"]}
    own, other = (attack(lm, task, circuit, seed=seed, **few) for seed in (0, 1))
    assert own.attempts == other.attempts
    differing = [not torch.equal(*pair) for pair in zip(own.metric, other.metric, strict=True)]
    assert differing == ["random" in one.by for one in own.attempts]


def test_a_random_start_named_twice_is_drawn_anew(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    few = {"budgets": ["free"], "steps": [1], "starts": ["random", "random"], "goals": ["down"], "draws": 0}
    found = attack(lm, task, some_circuit(lm), **few)
    drawn = [float(f) for one, f in zip(found.attempts, found.f, strict=True) if "random" in one.by and one.amount]
    assert len(drawn) == 2
    assert drawn[0] != drawn[1]


def test_an_interrupted_attack_goes_on(tiny, task_of, tmp_path, monkeypatch):
    """The second call runs only what was not finished, and gives the same numbers."""
    lm, task = tiny("llama"), task_of(6, n=2)
    circuit, runs, few = some_circuit(lm), [], {"sizes": (1, 3), "starts": ["zero"]}
    whole = attack(lm, task, circuit, **few)
    from veracausa.circuits.attacks.others import Field

    slope = Field.slope

    def counted(self, r):
        runs.append(len(runs))
        if len(runs) == 6:
            raise KeyboardInterrupt
        return slope(self, r)

    monkeypatch.setattr(Field, "slope", counted)
    with pytest.raises(KeyboardInterrupt):
        attack(lm, task, circuit, out=tmp_path, **few)
    runs[:] = [0] * 100
    again = attack(lm, task, circuit, out=tmp_path, **few)
    after = len(runs) - 100
    runs[:] = [0] * 200
    third = attack(lm, task, circuit, out=tmp_path, **few)
    assert len(runs) == 200 and after > 3  # all there
    for one in (again, third):
        assert one.attempts == whole.attempts and torch.equal(one.metric, whole.metric)


def test_it_costs_what_was_forecast(tiny, task_of):
    """Between what is told and the most: how often a radius is narrowed shows only on the way."""
    lm, task = tiny("llama"), task_of(6, n=2)
    asked = {**FEW, "circuit": some_circuit(lm), "budgets": ["free"], "goals": ["down"], "each": True}
    found = vc.circuits.adversary(lm, task, **asked)
    asked.pop("show_progress")
    price = vc.forecast(vc.circuits.adversary, lm, task, measure=False, **asked)
    assert 0.8 * price.token_layers < found.cost.token_layers <= price.token_layers


def test_restoring_costs_no_more_than_was_forecast(tiny, task_of):
    """Every order is narrowed in the forecast, and in the call only those that break it with the fewest."""
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    asked = {"circuit": some_circuit(lm), "budgets": ["sparse"], "sizes": (1, 3, 10, 30), "draws": 1}
    found = vc.circuits.adversary(lm, task, **asked, show_progress=False)
    price = vc.forecast(vc.circuits.adversary, lm, task, measure=False, **asked)
    assert {one.by for one in found.attempts} == {"", *found.settings["orders"], "random"}
    assert 0.6 * price.token_layers < found.cost.token_layers <= price.token_layers


def test_f_is_pushed_both_ways_unless_one_is_named(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    asked = {"circuit": some_circuit(lm), "budgets": ["free"], "steps": [1], "starts": ["zero"], "draws": 0}
    work, away = (vc.circuits.adversary.work(lm, task, **asked, **one) for one in ({}, {"goals": ["away", "down"]}))
    assert work.tokens() == work.at_most() == away.at_most() > away.tokens() and "one way" not in work.supposing
    assert [one.way for one in work.run(False).attempts] == ["", "down", "up"]


def test_rounding_moves_nothing():
    assert signs(torch.tensor([1.0, -2.0, 1e-8, 0.0])).tolist() == [1, -1, 0, 0]
    assert signs(torch.tensor([[1.0, 1e-8], [1e-8, 0.0]])).tolist() == [[1, 0], [1, 0]]


def made(n=2, f=(0.9, 0.8, 0.4, 0.2), amounts=(10, 30, 100)):
    """An attack whose f are given: the circuit's own, then of sparse ones."""
    attempts = [Attempt(0), *(Attempt(0, "sparse", amount, "gradient", "down") for amount in amounts)]
    metric = torch.tensor(f, dtype=torch.float64)[:, None].expand(-1, n).clone()
    ends, none = torch.ones(n, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    header = {"name": "made", "description": "made", "digest": "", "metric": "logit_diff", "n": n}
    return Attack(
        ("circuit",), "edges", (5,), (95,), tuple(attempts), metric, metric[:, :0], Measurement(ends, 0 * ends),
        Measurement(none, none), Cost(), {"name": "", "source": "", "identity": ""}, header,
        {"ablation": "counterfactual", "seed": 0},
    )  # fmt: skip


def test_the_radius_is_where_f_leaves():
    assert made().radius() == (10, 30, None)
    assert made(f=(0.9, 0.8, 0.7, 0.6)).radius() == (100, None, None)
    assert made(f=(0.4, 0.8, 0.7, 0.6)).radius() == (0, 0, None)
    assert made(f=(1.4, 1.6, 0.7, 0.6)).radius().outside == 10
    found = made(f=(0.9, 0.8, 0.4, 0.2, 0.88))
    found = dataclasses.replace(found, attempts=(*found.attempts, Attempt(0, "sparse", 40, "random")))
    assert "f from 0.900 to 0.400 ± 0.000; 40 random ones give 0.880 on average." in found.said()[0]
    outside = made(f=(0.4, 0.8, 0.7, 0.6)).said()[0]
    assert outside == "f by itself, 0.400, is outside of [0.5, 1.5] before anything else is changed."
    assert "brings f between 0.400 and 0.800" in made(f=(0.4, 0.8, 0.7, 0.6)).said()[1]
    assert "estoring 30 of the 95 other edges takes f from 0.900 to 0.400" in " ".join(made().sentences)
    said = " ".join(made(f=(0.9, 0.8, 0.7, 0.6)).sentences)
    assert "Restoring up to 100 of the 95 other edges leaves f between 0.600 and 0.900." in said
    with pytest.raises(MethodError, match="no attack with the budget 'free'"):
        made().radius("free")


def test_the_curve_of_each_way_never_turns_back():
    """By hand: f as low, and as high, as any attempt with at most that amount; pushed one way, one curve is drawn."""
    found = made(f=(0.9, 0.8, 1.3, 0.6))
    assert [found.ends("sparse", amount) for amount in (10, 30, 100)] == [(1, 0), (1, 2), (3, 2)]
    drawn = [(row["way"], row["amount"], round(row["f"], 6)) for row in attacks._rows(found, "sparse")]
    assert drawn == [("down", 10, 0.8), ("down", 30, 0.8), ("down", 100, 0.6)]
    up = dataclasses.replace(found.attempts[2], way="up")
    both = dataclasses.replace(found, attempts=(*found.attempts[:2], up, found.attempts[3]))
    drawn = [round(row["f"], 6) for row in attacks._rows(both, "sparse") if row["way"] == "up"]
    assert drawn == [0.9, 1.3, 1.3]


def test_the_interval_of_a_radius_is_over_pairs():
    """Half of the pairs fall at 30, the others at 100: draws of pairs lie on both sides of f = ½ at 30."""
    found = made(n=16)
    metric = found.metric.clone()
    metric[2] = torch.tensor([0.1, 0.95] * 8, dtype=torch.float64)
    split = dataclasses.replace(found, metric=metric)
    assert split.radius() == (30, 100, (30, 100)) and "over 30, at most 100 (90% 30 to 100)" in split.radii()
    assert found.radius() == (10, 30, (30, 30))
    assert made(n=16, f=(0.9, 0.8, 0.7, 0.6)).radius().interval == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": ["some"]}, "budget='some' is not known"),
        ({"budgets": []}, "give a list of budgets"),
        ({"goals": ["sideways"]}, "goal='sideways' is not known"),
        ({"goals": ["up", "up"]}, "the same goal twice"),
        ({"budgets": ["free", "free"]}, "the same budget twice"),
        ({"starts": ["one"]}, "start='one' is not known"),
        ({"sizes": (10, 5)}, "sizes=.* give rising numbers"),
        ({"largest": (0.5, 2.0)}, "largest=.* give rising weights"),
        ({"steps": (0, 1)}, "steps=.* give rising numbers"),
        ({"draws": -1}, "draws=-1"),
        ({"ablation": "optimal"}, "learns constants for one circuit"),
        ({"ablation": "none"}, "ablation='none' is not known"),
    ],
)
def test_what_means_nothing_is_refused(tiny, task_of, options, message):
    lm, task = tiny("llama"), task_of(6, n=2)
    with pytest.raises(MethodError, match=message):
        attack(lm, task, some_circuit(lm), **options)


def test_circuits_that_cannot_be_attacked(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    with pytest.raises(CircuitError, match="the list is empty"):
        attack(lm, task, [])
    with pytest.raises(CircuitError, match="edges are those of"):
        attack(lm, task, some_circuit(load_compiled("sort")[0], 5))
    whole = vc.Circuit.of(lm.graph, *lm.graph.edges)
    found = attack(lm, task, whole, draws=0)
    assert found.others == (0,) and found.moved() == 0 and len(found.attempts) == 1
