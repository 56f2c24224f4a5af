"""What headers say of how numbers came about, and that results which differ in it are not compared."""

import dataclasses

import pytest
import torch

import veracausa as vc
from veracausa.effects.optimal_descent import Learning
from veracausa.errors import MethodError
from veracausa.scores.agreement import agreement_across
from veracausa.scores.headers import estimand, prompts_digest


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(6, n=3)


@pytest.fixture(scope="module")
def other(task_of):
    return task_of(6, n=2, seed=11)


def quiet(call, *args, **options):
    return call(*args, **options, show_progress=False)


@pytest.mark.parametrize("replacement", ["mean", "resample"])
def test_a_reference_set_is_named(lm, task, other, replacement):
    """The task's own is the same set whether it is given or not."""
    for own, reference in ((None, task), (other, other)):
        found = [
            quiet(vc.attribute, lm, task, baseline=replacement, reference=own),
            quiet(vc.exact, lm, task, ablation=replacement, reference=reference),
            quiet(vc.effects.direct, lm, task, ablation=replacement, reference=own),
            quiet(vc.effects.shapley, lm, task, ablation=replacement, reference=own, permutations=2),
        ]
        for scores in found:
            assert scores.settings["reference_digest"] == prompts_digest(reference)
            assert scores.settings["reference"] == reference.describe()
            assert reference.describe() in scores.describe()
    assert "reference" not in quiet(vc.attribute, lm, task).settings


def test_other_reference_sets_are_not_compared(lm, task, other):
    """Each of them alone agrees with itself; the mix would have given a wrong r without a word."""
    estimates = [quiet(vc.attribute, lm, task, method="ig", baseline="mean", reference=r) for r in (None, other)]
    exacts = [quiet(vc.exact, lm, task, ablation="mean", reference=r) for r in (None, other)]
    for i in range(2):
        assert vc.agreement(estimates[i], exacts[i]).r > 0.5
        with pytest.raises(MethodError, match=rf"different reference sets.*{prompts_digest(other)}"):
            vc.agreement(estimates[i], exacts[1 - i])
    receipt = quiet(vc.verify, lm, task, estimates[1], reference=other, top=3, sample=3)
    places = [exacts[1].units.find(name) for name in receipt.exact.units.names]
    torch.testing.assert_close(receipt.exact.values, exacts[1].values[:, places], rtol=0, atol=1e-12)
    for estimate, given in ((estimates[1], None), (estimates[0], other)):
        with pytest.raises(MethodError, match=r"reference set.*reference="):
            quiet(vc.verify, lm, task, estimate, reference=given, top=3, sample=3)


def test_other_replacements_and_seeds_are_not_compared(lm, task):
    zero, exact = quiet(vc.attribute, lm, task, baseline="zero"), quiet(vc.exact, lm, task)
    with pytest.raises(MethodError, match="different replacements \\('zero' and 'counterfactual'\\)"):
        vc.agreement(zero, exact)
    assert agreement_across(zero, exact, "replacements").r <= 1  # where it is meant
    drawn = [quiet(vc.exact, lm, task, ablation="resample", seed=seed) for seed in (0, 1)]
    with pytest.raises(MethodError, match="different seeds of resampling"):
        vc.agreement(*drawn)
    assert vc.agreement(quiet(vc.attribute, lm, task, baseline="resample", seed=1), drawn[1]).r <= 1


def test_other_constants_are_not_compared(lm, task):
    found = [
        quiet(vc.exact, lm, task, ablation="optimal",
              constants=quiet(vc.effects.optimal_constants, lm, task, learning=Learning(steps=steps, rate=0.1,
              batch=3)))
        for steps in (1, 2)
    ]  # fmt: skip
    with pytest.raises(MethodError, match="different learned constants"):
        vc.agreement(*found)


def test_a_header_that_does_not_say_is_not_taken_on_trust(lm, task):
    """A mean whose reference set was not recorded is not the task's own."""
    exact = quiet(vc.exact, lm, task, ablation="mean")
    silent = {key: value for key, value in exact.settings.items() if not key.startswith("reference")}
    old = dataclasses.replace(exact, settings=silent)
    assert estimand(old)["reference sets"] == "not recorded"
    with pytest.raises(MethodError, match="not recorded"):
        vc.agreement(old, exact)


def test_a_method_and_its_path_may_differ(lm, task):
    exact = quiet(vc.exact, lm, task)
    for options in ({"method": "ig", "nodes": 2}, {"method": "expected-gradients", "seed": 4}, {"method": "gim"}):
        assert vc.agreement(quiet(vc.attribute, lm, task, **options), exact).r <= 1


def test_starts_of_masks_are_named(lm, task):
    """Two starts of one method are two starts."""
    one, two = (quiet(vc.attribute, lm, task, method="ig", nodes=nodes) for nodes in (1, 3))
    masks = [quiet(vc.estimates.learn_mask, lm, task, steps=1, start=start) for start in (one, two)]
    assert [mask.settings["start"] for mask in masks] == ["ig", "ig"]
    assert masks[0].settings["start_digest"] != masks[1].settings["start_digest"]
    assert masks[0].unit == "probability" and masks[0].stderr().isnan().all()
    found = vc.agreement(masks[0], quiet(vc.exact, lm, task))
    assert found.unit == "probability" and found.median_error != found.median_error and "median" not in repr(found)
    flow = quiet(vc.attribute, lm, task, units="edges", method="ifr")
    assert flow.unit == "share of input" and "share" not in flow.table().columns
