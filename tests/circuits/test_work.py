"""What circuits' verbs say that they will cost is what they then cost."""

from __future__ import annotations

import pytest

import veracausa as vc
from veracausa.effects.optimal_descent import Learning
from veracausa.ground_truth import load_compiled

QUIET = {"show_progress": False}
ABLATIONS = ("counterfactual", "resample", "zero", "mean", "optimal")


@pytest.fixture
def scored(tiny, task_of):
    lm, task = tiny("gemma2"), task_of((6, 8), n=3)
    return lm, task, vc.attribute(lm, task, units="edges", method="eap", show_progress=False)


@pytest.mark.cases(2)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_faithfulness_costs_what_it_says(scored, task_of, ablation):
    lm, task, scores = scored
    task = task_of(6, n=4) if ablation == "resample" else task  # donors of the same length
    asked = (lm, task, vc.select(scores, n=60, how="abs"))
    how = {"ablation": ablation, "learning": Learning(steps=3, batch=2)}
    work = vc.faithfulness.work(*asked, **how)
    assert work.tokens() == vc.faithfulness(*asked, **how, show_progress=False).cost.token_layers
    assert work.batches() > 0 and work.kind == "circuits"


def test_curves_and_tests_cost_what_they_say(scored):
    lm, task, scores = scored
    circuit = vc.select(scores, n=60, how="abs")
    found = vc.curve(lm, task, scores, show_progress=False)
    assert vc.curve.work(lm, task, scores).tokens() == found.signed[0].cost.token_layers
    for verb, how in (
        (vc.circuits.minimality, {"sample": 4}),
        (vc.circuits.minimality, {"parts": "nodes"}),
        (vc.circuits.tests, {"draws": 3, "edges": 4}),
    ):
        found = verb(lm, task, circuit, **how, show_progress=False)
        assert verb.work(lm, task, circuit, **how).tokens() == found.cost.token_layers


def test_completeness_costs_about_what_it_says(scored):
    """Exactly without greedy steps; which set these go on from is not known beforehand (within a tenth)."""
    lm, task, scores = scored
    circuit = vc.select(scores, n=60, how="abs")
    for greedy, tolerance in ((0, 0.0), (3, 0.1)):
        how = {"draws": 3, "greedy": greedy, "candidates": 2}
        found = vc.circuits.completeness(lm, task, circuit, **how, show_progress=False)
        forecast = vc.circuits.completeness.work(lm, task, circuit, **how).tokens()
        assert forecast == pytest.approx(found.cost.token_layers, rel=tolerance, abs=0)


def test_iterated_selection_costs_what_it_says(scored):
    lm, task, scores = scored
    for how in ({}, {"rounds": 2, "points": 1}, {"start": scores}):
        found = vc.circuits.iterate(lm, task, **how, show_progress=False)
        assert vc.circuits.iterate.work(lm, task, **how).tokens() == found.cost.token_layers


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", ["share", "top-k"])
def test_learning_costs_what_it_says(scored, how):
    """But for the two runs of the circuit that is found, which are counted as the whole graph's."""
    lm, task, _ = scored
    asked = {"how": how, "steps": 5, "batch": 2}
    found = vc.circuits.learn(lm, task, **asked, show_progress=False).cost.token_layers
    forecast = vc.circuits.learn.work(lm, task, **asked).tokens()
    assert found <= forecast <= found + 2 * lm.layers * sum(task.lengths)


def test_acdc_costs_at_most_what_it_says(scored):
    lm, task, scores = scored
    start = vc.select(scores, n=30, how="abs")
    forecast = vc.circuits.acdc.work(lm, task, tau=0.01, start=start).tokens()
    assert vc.circuits.acdc(lm, task, tau=0.01, start=start, show_progress=False).cost.token_layers <= forecast


def test_a_work_refuses_what_the_verb_refuses(scored):
    lm, task, scores = scored
    with pytest.raises(vc.VeracausaError, match="not known"):
        vc.faithfulness.work(lm, task, vc.select(scores, n=60), ablation="average")
    with pytest.raises(vc.VeracausaError, match="positive"):
        vc.circuits.acdc.work(lm, task, tau=0.0)


GATES = vc.estimates.Learner(
    gates="straight-through", hold="price", loss="metric", aim="complete", ablation="zero", steps=2
)
KEPT = {
    "learn": lambda lm, task, known, out: vc.circuits.learn(lm, task, how="ugs", steps=2, keep=6, out=out, **QUIET),
    "learn_mask": lambda lm, task, known, out: vc.estimates.learn_mask(
        lm, task, units="heads", steps=2, keep=1, out=out, **QUIET
    ),
    "sheaf": lambda lm, task, known, out: vc.circuits.sheaf(
        lm, task, how="joint", weights=GATES, edges=GATES, out=out, **QUIET
    ),
    "acdc": lambda lm, task, known, out: vc.circuits.acdc(lm, task, tau=0.05, start=known, out=out, **QUIET),
    "adversary": lambda lm, task, known, out: vc.circuits.adversary(
        lm, task, known, budgets=["free"], steps=[1], starts=["zero"], draws=0, out=out, **QUIET
    ),
}


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", KEPT)
def test_what_every_call_runs_anew_counts_once(name, tmp_path):
    """Pairs that are recorded to go on from, and what is run at the end: a finished call costs no more next time."""
    lm, program = load_compiled("pair_balance")
    task, known = program.task(n=4), vc.Circuit.from_names(lm, sorted(program.edges))
    costs = [KEPT[name](lm, task, known, out).cost.token_layers for out in (None, tmp_path, tmp_path, tmp_path)]
    assert len(set(costs)) == 1 and costs[0] > 0
