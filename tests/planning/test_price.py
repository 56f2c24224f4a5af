"""The price of a call: what it says, for every verb that has a work, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

import veracausa as vc
from veracausa.errors import GapError, MethodError
from veracausa.studies.levels import LEVELS
from veracausa.studies.questions import FurtherWork


def test_a_price_says_what_the_call_will_cost(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=3)
    circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), n=40)
    price = vc.forecast(vc.faithfulness, lm, task, circuit=circuit)
    found = vc.faithfulness(lm, task, circuit, show_progress=False)
    assert price.token_layers == found.cost.token_layers
    assert price.passes == pytest.approx(found.cost.forward_equivalents)
    assert price.seconds > 0 and price.memory.beside > 0
    said = repr(price)
    assert f"{price.token_layers:,.0f} token-layers" in said and "on 3 pairs" in said and "peak memory" in said
    assert "speed" in said and "speed" in price._repr_html_()


def test_nothing_is_timed_where_no_seconds_are_wanted(tiny, task_of, monkeypatch):
    monkeypatch.setattr("veracausa.planning.price.rates", None)
    price = vc.forecast(vc.circuits.iterate, tiny("llama"), task_of(6, n=2), measure=False)
    assert price.seconds is None and "speed" not in repr(price) and price.token_layers > 0


def test_a_task_whose_first_pair_has_no_gap_tells_no_seconds(tiny, task_of, monkeypatch):
    def attribute(*_, **__):
        raise GapError("no gap")

    monkeypatch.setattr("veracausa.planning.rates.attribute", attribute)
    price = vc.forecast(vc.causes.surface, tiny("llama"), task_of(6, n=2), units=["a0.h0", "a1.h1"])
    assert price.seconds is None and price.token_layers > 0


def test_a_discovery_is_priced_by_its_steps(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), n=8)
    options = {"edges": 60, "sizes": (0.1, 1.0), "top": 4, "sample": 4}
    price = vc.forecast(vc.discover, lm, task, **options)
    found = vc.discover(lm, task, **options, show_progress=False)
    assert [step.what for step in price.steps] == [step.what for step in found.steps]
    assert price.steps[0].token_layers == found.steps[0].token_layers
    assert price.token_layers >= sum(step.token_layers for step in found.steps)
    assert price.seconds == pytest.approx(sum(step.seconds for step in price.steps))


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (vc.causes.disagreement, {"nodes": 2}),
        (vc.causes.locate, {"units": ["a0.h1"]}),
        (vc.causes.responses, {"units": ["a0.h1"]}),
        (vc.causes.surface, {"units": ("a0.h1", "m2")}),
        (vc.behaviour.ablation_study, {"units": ["a0.h1"]}),
        (vc.counterfactuals.baselines, {"ablations": ["zero", "mean"]}),
        (vc.counterfactuals.general_purpose, {}),
        (vc.counterfactuals.head_roles, {}),
        (vc.reading.lens, {}),
        (vc.reading.dla, {"neurons": [0], "positions": True}),
        (vc.counterfactuals.corruptions, {}),
        (vc.counterfactuals.search, {"units": ["a0.h1"]}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_every_question_has_a_price(tiny, task_of, verb, options):
    """Also where the pairs are not called `task`: a pool, or one task of each corruption."""
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    asked = task
    if verb is vc.counterfactuals.corruptions:
        asked = {"one": task, "other": replace(task, corrupted=task_of((6, 8), n=4, seed=5).corrupted)}
    if verb is vc.counterfactuals.search:
        asked = replace(task, info=tuple({"pair": i // 2, "how": "swap", "own": i % 2 == 0} for i in range(4)))
    work = verb.work(lm, asked, **options)
    assert vc.forecast(verb, lm, asked, measure=False, **options).token_layers == work.tokens() > 0
    assert work.batches() > 0


def test_what_runs_no_model_has_no_price(tiny, task_of):
    for verb in (vc.select, vc.agreement, print):
        with pytest.raises(MethodError, match="has no forecast"):
            vc.forecast(verb, tiny("llama"), task_of(6))


def test_wrong_arguments_are_the_verbs_own_errors(tiny, task_of):
    with pytest.raises(MethodError, match="rounds"):
        vc.forecast(vc.circuits.iterate, tiny("llama"), task_of(6), rounds=0)
    with pytest.raises(TypeError, match="turns"):
        vc.forecast(vc.circuits.iterate, tiny("llama"), task_of(6), turns=3)


@pytest.mark.slow
def test_a_study_costs_what_was_forecast(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    small = LEVELS["default"].but(neurons=4, sample=3, nodes=2, to_zero=2, prompts=4, explained=2)
    price = vc.forecast(vc.study, lm, [task[:1], task], level=small, measure=False)
    steps = vc.study(lm, [task[:1], task], level=small, show_progress=False).steps
    assert [(step.what, step.token_layers, step.most) for step in price.steps] == [
        (plan.what, plan.token_layers, plan.most) for plan, _ in steps
    ]
    for plan, done in steps:
        if plan.most is None:
            assert done.token_layers == plan.token_layers, plan.what
        else:
            assert done.token_layers <= plan.most and plan.token_layers <= plan.most, plan.what
    assert sum(plan.most is not None for plan, _ in steps) < len(steps) / 2
    took = sum(done.token_layers for _, done in steps)
    assert took <= price.most and f"at most {price.most:,.0f}" in repr(price)


@pytest.mark.slow
def test_the_bounds_of_a_study_hold_whichever_heads_it_chooses(tiny, task_of, monkeypatch):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    for heads in (["a0.h0", "a0.h1", "a1.h0"], ["a0.h3", "a1.h1", "a2.h0"], ["a0.h0", "a0.h1", "a0.h2"]):
        monkeypatch.setattr(FurtherWork, "_chosen", lambda self, heads=heads: heads)
        small = LEVELS["default"].but(neurons=0, nodes=2, prompts=4, explained=3, shapley=2)
        for plan, done in vc.study(lm, task, level=small, show_progress=False).steps:
            assert done.token_layers <= (plan.token_layers if plan.most is None else plan.most), plan.what


@pytest.mark.slow
def test_a_comparison_costs_what_was_forecast(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    options = {"units": ["heads", "neurons"], "methods": ["atp", "ig", "mask"], "neurons": 5, "sample": 4}
    price = vc.forecast(vc.compare, lm, [task], measure=False, **options)
    [section] = vc.compare(lm, [task], show_progress=False, **options).sections
    costs = [scores.cost.token_layers for panel in section.panels for scores in panel.scores]
    assert [step.what.split(" of ")[0] for step in price.steps] == 2 * ["exact effects", "atp", "ig", "mask"]
    for step, cost in zip(price.steps, costs, strict=True):
        assert cost == step.token_layers if step.most is None else cost <= step.most, step.what
    assert [step.most is None for step in price.steps].count(False) == 1 and "3 methods" in repr(price)


def test_a_verb_of_several_tasks_has_a_price(tiny, task_of):
    tasks = {"one": task_of(6, n=2, seed=3), "other": task_of(6, n=2, seed=3)}
    assert vc.forecast(vc.counterfactuals.corruptions, tiny("llama"), tasks, measure=False).token_layers > 0


def test_a_verb_whose_steps_are_a_number_has_a_forecast(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 2)
    circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), n=60, how="abs")
    price = vc.forecast(vc.circuits.completeness, lm, task, circuit=circuit, measure=False)
    assert price.token_layers > 0


def test_several_tasks_go_by_name_and_other_arguments_alone_do(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    named = vc.forecast(vc.circuits.specificity, lm, tasks={"a": task}, circuits={"x": scores}, n=5, measure=False)
    placed = vc.forecast(vc.circuits.specificity, lm, {"a": task}, circuits={"x": scores}, n=5, measure=False)
    assert named.token_layers == placed.token_layers > 0
    with pytest.raises(MethodError, match="other arguments by name"):
        vc.forecast(vc.circuits.cause_curve, lm, task, scores)
    with pytest.raises(MethodError, match="and the pairs"):
        vc.forecast(vc.exact, lm, units="heads")
