"""Tests of a circuit where the answers are known: compiled programs, chance itself, and figures recomputed by hand."""

import dataclasses

import naive_circuit
import numpy as np
import pytest

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.hypotheses import _independence, _random
from veracausa.circuits.random_circuits import random_circuit
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.errors import CircuitError, MethodError
from veracausa.ground_truth import load_compiled
from veracausa.units.every_unit import all_edges


def run(lm, task, circuit, **options):
    return vc.circuits.tests(lm, task, circuit, show_progress=False, **options)


@pytest.fixture(scope="module")
def sort():
    lm, program = load_compiled("sort")
    return lm, program.task(n=40), sorted(program.edges)


def test_a_true_circuit_passes_all_four(sort):
    lm, task, true = sort
    found = run(lm, task, Circuit.from_names(lm, true), draws=40)
    assert [one.holds for one in found.verdicts] == [True] * 4 and found.idle == []
    assert found["equivalence"].p == found["independence"].p == 1  # equal on every pair; without it M never varies
    assert found["random"].rejected and found.f == pytest.approx(1, abs=1e-4)
    assert len(found.random_f) == 40 and len(found.edges) == len(true)
    assert "holds" in repr(found) and "FAILS" not in repr(found) and len(found.table()) == 4


@pytest.mark.cases(1)
@pytest.mark.parametrize("seed", range(3))
def test_random_edges_added_to_it_are_the_ones_flagged(sort, seed):
    lm, task, true = sort
    false = [name for name in all_edges(lm).names if name not in true]
    added = np.random.default_rng(seed).permutation(false)[:4].tolist()
    found = run(lm, task, Circuit.from_names(lm, true + added), draws=30)
    assert sorted(found.idle) == sorted(added)
    assert found["minimality"].holds is False and "4 of 11 edges" in found["minimality"].meaning
    assert found["equivalence"].holds and found["random"].holds
    assert set(found.edge_table()["name"][:4]) == set(added)


def test_a_random_circuit_fails(sort):
    lm, task, true = sort
    mask = random_circuit(lm.graph, len(true), np.random.default_rng(5))
    reader, writer = np.nonzero(mask)
    found = run(lm, task, Circuit.of(lm.graph, writer, reader), draws=40)
    assert found["equivalence"].holds is False and "worse" in found["equivalence"].meaning
    assert found["random"].holds is False and not found["random"].rejected and found["minimality"].holds is False


def test_without_part_of_the_circuit_the_rest_still_follows_the_model():
    """Half of a circuit that carries numbers: the complement computes what the model computes, so M is dependent."""
    lm, program = load_compiled("frac_prevs")
    task, true = program.task(n=60), sorted(program.edges)
    assert np.ptp(lm.measure(task).clean.numpy()) > 0.1
    found = run(lm, task, Circuit.from_names(lm, [name for name in all_edges(lm).names if name not in true]), draws=2)
    assert found["independence"].rejected and found["independence"].p < 0.01


def test_independence_says_nothing_where_the_corrupted_run_follows_the_model():
    full = np.random.default_rng(0).normal(size=50)
    for rest, idle_p, holds in ((-full, 0.001, None), (-full, 0.5, False), (np.ones(50), 0.001, True)):
        assert _independence(rest, full, idle_p, 199, 0, 0.05).holds is holds
    assert _independence(full[:3], full[:3], 0.5, 199, 0, 0.05).holds is None  # 3! = 6 orders reject nothing at 5%


def test_figures_by_hand(tiny, task_of):
    """Every number from circuits run one reader after the other."""
    lm, task = tiny("llama"), task_of((5, 7), n=3)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    circuit = vc.select(scores, n=40, how="abs")
    found = run(lm, task, circuit, draws=3, edges=4, seed=7)
    measured, own = lm.measure(task), naive_circuit.metrics(lm, task, circuit.mask)
    gap = float(measured.gap.mean())
    for name, effect in zip(found.edges, found.effect, strict=True):
        less = circuit.mask.copy()
        writer, reader = lm.graph.parse(name)
        less[reader, writer] = False
        assert effect == pytest.approx(float((own - naive_circuit.metrics(lm, task, less)).abs().mean()) / abs(gap))
    assert found.beaten.tolist() == [int((found.random_effect < effect).sum()) for effect in found.effect]
    assert found.f == pytest.approx(float((own - measured.corrupted).mean()) / gap)
    for draw, f in enumerate(found.random_f):
        mask = random_circuit(lm.graph, len(circuit), np.random.default_rng([7, 0, draw]))
        assert f == pytest.approx(float((naive_circuit.metrics(lm, task, mask) - measured.corrupted).mean()) / gap)
    wins = int((own > measured.clean).sum())
    assert f"better on {wins} of 3 pairs, 0 ties" in found["equivalence"].seen
    assert found["equivalence"].holds is None and "too few" in found["equivalence"].meaning
    assert found["random"].holds is None and "take 29" in found["random"].meaning  # 0.9²⁹ < 0.05
    assert found.cost.token_layers > 0 and len(found.table()) == 4 and len(found.edge_table()) == 4


def test_chance_is_not_better_than_chance(tiny, task_of):
    """Random circuits tested against 100 others are found better than these in about 5 of 100 cases."""
    lm, task = tiny("llama"), task_of(6, n=2)
    masks = [random_circuit(lm.graph, 60, np.random.default_rng([9, k])) for k in range(160)]
    found = run_circuits(lm, task, masks, show_progress=False)
    distance = (found.metric - found.measured.clean).abs().mean(1).numpy()
    verdicts = [_random(distance[k], distance[60:], 0.9, 0.05) for k in range(60)]
    # P(closer) is uniform, and 96 of 100 wins reject: 5 in 100, and three standard errors of 60 trials
    assert np.mean([one.rejected for one in verdicts]) <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5


def test_one_pair_decides_no_independence(sort):
    """What one pair says is "the same on every pair" for any circuit."""
    lm, task, true = sort
    one = run(lm, task[:1], Circuit.from_names(lm, true), draws=20)
    assert [verdict.holds for verdict in one.verdicts if verdict.test == "independence"] == [None]


@pytest.mark.cases(1)
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_other_ablations_are_those_of_faithfulness(tiny, task_of, ablation):
    lm, task = tiny("llama"), task_of(6, n=4)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    circuit = vc.select(scores, n=60, how="abs")
    options = {"ablation": ablation, "seed": 3, "show_progress": False}
    own = vc.faithfulness(lm, task, circuit, **options)
    tests = vc.circuits.tests(lm, task, circuit, draws=2, edges=2, **options)
    assert tests.f == pytest.approx(own.f) and ablation in repr(tests)
    losses = vc.circuits.minimality(lm, task, circuit, sample=2, **options)
    assert losses.metric.tolist() == pytest.approx(own.metric.tolist()) and ablation in repr(losses)
    sets = vc.circuits.completeness(lm, task, circuit, draws=1, greedy=1, candidates=1, **options)
    assert float(sets.incompleteness[0]) == pytest.approx(1 - own.f) and ablation in repr(sets)
    assert losses.share.tolist() == pytest.approx(
        [own.f - vc.faithfulness(lm, task, Circuit.from_names(lm, sorted(set(circuit.names) - {name})), **options).f
         for name in losses.names])  # fmt: skip


def test_draws_are_keyed(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    circuit = Circuit.from_names(lm, ["input->m0", "m0->logits", "input->a1.h0<q>", "a1.h0->logits"])
    few, many, other = (run(lm, task, circuit, draws=d, seed=s, permutations=9) for d, s in ((3, 0), (6, 0), (3, 1)))
    assert few.random_f.tolist() == pytest.approx(many.random_f[:3].tolist(), abs=1e-12)
    assert few.random_effect.tolist() == pytest.approx(many.random_effect[:3].tolist(), abs=1e-12)
    assert few.random_f.tolist() != other.random_f.tolist()


def test_what_cannot_be(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    circuit = Circuit.from_names(lm, ["input->m0", "m0->logits"])
    for options in ({"draws": 0}, {"edges": 0}, {"margin": 0.5}, {"quantile": 1}, {"alpha": 0}, {"permutations": 0}):
        with pytest.raises(MethodError, match=next(iter(options))):
            run(lm, task, circuit, **options)
    with pytest.raises(CircuitError, match="whole graph"):
        run(lm, task, Circuit.of(lm.graph, *lm.graph.edges))
    with pytest.raises(CircuitError, match="no edges"):
        run(lm, task, Circuit.of(lm.graph, np.array([], dtype=int), np.array([], dtype=int)))
    with pytest.raises(CircuitError, match="kv_heads"):
        run(tiny("gpt2"), task, circuit)
    with pytest.raises(CircuitError, match="from_names"):
        run(lm, task, dataclasses.replace(circuit, model=circuit.model | {"identity": "other"}))
