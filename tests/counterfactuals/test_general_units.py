"""General-purpose units: the region and its tests on made-up effects, and the calls behind them on tiny models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import veracausa as vc
from veracausa.counterfactuals.finding_general import general_purpose
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.errors import FileError, MethodError


@pytest.fixture(scope="module")
def base(tiny, task_of):
    return {
        kind: vc.exact(tiny("llama"), task_of(7, n=16), ablation=kind, show_progress=False)
        for kind in ("counterfactual", "mean")
    }


def made_up(scores, means, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    values = noise * torch.randn(scores.values.shape, generator=generator, dtype=torch.float64)
    values[:, : len(means)] += torch.tensor(means, dtype=torch.float64)
    return replace(scores, values=values, clean=torch.ones(scores.n), corrupted=torch.zeros(scores.n))


def test_region(base):
    """0: large by ablation, nothing by counterfactual: found. 1: large by both. 2: small by both. 3: in the region, but
    so noisy that its counterfactual effect could be large: a candidate, not found. 4: found with the other sign."""
    by_ablation = made_up(base["mean"], [-0.30, -0.30, -0.01, -0.30, 0.20], 0.01, 1)
    by_counterfactual = made_up(base["counterfactual"], [0.0, -0.3, 0.0, 0.0, 0.0], 0.005, 2)
    by_counterfactual.values[:, 3] = torch.tensor([-0.2, 0.2] * 8)
    found = GeneralPurpose(by_counterfactual, by_ablation, None, 0.05, 0.02)
    names = base["mean"].units.names
    assert found.found == [names[0], names[4]]
    assert set(found.candidates) == {names[0], names[3], names[4]}
    one, other = found.shares
    p = [
        max(
            min(1, 2 * stats.ttest_1samp(np.sign(other[:, u].mean()) * other[:, u], 0.02,
                                         alternative="greater").pvalue),  # either sign: twice
            stats.ttest_1samp(one[:, u], -0.02, alternative="greater").pvalue,
            stats.ttest_1samp(one[:, u], 0.02, alternative="less").pvalue,
        )
        for u in range(len(names))
    ]  # fmt: skip
    ranks = stats.rankdata(p, method="max")
    steps = np.array(p) * len(p) / ranks  # Benjamini–Hochberg: p · m / rank, never more than that of a larger p
    np.testing.assert_allclose(found.p, [min(1, steps[np.array(p) >= one].min()) for one in p], rtol=1e-9)
    assert found.sentences[0].startswith("2 of 12 heads are of general purpose")
    assert f"{names[0]}: mean ablation changes the metric by −0.30" in found.sentences[1]


def test_units_without_effect_are_listed_as_seldom_as_is_said(base):
    """No unit does anything, and noise is far above `small`: the false discovery rate is how many lists have a unit."""
    lists = [
        GeneralPurpose(made_up(base["counterfactual"], [], 0.0005, seed), made_up(base["mean"], [], 2.0, 1000 + seed),
                       None, 0.05, 0.02).found
        for seed in range(400)
    ]  # fmt: skip
    assert np.mean([len(found) > 0 for found in lists]) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5  # one-sided it was .09


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_on_a_model(tiny, task_of, tmp_path, family):
    """Both effects are `vc.exact`'s; candidates are followed into the corrupted run, as a swapped task would be."""
    lm, task = tiny(family), task_of((6, 6, 8), n=6)
    theirs = {kind: vc.exact(lm, task, ablation=kind, show_progress=False) for kind in ("counterfactual", "mean")}
    one, other = (scores.scaled().abs() for scores in theirs.values())
    u = int((other / one).argmax())  # a region that holds at least this unit
    options = {"large": 0.99 * float(other[u]), "small": 1.01 * float(one[u]), "show_progress": False}
    found = general_purpose(lm, task, out=tmp_path / "pieces", **options)
    table = found.table().set_index("name").loc[theirs["mean"].units.names]
    for kind, scores in theirs.items():
        np.testing.assert_allclose(table[f"effect: {kind}"], scores.mean() / scores.gap.mean(), atol=1e-12)
    assert theirs["mean"].units.names[u] in found.candidates
    swapped = vc.Task("t", task.corrupted, task.clean, task.correct, task.incorrect)
    after = vc.exact(lm, swapped, units=found.candidates, ablation="mean", show_progress=False)
    for u, name in enumerate(found.candidates):
        expected = float(after.mean()[u] / theirs["mean"].gap.mean())
        assert found.followed(name)[0] == pytest.approx(expected, rel=1e-9)
    spent = sum(one.cost.token_layers for one in (found.counterfactual, found.ablated))
    assert general_purpose.work(lm, task).tokens() == pytest.approx(spent, rel=1e-9)
    given = general_purpose(lm, task, known={"counterfactual": found.counterfactual, "mean": found.ablated}, **options)
    assert given.counterfactual is found.counterfactual and given.table().equals(found.table())
    again = vc.open(found.save(tmp_path / "general.safetensors"))
    assert again.sentences == found.sentences and again.table().equals(found.table())


def test_one_pair_and_refusals(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(7)
    found = general_purpose(lm, task, show_progress=False)
    assert found.found == [] and "one pair, so nothing is tested" in found.sentences[0]
    for bad in ({"small": 0.0}, {"small": 0.2, "large": 0.1}, {"ablation": "optimal"}):
        with pytest.raises(MethodError, match="0 < small ≤ large"):
            general_purpose(lm, task, show_progress=False, **bad)
    with pytest.raises(MethodError, match="whole units"):
        general_purpose(lm, task, units="heads@positions", show_progress=False)
    path = found.save(tmp_path / "general.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="damaged or cut short"):
        vc.open(path)
