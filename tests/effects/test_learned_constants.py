"""Optimal constants: against a naive hooked run, closed forms, and the promises of the module's docstring."""

import dataclasses

import naive
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric, naive_units, smooth

import veracausa as vc
from veracausa.effects.learned_constants import load_optimal_constants, optimal_constants
from veracausa.effects.optimal_descent import Learning
from veracausa.errors import FileError, MethodError, UnitError
from veracausa.units.every_unit import all_units

KINDS = ("heads", "mlps", "attention", "neurons", "residual")
SHORT = Learning(steps=8, rate=0.1, batch=2)


def learn(lm, task, units="heads", **options):
    options = {"learning": SHORT, "floor": 0.0, "show_progress": False} | options
    return optimal_constants(lm, task, units=units, **options)


def constant_of(lm, constants, unit):
    """The constant of one unit of the naive table, cut out of its site."""
    kind, layer, index, _ = unit
    whole = constants.sites[layer]
    _, columns = naive.where(lm.hf, kind, index, None, len(whole))
    return whole[columns]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_losses_and_effects_are_the_naive_ones(tiny, task_of, agree, family, kind):
    """The KL that is told, and the exact effect, are those of a whole forward with the constant put in by a hook."""
    lm, task = tiny(family), task_of((6, 8), n=3)
    units = all_units(lm, kind)[:: 31 if kind == "neurons" else 5 if kind == "heads" else 1]
    constants = learn(lm, task, units)
    scores = vc.exact(lm, task, units=units, ablation="optimal", constants=constants, show_progress=False)
    theirs = torch.zeros(len(task), len(units), dtype=torch.float64)
    kl = torch.zeros_like(theirs)
    for i in range(len(task)):
        metric, divergence = naive_metric(lm, task, i), naive_metric(lm, task.with_metric("neg_kl"), i)
        before = naive.run_patched(lm.hf, lm.name, task.clean[i], [])[-1]
        for u, unit in enumerate(naive_units(units)):
            patch = (*unit, constant_of(lm, constants, unit))
            after = naive.run_patched(lm.hf, lm.name, task.clean[i], [patch])[-1]
            theirs[i, u], kl[i, u] = metric(after) - metric(before), -divergence(after)
    agree(scores.values, theirs, scores.gap)
    torch.testing.assert_close(constants.after, kl.mean(0), rtol=1e-9, atol=1e-9)
    assert (constants.after <= constants.before).all(), "a constant is only kept if it beats the mean"
    assert (constants.after < 0.99 * constants.before).any()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
@pytest.mark.slow
def test_one_pair_needs_no_more_than_its_own_values(tiny, task_of, family):
    """Closed form: the last layer's units are read at the last position only, where one prompt has one value, so the
    best constant is that value: KL 0 and effect 0. From the mean over positions, descent must find it."""
    lm, task = tiny(family), task_of(7)
    last = lm.layers - 1
    for units in ([f"a{last}.h0", f"a{last}.h2"], [f"m{last}"]):
        found = learn(lm, task, units, learning=Learning(steps=400, rate=0.1, batch=1))
        # Adam's last steps are small but not zero: a thousandth of the loss it started from is left at most
        assert (found.after < 1e-3 * found.before).all() and (found.before > 1e-3).all()
        effects = vc.exact(lm, task, units=units, ablation="optimal", constants=found, show_progress=False)
        # a KL of 1e-4 leaves a twentieth of a logit: logits here are of size 1 to 10
        assert (effects.values.abs() < 0.05).all()


def test_no_constant_depends_on_which_others_were_asked_for(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    every = learn(lm, task)
    chosen = ["a0.h1", "a1.h3", "a2.h0"]
    few = learn(lm, task, chosen)
    for name in chosen:
        one, other = every.units.find(name), few.units.find(name)
        assert few.after[other] == pytest.approx(float(every.after[one]), rel=1e-9)
        unit = naive_units(every.units)[one]
        # Adam divides by a gradient's size, so rounding (1e-16) may grow where a gradient is tiny
        torch.testing.assert_close(constant_of(lm, few, unit), constant_of(lm, every, unit), rtol=1e-6, atol=1e-8)


def test_floor_and_most(tiny, task_of):
    """Units under the floor keep their means, and so do all but the worst where there is a limit."""
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    before = learn(lm, task, most=0)
    assert not before.learned.any() and torch.equal(before.before, before.after)
    assert "no constant of 12 heads had to be learned" in before.sentences[0].lower()
    floor = float(before.before.median())
    assert (learn(lm, task, floor=floor).learned == (before.before > floor).numpy()).all()
    worst = learn(lm, task, most=3)
    assert set(np.flatnonzero(worst.learned)) == set(before.before.argsort(descending=True)[:3].tolist())
    parts = before.sites.unflatten(-1, (lm.heads, -1))
    kept = worst.sites.unflatten(-1, (lm.heads, -1))
    for unit, (_, layer, index, _) in enumerate(naive_units(worst.units)):
        if not worst.learned[unit]:
            assert torch.equal(kept[layer, index], parts[layer, index])


@pytest.mark.parametrize("kind", ["heads", "mlps", "keys"])
def test_cost_is_what_was_planned(tiny, task_of, kind):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    found = learn(lm, task, kind)
    planned = optimal_constants.work(lm, task, units=kind, learning=SHORT).tokens()
    assert planned == pytest.approx(found.cost.token_layers, rel=1e-9)
    alone = vc.exact(lm, task, units=kind, ablation="optimal", constants=found, show_progress=False)
    # the means are recorded when constants are learned
    planned = vc.exact.work(lm, task, units=kind, ablation="optimal", constants=found).tokens()
    assert planned == pytest.approx(alone.cost.token_layers, rel=1e-9)


def test_exact_learns_what_it_lacks(tiny, task_of, tmp_path):
    """Without constants they are learned with the defaults, counted, kept in the folder, and told."""
    lm, task = tiny("llama"), task_of(7, n=3)
    names = ["a0.h1", "a2.h0"]
    scores = vc.exact(lm, task, units=names, ablation="optimal", out=tmp_path, show_progress=False)
    constants = optimal_constants(lm, task, units=names, show_progress=False)
    given = vc.exact(lm, task, units=names, ablation="optimal", constants=constants, show_progress=False)
    torch.testing.assert_close(scores.values, given.values)
    assert scores.settings["constants"] == constants.digest() and scores.settings["learning_steps"] == 60
    assert scores.cost.token_layers == given.cost.token_layers + constants.cost.token_layers
    assert any("their mean KL over 3 prompts fell from" in note for note in scores.notes)
    assert len(list(tmp_path.glob("optimal-heads-*"))) == 1
    again = vc.exact(lm, task, units=names, ablation="optimal", out=tmp_path, show_progress=False)
    assert torch.equal(again.values, scores.values)


@pytest.mark.parametrize("baseline", ["resample", "optimal", "mean"])
def test_unit_paths_end_where_exact_effects_do(task_of, agree, baseline):
    """IG along a unit's own path tends to its exact effect, whatever replaces it; a smooth model, 32 nodes."""
    lm, task = smooth("llama"), task_of((6, 6, 7, 7), n=4)
    constants = learn(lm, task) if baseline == "optimal" else None
    method = vc.Method(path="unit", baseline=baseline, nodes=32, seed=3)
    estimate = vc.attribute(lm, task, method=method, constants=constants, show_progress=False)
    exact = vc.exact(lm, task, ablation=baseline, constants=constants, seed=3, show_progress=False)
    agree(estimate.values, exact.values, exact.gap, 1e-6)  # quadrature; exact effects are 1e-1 of the gap


@pytest.mark.parametrize("baseline", ["resample", "optimal"])
def test_layer_paths_sum_to_what_replaces_the_whole_site(tiny, task_of, baseline):
    """IG's scores of a layer sum to the effect of replacing all its heads, each by its own value."""
    lm, task = smooth("llama"), task_of((6, 6, 7, 7), n=4)
    constants = learn(lm, task) if baseline == "optimal" else None
    found = vc.attribute(lm, task, method="ig", baseline=baseline, constants=constants, show_progress=False)
    assert found.completeness.relative(found.gap) < 1e-6


def test_saved(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(7, n=3)
    found = learn(lm, task)
    again = load_optimal_constants(found.save(tmp_path / "constants.safetensors"))
    assert again.digest() == found.digest() and again.sentences == found.sentences
    assert again.table().equals(found.table()) and again.describe() == found.describe()
    path = tmp_path / "constants.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="damaged or cut short"):
        load_optimal_constants(path)


def test_refusals(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    for units in ("edges", "heads@positions"):
        with pytest.raises(MethodError, match="single units at all positions"):
            learn(lm, task, units)
    with pytest.raises(MethodError, match="neither may be below 0"):
        learn(lm, task, floor=-1.0)
    with pytest.raises(MethodError, match="restores a unit's clean value"):
        vc.exact(lm, task, ablation="optimal", direction="denoising", show_progress=False)
    with pytest.raises(MethodError, match="not known for edges"):
        vc.exact(lm, task, units="edges", ablation="optimal", show_progress=False)
    few = learn(lm, task, ["a0.h0"], most=0)
    with pytest.raises(UnitError, match=r"lack a0\.h1"):
        vc.exact(lm, task, units=["a0.h0", "a0.h1"], ablation="optimal", constants=few, show_progress=False)
    with pytest.raises(MethodError, match="another task"):
        vc.exact(lm, task[:2], units=["a0.h0"], ablation="optimal", constants=few, show_progress=False)
    with pytest.raises(MethodError, match="Leave one of them out"):
        vc.exact(lm, task, units=["a0.h0"], ablation="mean", constants=few, show_progress=False)
    with pytest.raises(MethodError, match="draws one prompt a unit"):
        vc.attribute(lm, task, units="heads@positions", method="ig", baseline="resample", show_progress=False)
    estimate = vc.attribute(lm, task, units=["a0.h0"], method="ig", baseline="optimal", constants=few,
                            show_progress=False)  # fmt: skip
    with pytest.raises(MethodError, match="learned constants, which a receipt does not keep"):
        vc.verify(lm, task, estimate, show_progress=False)
    with pytest.raises(MethodError, match="must be above 0"):
        dataclasses.replace(SHORT, steps=0)
