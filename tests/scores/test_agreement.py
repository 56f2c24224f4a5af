"""Agreement figures against numbers worked out by hand, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import MethodError, UnitError
from veracausa.scores.completeness import Completeness
from veracausa.scores.scores import Scores
from veracausa.units.table import Units


def scores(effects, gap=1.0, method="exact", index=None, **more):
    """One pair with these effects; heads of layer 0."""
    values = torch.tensor([effects], dtype=torch.float64)
    n = values.shape[1]
    index = np.arange(n) if index is None else np.asarray(index)
    parts = {
        "values": values, "units": Units("heads", np.zeros(n, int), index, np.full(n, -1)), "method": method,
        "settings": {"direction": "noising"}, "model": {"name": "m", "source": "s", "identity": "id"},
        "task": {"name": "t", "description": "t", "digest": "d", "metric": "logit_diff", "n": 1},
        "clean": torch.tensor([gap], dtype=torch.float64), "corrupted": torch.zeros(1, dtype=torch.float64),
        "cost": Cost(),
    }  # fmt: skip
    return Scores(**(parts | more))


def test_figures_by_hand():
    """x = 0, 1, 2, 3; y = 1, 1, 3, 7.  Σdx·dy = 10, Σdx² = 5, Σdy² = 24."""
    found = vc.agreement(scores([1.0, 1, 3, 7], method="guess"), scores([0.0, 1, 2, 3]))
    assert found.r == pytest.approx(10 / math.sqrt(5 * 24))
    assert found.slope == pytest.approx(10 / 5)
    # ranks of y: 1.5 1.5 3 4;  Σ = 4.5, √(5 · 4.5)
    assert found.spearman == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    # |y − x| = 1, 0, 1, 4
    assert found.median_error == pytest.approx(1)
    assert found.method == "guess" and found.names == ("a0.h0", "a0.h1", "a0.h2", "a0.h3")


def test_bland_altman_by_hand():
    """d = 1, 0, 1, 4: mean 1.5, SD √3; means of x and y: ½, 1, 5/2, 5."""
    found = vc.agreement(scores([1.0, 1, 3, 7]), scores([0.0, 1, 2, 3]))
    assert found.bias == pytest.approx(1.5)
    assert found.sd == pytest.approx(math.sqrt(3))
    assert found.limits == pytest.approx((1.5 - 1.96 * math.sqrt(3), 1.5 + 1.96 * math.sqrt(3)))
    middle, d = np.array([0.5, 1, 2.5, 5]), np.array([1.0, 0, 1, 4])
    dx = middle - middle.mean()
    assert found.proportional_bias == pytest.approx((dx @ d) / (dx @ dx))
    assert found.proportional_p == pytest.approx(stats.pearsonr(middle, d).pvalue)
    assert found.outliers == []


def test_outliers_are_beyond_the_limits_the_farthest_first():
    x = np.linspace(-0.5, 0.5, 60)
    d = 0.01 * np.cos(np.arange(60))
    d[7], d[30] = 0.3, -0.4
    found = vc.agreement(scores((x + d).tolist()), scores(x.tolist()))
    assert found.outliers == ["a0.h30", "a0.h7"]
    assert found.row()["outliers"] == 2 and "a0.h30, a0.h7" in repr(found)


def test_everything_is_a_share_of_the_gap():
    one = vc.agreement(scores([1.0, 1, 3, 7]), scores([0.0, 1, 2, 3]))
    ten = vc.agreement(scores([10.0, 10, 30, 70], gap=10), scores([0.0, 10, 20, 30], gap=10))
    assert ten.bias == pytest.approx(one.bias) and ten.median_error == pytest.approx(one.median_error)
    assert ten.r == pytest.approx(one.r) and ten.slope == pytest.approx(one.slope)


def test_a_negative_gap_keeps_the_figures():
    """A behaviour measured the wrong way round: shares change their sign in both, agreement stays."""
    one = vc.agreement(scores([1.0, 1, 3, 7]), scores([0.0, 1, 2, 3]))
    turned = vc.agreement(scores([-1.0, -1, -3, -7], gap=-1), scores([0.0, -1, -2, -3], gap=-1))
    assert (turned.r, turned.slope, turned.bias) == pytest.approx((one.r, one.slope, one.bias))


def test_jaccard_by_hand():
    """Tops by magnitude: x 3 2 1 0, y 0 2 3 1 (of −5, 1, 4, −3)."""
    found = vc.agreement(scores([-5.0, 1, 4, -3]), scores([0.0, 1, -2, 3]))
    assert found.jaccard([1, 2, 3, 4]) == {1: 0, 2: 1 / 3, 3: 1 / 2, 4: 1}
    assert found.jaccard(2) == 1 / 3
    for k in (0, 5):
        with pytest.raises(MethodError, match=rf"k={k}.*between 1 and.*4"):
            found.jaccard(k)


def test_jaccard_takes_any_integer():
    found = vc.agreement(scores([-5.0, 1, 4, -3]), scores([0.0, 1, -2, 3]))
    assert found.jaccard(np.int64(2)) == 1 / 3


def test_sign_errors_count_among_strong_units_only():
    """Strong: over 1% of the gap of 2, that is |E| > 0.02. Exactly 1% is not over; 0 is no wrong sign."""
    exact = [0.5, -0.5, 0.019, 0.02, 0.3, -0.03]
    guess = [-0.1, -0.2, -1.0, -1.0, 0.0, 0.01]
    found = vc.agreement(scores(guess, gap=2.0), scores(exact, gap=2.0))
    assert (found.strong, found.sign_errors) == (4, 2)
    assert found.wrong_signs == ["a0.h0", "a0.h5"]
    assert "2 of 4 strong units" in repr(found)


def test_unsigned_scores_are_compared_by_magnitude():
    guess = scores([3.0, 2.0, 1.0, 0.5], signed=False)
    exact = scores([-3.0, 2.0, -1.0, 0.5])
    found = vc.agreement(guess, exact)
    assert found.r == pytest.approx(1) and found.bias == pytest.approx(0)
    assert math.isnan(found.slope) and found.sign_errors == 0 and found.wrong_signs == []
    assert "magnitudes only" in repr(found)


def test_only_common_units_are_compared_in_any_order():
    exact = scores([0.0, 1, 2, 3], index=[0, 1, 2, 3])
    guess = scores([7.0, 9, 1, 1, 3], index=[3, 8, 0, 1, 2])
    found = vc.agreement(guess, exact)
    assert set(found.names) == {f"a0.h{i}" for i in range(4)}
    assert dict(zip(found.names, found.estimate, strict=True)) == {"a0.h0": 1, "a0.h1": 1, "a0.h2": 3, "a0.h3": 7}
    assert found.r == pytest.approx(10 / math.sqrt(5 * 24))


def test_units_without_numbers_are_left_out():
    nan = float("nan")
    found = vc.agreement(scores([1.0, nan, 1, 3, 7]), scores([0.0, 5, 1, 2, 3]))
    assert found.names == ("a0.h0", "a0.h2", "a0.h3", "a0.h4") and found.slope == pytest.approx(2)


def test_means_over_examples_come_first():
    exact = scores([0.0, 0, 0], values=torch.tensor([[0.0, 1, 2], [2.0, 1, 4]]), clean=torch.tensor([1.0, 3.0]),
                   corrupted=torch.zeros(2))  # fmt: skip
    found = vc.agreement(exact, exact)
    assert found.exact.tolist() == [0.5, 0.5, 1.5]  # mean effect over the mean gap of 2


def test_constant_scores_have_no_correlation():
    found = vc.agreement(scores([0.0, 0, 0]), scores([1.0, 2, 3]))
    assert math.isnan(found.r) and math.isnan(found.spearman)
    assert found.slope == 0 and found.bias == pytest.approx(-2)


def test_the_completeness_residual_is_passed_on():
    done = Completeness(torch.tensor([[0.5]]), torch.tensor([[0.4]]))
    found = vc.agreement(scores([1.0, 2, 3], gap=2.0, completeness=done), scores([1.0, 2, 3], gap=2.0))
    assert found.residual == pytest.approx(0.05) and "5.00% of the gap" in repr(found)
    assert vc.agreement(scores([1.0, 2, 3]), scores([1.0, 2, 3])).residual is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"settings": {"direction": "denoising"}}, "directions"),
        ({"model": {"name": "m", "source": "s", "identity": "other"}}, "models"),
        ({"task": {"name": "t", "description": "t", "digest": "other", "metric": "prob", "n": 1}}, "tasks"),
    ],
)
def test_what_does_not_correspond_is_refused(change, word):
    exact = scores([1.0, 2, 3])
    with pytest.raises(MethodError, match=f"different {word}"):
        vc.agreement(dataclasses.replace(exact, **change), exact)


def test_other_kinds_and_nothing_in_common_are_refused():
    exact = scores([1.0, 2, 3])
    neurons = dataclasses.replace(exact, units=dataclasses.replace(exact.units, kind="neurons"))
    with pytest.raises(UnitError, match="neurons and heads"):
        vc.agreement(neurons, exact)
    with pytest.raises(MethodError, match="unit"):
        vc.agreement(scores([1.0, 2], index=[8, 9]), exact)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_units_have_what_they_can_have(n):
    """Two points lie on a line and one has no spread: figures that mean nothing are NaN, the others stand."""
    found = vc.agreement(scores([1.0, 3][:n]), scores([0.5, 2.5][:n]))
    assert found.bias == pytest.approx(0.5) and found.median_error == pytest.approx(0.5)
    assert n == 2 or (math.isnan(found.r) and math.isnan(found.sd) and math.isnan(found.proportional_bias))
    assert found.outliers == [] and found.jaccard(1) == 1
    assert repr(found) and found.row()["units"] == n


def test_label_tells_baselines_apart():
    from veracausa.scores.agreement import label

    zero = scores([1.0], method="ig", settings={"direction": "noising", "baseline": "zero"})
    assert label(zero) == "ig (zero baseline)" and label(scores([1.0], method="atp")) == "atp"


def test_another_estimate_in_the_place_of_exact_effects_is_said(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    atp, ig = (vc.attribute(lm, task, method=each, show_progress=False) for each in ("atp", "ig"))
    found = vc.agreement(ig, atp)
    assert found.against == "atp, which is an estimate" and "against exact effects" not in repr(found)
    exact = vc.exact(lm, task, show_progress=False)
    assert "atp against exact effects" in repr(vc.agreement(atp, exact))


@pytest.mark.parametrize("signed", [True, False])
def test_equal_effects_have_no_r_however_they_are_rounded(tmp_path, signed):
    """Twelve equal effects in float32 and float64, to the last digit and not: what is left is noise, and had an r."""
    noise = torch.Generator().manual_seed(0)
    steps = torch.randn(12, generator=noise, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        for effect in (0.3, -4.0, 0.0):
            ends = {"clean": torch.tensor([7.0], dtype=dtype), "corrupted": torch.tensor([5.0], dtype=dtype)}
            for most in (0.0, 1.0):  # metrics of 7, rounded to their last digit
                values = (effect + most * 7 * torch.finfo(dtype).eps * steps).to(dtype)[None]
                exact = scores([0.0] * 12, **ends | {"values": values})
                other = scores(torch.linspace(-1, 1, 12).tolist(), method="guess", signed=signed)
                found = vc.agreement(dataclasses.replace(other, **ends), exact)
                assert math.isnan(found.r) and math.isnan(found.spearman) and math.isnan(found.slope)
                assert "exact effects are equal but for rounding" in found.cautions[-1]
                assert "with no r;" in found.sentences[0] and "nan" not in repr(found) + " ".join(found.sentences)
                if signed:
                    sides = dataclasses.replace(exact, method="guess"), dataclasses.replace(other, method="exact")
                    turned = vc.agreement(*(dataclasses.replace(one, **ends) for one in sides))
                    assert math.isnan(turned.r) and math.isnan(turned.spearman) and abs(turned.slope) < 1e-5
                    assert "estimates are equal but for rounding" in turned.cautions[-1]
    again = vc.open(found.save(tmp_path / "equal.safetensors"))
    assert again.sentences == found.sentences and repr(again) == repr(found)


def test_small_effects_that_differ_have_their_r():
    """A thousandth of a per cent of the gap in float32, at a metric as large as the gap, is no rounding."""
    effects = (1e-5 * torch.linspace(-1, 1, 12)).to(torch.float32)
    found = vc.agreement(scores([0.0] * 12, values=2 * effects[None]), scores([0.0] * 12, values=effects[None]))
    assert found.r == pytest.approx(1) and found.slope == pytest.approx(2) and found.cautions == ()
