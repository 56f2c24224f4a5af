"""Scores: averages, errors, shares, rankings, tables, from small values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from made_up import about

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import GapError, MethodError
from veracausa.scores.completeness import Completeness
from veracausa.scores.scores import Scores
from veracausa.statistics.ratios import share_of_gap
from veracausa.units.table import Units

NAN = float("nan")


def scores(values, clean, corrupted, direction="noising", **more):
    values = torch.tensor(values)
    n = values.shape[1]
    units = Units("heads", np.arange(n) // 2, np.arange(n) % 2, np.full(n, -1))
    return Scores(
        values=values, units=units, method="exact", settings={"direction": direction, "ablation": "counterfactual"},
        model={"name": "m", "source": "a tiny model", "identity": "id"},
        task={"name": "t", "description": "t: 3 pairs", "digest": "d", "metric": "logit_diff", "n": len(values)},
        clean=torch.tensor(clean), corrupted=torch.tensor(corrupted), cost=Cost(30, 0, 10, 1.0), **more,
    )  # fmt: skip


@pytest.fixture
def three():
    """Gaps 2, 4, 6; means −1, 0, 3, −2."""
    values = [[-1.0, 3.0, 0.0, -2.0], [-1.0, -3.0, 3.0, -2.0], [-1.0, 0.0, 6.0, -2.0]]
    return scores(values, [3.0, 4.0, 5.0], [1.0, 0.0, -1.0])


def test_mean_and_standard_error(three):
    assert three.mean().tolist() == [-1, 0, 3, -2]
    assert three.stderr().tolist() == pytest.approx([0, math.sqrt(3), math.sqrt(3), 0])
    assert three.n == 3 and len(three) == 4


def test_a_single_pair_has_no_standard_error(three):
    one = scores([[1.0, 2.0]], [1.0], [0.0])
    assert one.stderr().isnan().all() and one.normalised_stderr().isnan().all()


def test_normalised_is_a_ratio_of_means(three):
    """Mean gap 4. (Mean of ratios would be −0.306 for the first unit.)"""
    assert three.normalised().tolist() == [-0.25, 0, 0.75, -0.5]


def test_error_of_the_share(three):
    """Against the derivatives of the ratio, r = x̄ / ḡ, and a long bootstrap: both of 60 pairs."""
    rng = np.random.default_rng(1)
    gap = 4 + rng.normal(size=60)
    values = -0.5 * gap[:, None] + 0.3 * rng.normal(size=(60, 2))
    many = scores(values.tolist(), gap.tolist(), [0.0] * 60)
    for u, found in enumerate(many.normalised_stderr().tolist()):
        x, slope = values[:, u], np.array([1 / gap.mean(), -values[:, u].mean() / gap.mean() ** 2])
        assert found == pytest.approx(math.sqrt(slope @ np.cov(x, gap) @ slope / 60), rel=1e-4)  # float32
    picks = rng.integers(60, size=(4000, 60))
    direct = (values[picks].mean(1) / gap[picks].mean(1, keepdims=True)).std(0)
    # 4,000 draws know a standard deviation to 1.1%, and first order is good to 1/60
    assert many.normalised_stderr().tolist() == pytest.approx(direct, rel=0.06)
    assert torch.equal(many.normalised_stderr(), many.normalised_stderr())


def test_one_estimator_for_one_figure(three):
    """The same ratio has the same error wherever it is taken: scores, shares, faithfulness, curves."""
    from veracausa.circuits.quality.faithfulness import Faithfulness
    from veracausa.tasks.measurement import Measurement

    clean = torch.tensor([3.0, 4.0, 5.0, 3.5], dtype=torch.float64)
    values = torch.tensor([[1.0], [1.5], [2.5], [1.0]], dtype=torch.float64)
    one = Scores(**{**vars(three), "values": values, "clean": clean, "corrupted": torch.zeros(4).double()} |
                 {"units": three.units[[0]]})  # fmt: skip
    share = share_of_gap(values[:, 0], clean)[0]
    f = Faithfulness(
        1, 0.1, values[:, 0], torch.zeros(4), Measurement(clean, torch.zeros(4).double()), Cost(), **about(4)
    )
    assert one.normalised_stderr().tolist() == pytest.approx([share.stderr], rel=1e-12)
    assert (f.f, f.stderr()) == pytest.approx((share.value, share.stderr), rel=1e-12)


def test_missing_positions_are_left_out_of_the_error_of_a_share():
    """A unit that half of the pairs have has the error that these pairs alone give it."""
    rng = np.random.default_rng(2)
    gap, values = (3 + rng.normal(size=20)).tolist(), rng.normal(size=(20, 2))
    values[10:, 1] = NAN
    both = scores(values.tolist(), gap, [0.0] * 20)
    half = scores(values[:10, 1:].tolist(), gap[:10], [0.0] * 10)
    assert float(both.normalised_stderr()[1]) == pytest.approx(float(half.normalised_stderr()[0]), rel=1e-5)


def test_a_gap_that_is_not_told_from_zero_has_no_error_but_a_sentence():
    """Gaps +2 −1 +1 −2 +1.5 −1.2: a bootstrap's error is then anything by seed."""
    gap = [2.0, -1.0, 1.0, -2.0, 1.5, -1.2]
    found = scores([[0.3]] * 6, gap, [0.0] * 6)
    assert found.normalised_stderr().isnan().all()
    share = share_of_gap(found.values[:, 0], found.gap)[0]
    assert share.value == pytest.approx(0.3 / (sum(gap) / 6)) and math.isnan(share.stderr)
    assert "not told apart from 0 by 6 pairs" in found.describe()


def test_an_inverted_gap_is_said_and_has_no_shares():
    found = scores([[0.3], [0.2], [0.1]], [-1.0, -2.0, 1.0], [2.0, 1.0, 0.5])
    for words in ("prefers the wrong answer on 2 of 3 pairs", "the gap is inverted", "on 2 of 3 pairs"):
        assert words in repr(found)
    for call in (found.normalised, found.normalised_stderr):
        with pytest.raises(GapError, match=r"inverted.*\+1\.17 corrupted, on 2 of 3 pairs"):
            call()
    assert "share" not in found.table().columns
    assert found.scaled().tolist() == pytest.approx([0.2 / (-2 / 3 - 3.5 / 3)])
    kl = scores([[0.3]] * 3, [-1.0, -2.0, -1.0], [-3.0, -4.0, -5.0])
    assert "wrong answer" in kl.describe()
    assert "wrong answer" not in Scores(**{**vars(kl), "task": kl.task | {"metric": "logprob"}}).describe()


def test_one_row_for_all_pairs_has_no_error():
    """Masks and scores from files: their rows are equal because they are one, which is no standard error of 0."""
    settings = {"direction": "noising", "per_example": False}
    found = scores([[0.3, 0.1]] * 8, [1.0] * 8, [0.0] * 8)
    assert found.stderr().tolist() == [0, 0]
    one = Scores(**{**vars(found), "settings": settings})
    assert one.stderr().isnan().all() and one.normalised_stderr().isnan().all()
    assert one.table()["stderr"].isna().all()


def test_probabilities_are_no_shares_of_the_gap():
    found = scores([[0.3, 0.1]] * 8, [2.0] * 8, [0.0] * 8)
    found = Scores(**{**vars(found), "settings": {"direction": "noising", "unit": "probability"}})
    assert found.unit == "probability" and "share" not in found.table().columns
    assert found.scaled().tolist() == pytest.approx([0.3, 0.1])
    with pytest.raises(MethodError, match="units of probability"):
        found.normalised()


def test_zero_mean_gap_has_no_shares():
    cancel = scores([[1.0, 2.0], [1.0, 2.0]], [1.0, 0.0], [0.0, 1.0])
    with pytest.raises(GapError, match=r"zero.*mean\(\)"):
        cancel.normalised()
    assert "share" not in cancel.table().columns


def test_importance_has_the_sign_of_support(three):
    assert three.importance().tolist() == [1, 0, -3, 2]
    assert scores([[1.0, -2.0]], [1.0], [0.0], "denoising").importance().tolist() == [1, -2]


def test_rankings(three):
    """Means −1, 0, 3, −2; mean magnitudes 1, 2, 3, 2; ties keep their order."""
    assert three.ranking() == [2, 3, 0, 1]
    assert three.ranking("mean_abs") == [2, 1, 3, 0]
    assert three.ranking("importance") == [3, 0, 1, 2]
    with pytest.raises(MethodError, match=r"by='size'.*abs_mean, mean_abs, importance"):
        three.ranking("size")


def test_top_is_a_table(three):
    top = three.top(2)
    assert top["name"].tolist() == ["a1.h0", "a1.h1"]
    assert list(top.columns) == ["name", "layer", "head", "effect", "stderr", "share"]
    assert top["effect"].tolist() == [3, -2] and top["share"].tolist() == [0.75, -0.5]
    assert len(three.top(99)) == 4


def test_missing_positions_are_left_out():
    """Only the examples that have the position count, in the mean, its error, and the share."""
    some = scores([[1.0, NAN], [3.0, 6.0], [5.0, 2.0]], [2.0, 2.0, 6.0], [0.0, 0.0, 0.0])
    assert some.mean().tolist() == [3, 4]
    assert some.stderr().tolist() == pytest.approx([2 / math.sqrt(3), math.sqrt(8) / math.sqrt(2)])
    assert some.normalised().tolist() == pytest.approx([9 / 10, 8 / 8])
    assert some.ranking("mean_abs") == [1, 0]


def test_a_unit_that_no_example_has_ranks_last():
    none = scores([[1.0, NAN, -2.0, 0.5]], [1.0], [0.0])
    assert none.mean().isnan().tolist() == [False, True, False, False]
    assert none.ranking()[-1] == 1
    assert none.ranking("mean_abs")[-1] == 1


def test_a_unit_that_no_example_has_ranks_last_by_importance():
    none = scores([[1.0, NAN, -2.0, 0.5]], [1.0], [0.0])
    assert none.ranking("importance")[-1] == 1


def test_description_says_what_the_numbers_are(three):
    text = repr(three)
    for words in ("exact · 4 heads", "a tiny model", "t: 3 pairs", "negative: the unit supported", "3 pairs",
                  "+4.000 clean", "+0.000 corrupted", "30 token-layers = 3.0 forward", "not verified"):  # fmt: skip
        assert words in text
    assert "positive: the unit supports" in repr(scores([[1.0]], [1.0], [0.0], "denoising"))
    assert "magnitudes only" in repr(scores([[1.0]], [1.0], [0.0], signed=False))
    html = scores([[1.0]], [1.0], [0.0], notes=("<script>",))._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_completeness():
    """Residuals −1 and 0 of the first layer, 0 and −1 of the second; gaps 4 and −6."""
    done = Completeness(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    assert done.residual.tolist() == [0.5, 0.5]
    assert done.relative(torch.tensor([4.0, -6.0])) == pytest.approx(0.1)


def test_residuals_of_opposite_sign_do_not_cancel():
    done = Completeness(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 2.0]]))
    assert done.relative(torch.tensor([4.0, 6.0])) == pytest.approx(0.2)
    found = scores([[1.0, 2.0]] * 2, [4.0, 6.0], [0.0, 0.0], completeness=done)
    assert "mean |Σ scores − true change| at most 1, 20.00% of the mean |gap|" in found.describe()


def test_the_model_reports_weak_pairs(tiny, task_of):
    measured = tiny("llama").measure(task_of((5, 6), n=8))
    size = measured.gap.abs()
    assert measured.weak == [i for i in range(8) if size[i] < 0.1 * size.mean()]
    assert torch.equal(measured.gap, measured.clean - measured.corrupted)


def test_measure_is_the_bare_model(tiny, task_of):
    lm, task = tiny("gemma2"), task_of((5, 6), n=3)
    measured = lm.measure(task)
    for i in range(3):
        for prompt, ours in ((task.clean[i], measured.clean[i]), (task.corrupted[i], measured.corrupted[i])):
            with torch.no_grad():
                logits = lm.hf(torch.tensor([prompt])).logits[0, -1]
            assert float(ours) == pytest.approx(
                float(logits[task.correct[i][0]] - logits[task.incorrect[i][0]]), abs=1e-11
            )


def test_public_names():
    assert vc.Scores is Scores and vc.Units is Units
