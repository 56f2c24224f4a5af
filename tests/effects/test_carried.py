"""What mixers carry away from a position, state and taps, against the model's own cache exchanged by hand."""

import pytest
import tiny_models
import torch
from bridges import as_model
from naive_carried import exchanged, rounding, whole

import veracausa as vc
from veracausa.effects import Added
from veracausa.errors import ArchitectureError, MethodError, UnitError

#: A step of a cached run takes decays and steps in float32, whatever the model's precision; see `rounding`.
STEP = 1e-5
QUIET = {"show_progress": False}
FAST = ("mamba", "bamba")


#: A seed whose cached runs are near whole ones.
SEEDS = {"nemotron_h": 3}


def model(family):
    return as_model(tiny_models.make(family, seed=SEEDS.get(family, 1)), family)


def metric(task, logits):
    return float(logits[task.correct[0][0]] - logits[task.incorrect[0][0]])


def naive(lm, task, layer, what, position, *, other="corrupted", into="clean"):
    """The effect on the model's own cached run."""
    sides = {"clean": task.clean[0], "corrupted": task.corrupted[0], None: None}
    return metric(task, exchanged(lm.hf, sides[into], sides[other], layer, what, position)) - metric(
        task, whole(lm.hf, sides[into])
    )


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.MIXED, FAST))
def test_effects_are_those_of_a_cache_exchanged_by_hand(family, task_of):
    """Both runs', and zeros; the first layer with a mixer and the last, before and behind the first difference."""
    lm, task = model(family), task_of(9, seed=5)
    layers, first = lm.decoder.layers_with("mixer"), task.first_difference[0]
    step = STEP + 4 * max(rounding(lm.hf, prompt, first) for prompt in (*task.clean, *task.corrupted))
    assert step < 1e-3
    for what in ("state", "taps") if family != "lfm2" else ("taps",):
        for layer, ablation in ((layers[0], "counterfactual"), (layers[-1], "zero")):
            other = "corrupted" if ablation == "counterfactual" else None
            names = [f"x{layer}<{what}>@{position}" for position in range(9)]
            ours = vc.exact(lm, task, units=names, ablation=ablation, **QUIET).values[0]
            for position in (first, 7):
                true = naive(lm, task, layer, what, position, other=other)
                assert float(ours[position]) == pytest.approx(true, abs=step), (names[position], ablation)
            assert float(ours[8]) == 0  # nothing reads it
            assert other is None or float(ours[:first].abs().max()) < step
        back = vc.exact(lm, task, units=[names[first]], direction="denoising", **QUIET).values
        true = naive(lm, task, layer, what, first, other="clean", into="corrupted")
        assert float(back) == pytest.approx(true, abs=step)


def test_all_of_them_and_what_they_cost(task_of):
    lm, task = model("mamba2"), task_of(9, seed=5)
    every = vc.exact(lm, task, units="states@positions", **QUIET)
    assert every.units.names[:2] == ["x0<state>@0", "x0<state>@1"] and len(every) == 27
    assert every.cost.token_layers == vc.exact.work(lm, task, units="states@positions").tokens()


def test_other_replacements(task_of):
    lm, task = model("mamba"), task_of(8, n=3)
    drawn = vc.exact(lm, task, units=["x1<state>@5"], ablation="resample", **QUIET).values
    prompts = {*task.clean, *task.corrupted}
    for i in range(3):
        donors = [p for p in prompts if p not in (task.clean[i], task.corrupted[i])]
        bare = metric(task[i], whole(lm.hf, task.clean[i]))
        true = [metric(task[i], exchanged(lm.hf, task.clean[i], d, 1, "state", 5)) - bare for d in donors]
        assert min(abs(float(drawn[i]) - one) for one in true) < STEP
    for ablation, why in (("mean", "no run made a 'mean' of several"), ("optimal", "not of states")):
        with pytest.raises(MethodError, match=why):
            vc.exact(lm, task, units=["x1<state>@5"], ablation=ablation, **QUIET)
    with pytest.raises(MethodError, match="put in the place of activations; what a mixer carries is none"):
        vc.exact(lm, task, units=["x1<state>@5"], ablation=Added({"x1<state>": torch.zeros(24)}), **QUIET)


def test_what_cannot_be_asked_is_refused(task_of):
    lm, task = model("mamba"), task_of(8)
    for units in (["x1<state>"], "states", "taps@end"):
        with pytest.raises(UnitError, match=r"carries away from one position.*x[01]<(state|taps)>@7"):
            vc.exact(lm, task, units=units, **QUIET)
    with pytest.raises(UnitError, match=r"only vc\.exact replaces it"):
        vc.attribute(lm, task, units=["x1<state>@5"], **QUIET)
    with pytest.raises(UnitError, match=r"only vc\.exact replaces it"):
        vc.causes.responses(lm, task, units=["x1<state>@5"], **QUIET)
    with pytest.raises(UnitError, match="replaced alone"):
        vc.exact(lm, task, units=[("x1<state>@5", "x0")], **QUIET)
    with pytest.raises(ArchitectureError, match="nothing but their taps"):
        vc.exact(model("lfm2"), task, units="states@positions", **QUIET)
    llama = as_model(tiny_models.make("llama", seed=1), "llama")
    with pytest.raises(ArchitectureError, match="by attention alone"):
        vc.exact(llama, task, units="taps@positions", **QUIET)


def test_a_mixer_whose_convolution_is_not_seen_is_refused(task_of, monkeypatch):
    """As where a kernel does all in one."""
    lm, task = model("mamba"), task_of(8)
    monkeypatch.setattr("veracausa.engine.carried.torch.conv1d", torch.conv2d)
    with pytest.raises(ArchitectureError, match="runs no convolution that can be told"):
        vc.exact(lm, task, units=["x1<state>@5"], **QUIET)
