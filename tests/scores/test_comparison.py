"""Two results side by side, against the slow way of tests/helpers/naive_comparison.py."""

from dataclasses import replace

import naive_comparison as naive
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model
from scipy import stats
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import MethodError, UnitError
from veracausa.statistics import differing

WORDS = ["The", "key", "keys", "to", "cabinet", "is", "are", "old", "new"]
QUIET = {"show_progress": False}
#: Central differences of a smooth ratio with a step of 1e-5: errors of some 1e-9 of its third derivative.
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def model(family="llama", seed=1):
    return as_model(tiny_models.make(family, seed=seed), tokenizer=word_tokenizer(WORDS, start=True))


def pairs(lm, words=("", "old ", "new ", "old new ", "new old "), other="keys"):
    clean, corrupted = ([f"The {word}{noun} to" for word in words] for noun in ("key", other))
    n = len(words)
    return vc.task(lm, clean=clean, corrupted=corrupted, correct=[" is"] * n, incorrect=[" are"] * n)


def with_gap(scores, gap=(1.0, 1.4, 0.9, 1.2, 1.1)):
    """The same with a gap that is told from 0, as random models have none."""
    gap = torch.tensor(gap, dtype=scores.values.dtype)[: scores.n]
    return replace(scores, clean=scores.corrupted + gap)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("shares", [True, False])
def test_differences_are_those_of_the_slow_way(family, shares, monkeypatch):
    monkeypatch.setattr(differing, "LEAST", 2)  # unpaired tests of the few pairs here, too
    lm = model(family)
    task = pairs(lm)
    exact = vc.exact(lm, task, units="heads@positions" if family == "gpt2" else "heads", **QUIET)
    atp = vc.attribute(lm, task, units="heads@positions" if family == "gpt2" else "heads", method="atp", **QUIET)
    change = (1.0, 1.4, 0.9, 1.2, 1.1) if shares else (-1.0, 1.4, -0.9, 1.2, -1.1)
    exact, atp = with_gap(exact, change), with_gap(atp, tuple(1.1 * x for x in change))
    for one, other, paired in ((exact, atp, True), (exact, replace(atp, task=atp.task | {"digest": "else"}), False)):
        (found,) = (one | other).compared
        assert found.paired == paired and found.shares == shares
        gaps = (one.gap.tolist(), other.gap.tolist()) if shares else (None, None)
        columns = zip(found.one.values.T.tolist(), found.other.values.T.tolist(), strict=True)
        slow = [naive.tested(a, b, gaps, paired) for a, b in columns if sum(x == x for x in a) > 1]
        many = np.array([sum(x == x for x in a) > 1 for a in found.one.values.T.tolist()])
        value, error, p = (np.array(each) for each in zip(*slow, strict=True))
        assert np.ptp(value) > 0
        np.testing.assert_allclose(found.found.value[many], value, **CLOSE)
        np.testing.assert_allclose(found.found.stderr[many], error, **CLOSE)
        np.testing.assert_allclose(found.found.p[many], p, rtol=1e-5, atol=1e-8)
        assert np.isnan(found.found.p[~many]).all()
        np.testing.assert_allclose(found.p_holm[many], naive.holm(p.tolist()), rtol=1e-5, atol=1e-8)
        for mine, values in zip(found.ranks, found.values, strict=True):
            assert sorted(mine) == list(range(1, len(values) + 1))
            sizes = np.abs(values)[np.argsort(mine)]
            assert (np.diff(sizes) <= 0).all() and (mine >= naive.ranks(values.tolist())).all()


def test_of_plain_effects_they_are_students_and_welchs_tests(monkeypatch):
    lm = model()
    exact = vc.exact(lm, pairs(lm), **QUIET)
    one = replace(exact, clean=exact.corrupted - torch.tensor([1.0, 2, 3, 2, 1]))  # an inverted gap: no shares
    other = replace(one, values=one.values + torch.randn(one.values.shape, generator=torch.Generator().manual_seed(0)))
    (found,) = (one | other).compared
    paired = stats.ttest_rel(other.values.numpy(), one.values.numpy())
    np.testing.assert_allclose(found.found.p, paired.pvalue, rtol=1e-9)
    apart = vc.studies.beside(one, other, paired=False)
    assert np.isnan(apart.compared[0].found.p).all() and not apart.compared[0].differs.any()
    assert "no test: 5 pairs against 5 other ones, and Welch’s test holds its level from 16 on" in apart.sentences[1]
    monkeypatch.setattr(differing, "LEAST", 5)
    (found,) = vc.studies.beside(one, other, paired=False).compared
    welch = stats.ttest_ind(other.values.numpy(), one.values.numpy(), equal_var=False)
    np.testing.assert_allclose(found.found.p, welch.pvalue, rtol=1e-9)


def test_what_is_equal_does_not_differ_and_what_always_differs_does():
    lm = model()
    exact = with_gap(vc.exact(lm, pairs(lm), **QUIET), (1.0,) * 5)
    (same,) = (exact | exact).compared
    assert (same.found.value == 0).all() and (same.found.p == 1).all() and not same.differs.any()
    assert (exact | exact).warnings == ("Both were made alike: headers do not differ.",)
    moved = exact.values.clone()
    moved[:, 3] += 1.0  # by the same in every pair
    (found,) = (exact | replace(exact, values=moved)).compared
    assert found.differs.tolist() == [i == 3 for i in range(len(exact))]
    assert found.found.value[3] == pytest.approx(1.0) and found.table()["differs"].sum() == 1
    assert "1 of 12 heads differs significantly (paired over the same 5 pairs" in found.sentences[0]
    assert exact.units.names[3] in found.sentences[1]


def test_signs_of_two_directions_and_magnitudes_are_made_one():
    lm = model()
    task = pairs(lm)
    noised, restored = (with_gap(vc.exact(lm, task, direction=each, **QUIET)) for each in ("noising", "denoising"))
    (found,) = (noised | restored).compared
    assert found.meaning == "importance" and found.supports == 1
    np.testing.assert_allclose(found.values[0], noised.importance().numpy() / noised.gap.mean().numpy())
    np.testing.assert_allclose(found.values[1], restored.importance().numpy() / restored.gap.mean().numpy())
    bare = with_gap(replace(noised, signed=False))
    (found,) = (bare | noised).compared
    assert found.meaning == "magnitude" and found.supports == 0
    np.testing.assert_allclose(found.values[1], noised.values.abs().nanmean(0).numpy() / noised.gap.mean().numpy())
    signs = torch.tensor([1.0, -1, 1, -1, 1])[:, None]  # that differ by pair
    mixed = replace(noised, values=noised.values * signs)
    (found,) = (replace(mixed, values=mixed.values.abs(), signed=False) | mixed).compared
    assert not found.found.value.any() and not found.differs.any()  # every pair has the same magnitude


def test_one_pair_has_no_test():
    lm = model()
    task = pairs(lm)[:1]
    found = vc.exact(lm, task, **QUIET) | vc.attribute(lm, task, **QUIET)
    assert not found.compared[0].differs.any() and found.table()["p"].isna().all()
    assert "one pair tells no difference from chance" in " ".join(found.sentences)


def test_what_differs_in_how_both_were_made_comes_first():
    lm = model()
    task, other = pairs(lm), pairs(lm, other="cabinet")
    exact, atp = vc.exact(lm, task, **QUIET), vc.attribute(lm, task, method="atp", **QUIET)
    assert (exact | atp).mismatches == [("Method", "exact", "atp")]
    elsewhere = vc.exact(lm, other, ablation="zero", **QUIET)
    restored = vc.exact(lm, task, direction="denoising", **QUIET)
    said = {what: (one, two) for what, one, two in (exact | elsewhere).mismatches}
    assert said["Replacements"] == ("counterfactual", "zero") and "Model" not in said
    assert {"Pairs", "Mean gap"} <= set(said)
    assert (exact | restored).mismatches == [("Direction", "noising", "denoising")]
    assert (exact | elsewhere).sentences[0].startswith("Pairs: ") and not (exact | elsewhere).compared[0].paired
    tuned = model(seed=2)
    said = {what for what, *_ in (exact | vc.exact(tuned, pairs(tuned), **QUIET)).mismatches}
    assert "The model’s weights" in said
    again = vc.exact(lm, pairs(lm)[:4], units="mlps", **QUIET)
    with pytest.raises(UnitError, match="about heads and mlps"):
        exact | again


def test_units_that_cannot_be_matched_are_refused():
    lm, gpt = model(), model("gpt2")
    exact, elsewhere = vc.exact(lm, pairs(lm), **QUIET), vc.exact(gpt, pairs(gpt), **QUIET)
    with pytest.raises(UnitError, match=r"other configurations.*--corresponding"):
        exact | elsewhere
    assert vc.studies.beside(exact, elsewhere, corresponding=True).compared[0].names
    few, others = (vc.exact(lm, pairs(lm), units=names, **QUIET) for names in (["a0.h0", "a1.h1"], ["a2.h0"]))
    with pytest.raises(UnitError, match="No unit is in both"):
        few | others
    (found,) = (exact | few).compared
    assert found.names == ["a0.h0", "a1.h1"] and found.alone == (len(exact) - 2, 0)
    with pytest.raises(MethodError, match="has no circuit of edges"):
        vc.select(vc.attribute(lm, pairs(lm), units="edges", method="eap", **QUIET), n=3) | exact
    with pytest.raises(MethodError, match="5 and 4 pairs"):
        vc.studies.beside(exact, vc.exact(lm, pairs(lm)[:4], **QUIET), paired=True)
    mass = replace(exact, settings=exact.settings | {"unit": "probability"})
    with pytest.raises(MethodError, match="logit_diff and of probability"):
        exact | mass
