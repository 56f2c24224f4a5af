"""Scores: averages, errors, shares, rankings, tables, from small values worked out by hand."""

import math

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.attribution.scores import Completeness, Scores
from veracausa.attribution.units import Units
from veracausa.engine.cost import Cost
from veracausa.errors import GapError, MethodError

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


def test_bootstrap_error_of_the_share(three):
    """Against a direct bootstrap; zero effect spread still has the gap's spread."""
    ours = three.normalised_stderr(draws=20_000)
    rng = np.random.default_rng(1)
    picks = rng.integers(3, size=(20_000, 3))
    values, gap = three.values.numpy(), three.gap.numpy()
    direct = (values[picks].mean(1) / gap[picks].mean(1, keepdims=True)).std(0)
    assert ours.tolist() == pytest.approx(direct, rel=0.05)
    assert torch.equal(ours, three.normalised_stderr(draws=20_000))  # drawn from a seed
    assert not torch.equal(ours, three.normalised_stderr(draws=20_000, seed=1))


def test_bootstrap_shrinks_with_examples():
    generator = torch.Generator().manual_seed(0)
    found = []
    for n in (20, 320):
        gap = 4 + torch.randn(n, generator=generator)
        many = scores(
            (-gap[:, None] * 0.5 + 0.3 * torch.randn(n, 2, generator=generator)).tolist(), gap.tolist(), [0.0] * n
        )
        found.append(float(many.normalised_stderr()[0]))
    # 16 times the pairs, a quarter of the error; for n = 320 about 0.3 / 4 / √320
    assert found[0] / found[1] == pytest.approx(4, rel=0.4)
    assert found[1] == pytest.approx(0.3 / 4 / math.sqrt(320), rel=0.2)


def test_zero_mean_gap_has_no_shares():
    cancel = scores([[1.0, 2.0], [1.0, 2.0]], [1.0, 0.0], [0.0, 1.0])
    with pytest.raises(GapError, match=r"zero.*mean\(\)"):
        cancel.normalised()
    assert "share" not in cancel.to_pandas().columns


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
    done = Completeness(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0, 3.0], [0.0, 1.0]]))
    assert done.residual.tolist() == [-0.5, -0.5]
    assert done.relative(torch.tensor([4.0, 6.0])) == pytest.approx(0.1)


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
