"""Baselines compared: every row is what `vc.exact` and `vc.attribute` give, and figures are those of `vc.agreement`."""

import numpy as np
import pytest

import veracausa as vc
from veracausa.counterfactuals.comparing_baselines import baselines
from veracausa.effects.optimal_descent import Learning
from veracausa.errors import FileError, MethodError
from veracausa.scores.agreement import agreement_across
from veracausa.scores.estimands import ABLATIONS

SHORT = {"learning": Learning(steps=4, rate=0.1, batch=2), "most": None, "nodes": 3, "top": 4, "show_progress": False}


@pytest.fixture(scope="module")
def found(tiny, task_of):
    return baselines(tiny("llama"), task_of((6, 6, 8, 8), n=8), **SHORT)


def test_rows_are_exact_effects_and_ig(tiny, task_of, found):
    lm, task = tiny("llama"), task_of((6, 6, 8, 8), n=8)
    assert found.ablations == list(ABLATIONS) and len(found.names) == 10
    for ablation in ("counterfactual", "zero", "mean", "resample"):
        theirs = vc.exact(lm, task, ablation=ablation, show_progress=False)
        np.testing.assert_allclose(found.scores["exact", ablation].values, theirs.values)
        baseline = "corrupted" if ablation == "counterfactual" else ablation
        theirs = vc.attribute(lm, task, method="ig", baseline=baseline, nodes=3, show_progress=False)
        np.testing.assert_allclose(found.scores["IG", ablation].values, theirs.values)
    optimal, mean = (float(found.scores["exact", a].values.abs().mean()) for a in ("optimal", "mean"))
    assert optimal != mean


def test_figures(found):
    one, other = found.scores["exact", "zero"], found.scores["exact", "mean"]
    theirs, zero, mean = agreement_across(other, one, "replacements"), ("exact", "zero"), ("exact", "mean")
    assert found.between(zero, mean).r == theirs.r == found.between(mean, zero).r
    r, jaccard = found.correlations("r"), found.correlations("jaccard")
    assert r.loc["exact, mean", "exact, zero"] == theirs.r and jaccard.loc["exact, zero", "exact, mean"] == (
        theirs.jaccard(4)
    )
    assert (np.diag(r) == 1).all() and r.shape == (10, 10)
    overview = found.overview().set_index("ablation")
    assert overview.loc["zero", "r of IG"] == found.between(("IG", "zero"), zero).r
    assert overview.loc["counterfactual", "r with counterfactual"] == 1
    np.testing.assert_allclose(overview.loc["mean", "mean |effect|"], np.abs(other.scaled().numpy()).mean())
    table = found.table()
    assert len(table) == 12 and table["effect: IG, optimal"].notna().all()
    # these tiny models' gaps are not told from 0, so that shares of them have no error
    assert table["stderr: exact, zero"].isna().all() and "not told apart from 0" in found.describe()
    assert any("IG to a baseline against the exact effect" in sentence for sentence in found.sentences)
    with pytest.raises(MethodError, match="by='kendall'"):
        found.correlations("kendall")
    with pytest.raises(MethodError, match="'exact, noise' was not computed"):
        found.between(("exact", "noise"), mean)


def test_what_is_known_is_taken(tiny, task_of, found, tmp_path):
    """Given scores are not computed again, and a folder serves every finished piece."""
    lm, task = tiny("llama"), task_of((6, 6, 8, 8), n=8)
    given = {way: one for way, one in found.scores.items() if way[0] == "exact"}
    again = baselines(lm, task, known=given, out=tmp_path, **SHORT)
    assert all(again.scores[way] is one for way, one in given.items())
    assert again.table().equals(found.table())
    twice = baselines(lm, task, known=given, out=tmp_path, **SHORT)
    assert twice.table().equals(found.table()) and len(list(tmp_path.glob("ig-heads-*"))) == 5


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_cost_is_what_was_planned(tiny, task_of, family):
    lm, task = tiny(family), task_of((6, 6, 8, 8), n=4)
    every = SHORT | {"learning": Learning(steps=2, rate=0.1, batch=2)}
    found = baselines(lm, task, **every)
    constants = vc.effects.optimal_constants(lm, task, learning=every["learning"], most=None, show_progress=False)
    spent = sum(one.cost.token_layers for one in found.scores.values()) + constants.cost.token_layers
    work = baselines.work(lm, task, **every)
    # the floor of optimal constants may spare a unit
    assert work.tokens() == pytest.approx(spent, rel=0.05)
    learned = [way for way in found.ways if way[1] == "optimal"]
    assert work.tokens(given=found.ways) == 0 < work.tokens(given=learned) < work.tokens() - constants.cost.token_layers


def test_saved(found, tmp_path):
    again = vc.open(found.save(tmp_path / "baselines.safetensors"))
    assert again.sentences == found.sentences and again.table().equals(found.table())
    path = tmp_path / "baselines.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="damaged or cut short"):
        vc.open(path)


def test_resampling_needs_donors(tiny, task_of):
    """Where a pair has no other prompt of its length, resampling is left out, and said to be; a reference helps."""
    lm, task = tiny("llama"), task_of((5, 6, 7), n=3)
    few = baselines(lm, task, **SHORT)
    assert few.ablations == ["counterfactual", "zero", "mean", "optimal"]
    assert "Not compared: resample." in few.sentences
    reference = task_of((5, 6, 7), n=9, seed=4)
    some = baselines(lm, task, reference=reference, **SHORT)
    assert some.ablations == list(ABLATIONS)
    theirs = vc.exact(lm, task, ablation="resample", reference=reference, show_progress=False)
    np.testing.assert_allclose(some.scores["exact", "resample"].values, theirs.values)
    with pytest.raises(MethodError, match="needs another prompt of the same length"):
        baselines(lm, task, ablations=("resample",), show_progress=False)


def test_refusals(tiny, task_of):
    lm, task = tiny("llama"), task_of(7, n=3)
    for bad in ((), ("zero", "zero"), ("noise",)):
        with pytest.raises(MethodError, match="choose different ones among counterfactual, zero"):
            baselines(lm, task, ablations=bad)
    with pytest.raises(MethodError, match="top=40"):
        baselines(lm, task, ablations=("zero",), top=40, show_progress=False)
