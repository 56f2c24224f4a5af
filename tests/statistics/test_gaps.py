"""What is told of a gap: pairs whose own gap is exactly 0, as where their prompts differ behind where they are read."""

import math

import pytest
import tiny_models
import torch
from bridges import as_model
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import GapError
from veracausa.statistics.gaps import cautions

QUIET = {"show_progress": False}
TEXTS = {
    "clean": ["After the keys near the cabinet", "the keys near the store went"],
    "corrupted": ["After the key near the cabinet", "the keys near the store gave"],
}


@pytest.fixture
def setting():
    """A model, and pairs that are read one token before their end: in the second pair only the last one differs."""
    words = " ".join([*TEXTS["clean"], *TEXTS["corrupted"], "are is"]).split()
    lm = as_model(tiny_models.make("llama", seed=1), tokenizer=word_tokenizer(words))
    return lm, vc.task(lm, **TEXTS, correct=[" are"] * 2, incorrect=[" is"] * 2, read=-2)


def test_pairs_without_a_gap_are_counted():
    clean, corrupted = torch.tensor([2.0, 1.0, 3.0]), torch.tensor([1.0, 1.0, 3.0])
    said = [one for one in cautions(clean, corrupted, compares=True) if "exactly 0" in one]
    assert len(said) == 1 and "of 2 of 3 pairs" in said[0]
    assert not any("exactly" in one for one in cautions(clean, corrupted - 0.5, compares=True))


def test_scores_say_so(setting):
    lm, task = setting
    assert lm.measure(task).gap[1] == 0 and lm.measure(task).gap[0] != 0
    for scores in (vc.exact(lm, task, **QUIET), vc.attribute(lm, task, **QUIET)):
        assert any("of 1 of 2 pairs is exactly 0" in one for one in scores.cautions)
        assert "is exactly 0" in repr(scores) and scores.values[1].abs().max() < 1e-9


@pytest.mark.parametrize("ablation", ["counterfactual", "mean"])
def test_shares_of_no_gap_are_not_defined(setting, ablation):
    """Means are over the pair that has a gap; the mean KL and f are over both."""
    lm, task = setting
    scores = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
    found = vc.faithfulness(lm, task, vc.select(scores, n=30), ablation=ablation, **QUIET)
    if ablation == "mean":  # whose scale begins elsewhere, where every pair has a gap
        assert found.per_example.isfinite().all() and not any("exactly 0" in one for one in found.cautions)
        return
    first = vc.faithfulness(lm, task[[0]], vc.select(scores, n=30), ablation=ablation, **QUIET)
    assert found.per_example.isnan().tolist() == [False, True] and found.ndf.isnan().tolist() == [False, True]
    assert float(found.per_example[0]) == pytest.approx(first.f, abs=1e-9)
    assert f"NDF {float(first.ndf[0]):.3f}" in repr(found) and "nan" not in repr(found) and "inf" not in repr(found)
    assert any("is exactly 0" in one for one in found.sentences)
    curve = vc.curve(lm, task, scores, sizes=(0.1, 1.0), **QUIET)
    assert curve.table()["NDF"].notna().all() and math.isfinite(curve.cpr) and "is exactly 0" in repr(curve)


def test_differences_that_are_never_read(setting):
    lm, task = setting
    for call in (
        lambda: vc.exact(lm, task[[1]], **QUIET),
        lambda: vc.attribute(lm, task[[1]], **QUIET),
        lambda: vc.curve(lm, task[[1]], vc.attribute(lm, task, units="edges", method="eap", **QUIET), **QUIET),
    ):
        with pytest.raises(GapError, match=r"differ only behind where the metric is read.*from token 5 on, read at 4"):
            call()
    zero = vc.exact(lm, task[[1]], ablation="zero", **QUIET)
    assert any("of 1 of 1 pair is exactly 0" in one for one in zero.cautions) and not zero.has_shares
    with pytest.raises(GapError, match="no share of it"):
        zero.normalised()
    values = vc.effects.shapley(lm, task[[1]], units=["a0.h0"], ablation="zero", **QUIET)
    assert "nan" not in repr(values).lower().replace("     nan", "") and "sum     completeness" in repr(values)
    path = vc.attribute(lm, task[[1]], method="ig", baseline="zero", nodes=2, **QUIET)
    assert "inf" not in repr(path) and any("|effect of a site|" in note for note in path.notes)
    at_the_end = vc.task(lm, **TEXTS, correct=[" are"] * 2, incorrect=[" is"] * 2)
    assert lm.measure(at_the_end).gap.all()
