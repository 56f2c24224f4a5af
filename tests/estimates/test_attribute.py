"""Gradient estimates against the naive reference, against finite differences, and against exact effects.

Tolerance where formulas are the same: 1e-9 of the gap in float64 (conftest.EXACT), as for exact effects.
"""

import naive
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.units.every_unit import all_units

KINDS = ("heads", "mlps", "attention", "neurons", "residual")
FAMILIES = tiny_models.FAMILIES
FEW = ("llama", "gpt_neox", "gemma2")
ABLATION = {"corrupted": "counterfactual", "zero": "zero", "mean": "mean"}


def some(lm, kind, positions=0):
    units = all_units(lm, kind, positions)
    step = {"heads": 5, "neurons": 31}.get(kind, 1)
    if positions:
        step = {"heads": 7, "neurons": 101, "residual": 5}.get(kind, 1)
    return units[np.arange(0, len(units), step)]


def attribute(lm, task, units, **options):
    return vc.attribute(lm, task, units=units, show_progress=False, **options)


def prompts(task, baseline):
    return {"reference": [*task.clean, *task.corrupted]} if baseline == "mean" else {}


# ---- atp ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_atp(tiny, task_of, reference, agree, family, direction, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, some(lm, kind), direction=direction)
    agree(scores.values, reference(naive.atp, lm, task, scores.units, direction=direction), scores.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("family", FEW)
def test_atp_towards_other_baselines(tiny, task_of, reference, agree, family, baseline, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, some(lm, kind), baseline=baseline)
    theirs = reference(naive.atp, lm, task, scores.units, ablation=ABLATION[baseline], **prompts(task, baseline))
    agree(scores.values, theirs, scores.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FEW)
def test_atp_per_position(tiny, task_of, reference, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, some(lm, kind, 6))
    agree(scores.values, reference(naive.atp, lm, task, scores.units), scores.gap)
    assert scores.values.isnan().any()


@pytest.mark.parametrize("family", FAMILIES)
def test_atp_is_the_slope_of_the_exact_effect(tiny, task_of, agree, family):
    """Central differences of our own responses at 0, error of order h⁴: a check without any backward pass."""
    lm, task = tiny(family), task_of(6, seed=4)
    units = [f"a{layer}.h1" for layer in range(3)]
    h = 3e-4
    found = vc.causes.responses(lm, task, units=units, alphas=[-2 * h, -h, h, 2 * h], show_progress=False)
    before, near, after, far = (found.own[:, int(np.argmin(abs(found.alphas - k * h)))].T for k in (-2, -1, 1, 2))
    slope = (8 * (after - near) - (far - before)) / (12 * h)
    scores = attribute(lm, task, units)
    agree(scores.values, slope, scores.gap, 1e-6)  # h⁴ and 1e-13 / h
    assert scores.values.abs().max() > 1e-3


@pytest.mark.parametrize("metric", ["prob", "prob_diff", "logprob"])
def test_atp_of_other_metrics(tiny, task_of, reference, metric):
    lm, task = tiny("gemma2"), task_of((5, 6), n=2, metric=metric)
    scores = attribute(lm, task, "heads")
    torch.testing.assert_close(scores.values, reference(naive.atp, lm, task, scores.units), rtol=1e-8, atol=1e-11)


def test_atp_of_kl_towards_clean(tiny, task_of, reference):
    """At the corrupted run the KL has a gradient; only at the clean one it is zero."""
    lm, task = tiny("llama"), task_of(6, metric="neg_kl")
    scores = attribute(lm, task, "heads", direction="denoising")
    theirs = reference(naive.atp, lm, task, scores.units, direction="denoising")
    torch.testing.assert_close(scores.values, theirs, rtol=1e-8, atol=1e-11)


# ---- ig -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ig(tiny, task_of, reference, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, some(lm, kind), method="ig", nodes=3)
    agree(scores.values, reference(naive.ig_layer, lm, task, scores.units, nodes=3), scores.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("family", FEW)
def test_ig_towards_other_baselines(tiny, task_of, reference, agree, family, baseline, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, some(lm, kind), method="ig", nodes=3, baseline=baseline)
    more = {"ablation": ABLATION[baseline], **prompts(task, baseline)}
    agree(scores.values, reference(naive.ig_layer, lm, task, scores.units, nodes=3, **more), scores.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FEW)
def test_ig_denoising(tiny, task_of, reference, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, some(lm, kind), method="ig", nodes=3, direction="denoising")
    agree(scores.values, reference(naive.ig_layer, lm, task, scores.units, nodes=3, direction="denoising"), scores.gap)


@pytest.mark.parametrize("baseline", ["corrupted", "zero", "mean"])
@pytest.mark.parametrize("family", FEW)
def test_ig_per_position(tiny, task_of, reference, agree, family, baseline):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    units = some(lm, "heads", 6)
    scores = attribute(lm, task, units, method="ig", nodes=2, baseline=baseline)
    more = {"ablation": ABLATION[baseline], **prompts(task, baseline)}
    agree(scores.values, reference(naive.ig_layer, lm, task, units, nodes=2, **more), scores.gap)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_sum_to_the_unit(tiny, task_of, agree, kind):
    lm, task = tiny("gemma3"), task_of(6, seed=4)
    for method in ("atp", "ig"):
        whole = attribute(lm, task, kind, method=method)
        parts = attribute(lm, task, f"{kind}@positions", method=method)
        agree(parts.values.view(1, -1, 6).sum(-1), whole.values, whole.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FEW)
def test_a_layer_sums_to_the_effect_of_its_site(tiny, task_of, agree, family, kind):
    """Completeness, against exact effects of the whole site; and the residual reported is the quadrature's error."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, kind, method="ig", nodes=8)
    whole = {"heads": "attention", "neurons": "mlps"}.get(kind, kind)
    effects = vc.exact(lm, task, units=whole, show_progress=False).values
    layers = [scores.values[:, scores.units.layer == layer].sum(1) for layer in range(effects.shape[1])]
    agree(scores.completeness.claimed, torch.stack(layers), scores.gap)
    agree(scores.completeness.true, effects.T, scores.gap)
    left = (torch.stack(layers) - effects.T).abs().mean(1)  # pair by pair, so that opposite signs do not cancel
    agree(scores.completeness.residual, left, scores.gap)
    share = left.max() / scores.gap.abs().mean()
    assert scores.completeness.relative(scores.gap) == pytest.approx(float(share), abs=1e-9)


@pytest.mark.parametrize("family", FEW)
def test_the_completeness_residual_falls_with_nodes(tiny, task_of, family):
    lm, task = tiny(family), task_of(6, seed=4)
    residuals = [
        attribute(lm, task, "heads", method="ig", nodes=nodes).completeness.residual.abs().max().item()
        for nodes in (2, 32, 96)
    ]
    floor = 1e-12  # rounding of float64 sums; gemma2's saturated paths differ in how soon they get there
    assert residuals[1] < max(residuals[0] / 100, floor) and residuals[2] < max(residuals[1] / 10, floor)


def test_completeness_is_about_the_whole_layer_even_for_some_of_its_units(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, seed=4)
    one = attribute(lm, task, ["a1.h2"], method="ig")
    every = attribute(lm, task, "heads", method="ig")
    torch.testing.assert_close(one.completeness.residual, every.completeness.residual[1:2], rtol=0, atol=1e-12)
    assert attribute(lm, task, "heads").completeness is None  # nothing is promised by a slope


@pytest.mark.parametrize("baseline", ["corrupted", "mean"])
def test_grids_agree_in_the_limit(tiny, task_of, agree, baseline):
    lm, task = tiny("gpt2"), task_of(5, seed=4)
    best = attribute(lm, task, "heads", method="ig", nodes=40, baseline=baseline)
    # error of order: 1/m² of trapezoid and midpoint, 1/m of left and right; α nearest the ends bounds the constant
    for grid, few, many in (("trapezoid", 50, 200), ("midpoint", 50, 200), ("left", 50, 200), ("right", 50, 200)):
        errors = [
            (attribute(lm, task, "heads", method="ig", nodes=nodes, grid=grid, baseline=baseline).values - best.values)
            .abs()
            .max()
            .item()
            for nodes in (few, many)
        ]
        order = 1 if grid in ("left", "right") else 2
        assert errors[0] / errors[1] == pytest.approx(4**order, rel=0.1), grid
        assert errors[1] < 0.02 * best.gap.abs().mean()


@pytest.mark.parametrize("method", ["atp", "ig"])
@pytest.mark.parametrize("family", FEW)
def test_chunks_and_batches_change_nothing(tiny, task_of, agree, monkeypatch, family, method):
    """A budget of one row (and one pair) at a time gives the same scores."""
    lm, task = tiny(family), task_of((5, 6), n=4, seed=4)
    scores = attribute(lm, task, "heads", method=method)
    monkeypatch.setattr("veracausa.engine.budget._CPU_TOKENS", 1)
    agree(attribute(lm, task, "heads", method=method).values, scores.values, scores.gap)
    for i in range(4):
        agree(attribute(lm, task[i], "heads", method=method).values[0], scores.values[i], scores.gap)


@pytest.mark.parametrize("method", ["atp", "ig"])
def test_eager_and_sdpa(tiny, task_of, agree, method):
    task = task_of((5, 6), n=2, seed=4)
    eager, sdpa = (
        attribute(tiny("qwen3", attn_implementation=name), task, "heads", method=method) for name in ("eager", "sdpa")
    )
    agree(eager.values, sdpa.values, eager.gap)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("method", ["atp", "ig"])
def test_inside_no_grad(tiny, task_of, agree, method, context):
    """The caller's gradient mode is the caller's business."""
    lm, task = tiny("llama", fresh=True), task_of(6, seed=4)
    scores = attribute(lm, task, "heads", method=method)
    with context():
        agree(attribute(lm, task, "heads", method=method).values, scores.values, scores.gap)


def test_a_composed_method_is_the_preset_it_names(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, seed=4)
    composed = vc.Method(path="layer", combine="mean", nodes=4)  # on a straight path mean and increments are one sum
    ig = attribute(lm, task, "heads", method="ig", nodes=4)
    ours = attribute(lm, task, "heads", method=composed)
    assert torch.equal(ours.values, ig.values)
    assert ours.method == "layer × plain × mean" and ig.method == "ig"
    assert ig.settings == {
        "direction": "noising", "path": "layer", "rule": "plain", "baseline": "corrupted", "combine": "increments",
        "nodes": 4, "grid": "gauss",
    }  # fmt: skip
    assert ig.verified == "not verified" and "not verified" in repr(ig)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "slopes"}, ["slopes", "atp", "ig", "vc.Method"]),
        ({"method": "eap"}, ["edges", "atp"]),
        ({"method": vc.Method(path="scenic")}, ["path", "scenic", "point", "layer"]),
        ({"method": vc.Method(rule="smooth")}, ["rule", "smooth", "plain", "gim"]),
        ({"method": vc.Method(combine="max")}, ["combine", "max", "mean", "increments"]),
        ({"baseline": "blurred"}, ["baseline", "blurred", "corrupted", "zero", "mean"]),
        ({"direction": "up"}, ["direction", "up", "noising", "denoising"]),
        ({"method": "ig", "nodes": 0}, ["nodes=0", "at least one"]),
        ({"method": "ig", "grid": "simpson"}, ["simpson", "gauss", "trapezoid"]),
        ({"method": "ig", "grid": "trapezoid", "nodes": 1}, ["trapezoid", "2"]),
        ({"direction": "denoising", "baseline": "zero"}, ["denoising", "baseline"]),
        ({"direction": "denoising", "baseline": "mean"}, ["denoising", "baseline"]),
    ],
)
def test_meaningless_combinations(tiny, task_of, options, words):
    with pytest.raises(MethodError) as caught:
        attribute(tiny("llama"), task_of(6), "heads", **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_kl_has_no_slope_at_the_clean_run(tiny, task_of):
    task = task_of(6, metric="neg_kl")
    with pytest.raises(MethodError, match=r"KL.*zero"):
        attribute(tiny("llama"), task, "heads", method="atp")
    scores = attribute(tiny("llama"), task, "heads", method="ig")
    assert scores.values.abs().max() > 1e-3


@pytest.mark.parametrize(("family", "told"), [("mixtral", True), ("llama", False)])
def test_an_estimate_of_experts_says_what_no_gradient_sees(task_of, family, told):
    lm = as_model(tiny_models.make(family, seed=1), family)
    scores = vc.attribute(lm, task_of(7), units="heads", method="atp", show_progress=False)
    assert any("which experts are chosen" in note for note in scores.notes) is told
