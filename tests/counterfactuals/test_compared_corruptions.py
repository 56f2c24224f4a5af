"""Corruptions compared: figures against their definitions, on made-up scores and on tiny models."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from scipy import stats

import veracausa as vc
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.comparing_corruptions import corruptions
from veracausa.errors import FileError, MethodError, TaskError
from veracausa.statistics.means import differs, exceeds, within
from veracausa.tasks.task import Task


def other_corruption(task: Task, seed: int = 7) -> Task:
    """The same clean prompts with another last token in the corrupted ones."""
    corrupted = tuple((*ids[:-1], (ids[-1] + seed) % tiny_models.VOCAB) for ids in task.clean)
    return replace(task, corrupted=corrupted, corrupted_text=())


@pytest.fixture(scope="module")
def base(tiny, task_of):
    return vc.exact(tiny("llama"), task_of(7, n=12), show_progress=False)


def made_up(base, means, noise=0.05, seed=0):
    """Scores with these mean effects (of a gap of 1) and noise over examples; units beyond the list have none."""
    generator = torch.Generator().manual_seed(seed)
    values = noise * torch.randn(base.values.shape, generator=generator, dtype=torch.float64)
    values[:, : len(means)] += torch.tensor(means, dtype=torch.float64)
    return replace(base, values=values, clean=torch.ones(base.n), corrupted=torch.zeros(base.n))


def test_shown_and_hidden(base):
    """Unit 0 only under a, 1 only under b, 2 under both, 3 weaker under b but more than a third: not hidden."""
    found = CounterfactualComparison(
        {"a": made_up(base, [-0.8, 0, 0.7, -0.9]), "b": made_up(base, [0.0, 0.5, 0.7, -0.5], seed=1)}, top=3
    )
    names = base.units.names
    assert found.shown("a", "b") == [names[0]] and found.shown("b", "a") == [names[1]]
    assert found.contrasts() == {names[0]: ("a", ["b"]), names[1]: ("b", ["a"])}
    assert found.strongest("a") == [names[3], names[0], names[2]]
    assert found.correlations("jaccard").loc["a", "b"] == pytest.approx(2 / 4)
    spearman = stats.spearmanr(np.abs(found.mean("a")), np.abs(found.mean("b")))[0]
    assert found.correlations().loc["a", "b"] == pytest.approx(spearman)
    assert found.correlations("r").loc["a", "b"] == pytest.approx(np.corrcoef(found.mean("a"), found.mean("b"))[0, 1])
    ranks = np.stack([stats.rankdata(-np.abs(found.mean(name))) for name in "ab"])[:, :4]
    moved = dict(zip(names, ranks.max(0) / ranks.min(0), strict=False))
    assert found.movers(9) == sorted((u for u in names[:4] if moved[u] > 1), key=lambda u: -moved[u])
    assert any(f"{names[0]}: shown by a −0.8" in sentence for sentence in found.sentences)


def test_noise_shows_and_moves_nothing(base):
    """No unit has an effect under either corruption: what is said of any unit is wrong, in 5% of draws at the most.

    Of 300 draws 15 are expected at that, and over 25 with probability under .005; 32 of these had movers when each of
    three corruptions was tested at 5% of its own.
    """
    shown = moved = 0
    for seed in range(300):
        found = CounterfactualComparison(
            {name: made_up(base, [], seed=1000 * i + seed) for i, name in enumerate("abc")}, top=3, least=0
        )
        shown += bool(found.contrasts())
        moved += bool(found.movers())
    assert shown <= 25 and moved <= 25


def test_tests_are_those_of_scipy():
    values = np.random.default_rng(0).normal(0.3, 1, (15, 4))
    np.testing.assert_allclose(differs(values), stats.ttest_1samp(values, 0).pvalue)
    np.testing.assert_allclose(exceeds(values, 0.1), stats.ttest_1samp(values, 0.1, alternative="greater").pvalue)
    both = [stats.ttest_1samp(values, b, alternative=a).pvalue for b, a in ((-0.9, "greater"), (0.9, "less"))]
    np.testing.assert_allclose(within(values, 0.9), np.max(both, axis=0))
    same = np.full((3, 2), 0.5)
    assert exceeds(same, 0.4).tolist() == [0, 0] and exceeds(same, 0.6).tolist() == [1, 1]
    assert np.isnan(differs(values[:1])).all()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_on_a_model(tiny, task_of, tmp_path, family):
    lm, task = tiny(family), task_of((6, 8), n=6)
    tasks = {"first": task, "second": other_corruption(task)}
    found = corruptions(lm, tasks, top=4, out=tmp_path / "pieces", show_progress=False)
    scale = max(abs(float(vc.exact(lm, t, show_progress=False).gap.mean())) for t in tasks.values())
    for name, one in tasks.items():
        theirs = vc.exact(lm, one, show_progress=False).mean().numpy() / scale
        np.testing.assert_allclose(np.abs(found.mean(name)), np.abs(theirs), atol=1e-12)
    table = found.table()
    assert len(table) == lm.layers * lm.heads and {"effect: first", "stderr: second", "rank: first"} <= set(table)
    again = vc.open(found.save(tmp_path / "found.safetensors"))
    assert again.sentences == found.sentences and again.table().equals(table)
    spent = sum(one.cost.token_layers for one in found.scores.values())
    assert corruptions.work(lm, tasks).tokens() == pytest.approx(spent, rel=0.01)
    given = corruptions(lm, tasks, top=4, known={"first": found.scores["first"]}, show_progress=False)
    assert given.scores["first"] is found.scores["first"] and given.table().equals(table)
    assert corruptions.work(lm, tasks).tokens(given=("first",)) < corruptions.work(lm, tasks).tokens()
    resumed = corruptions(lm, tasks, top=4, out=tmp_path / "pieces", show_progress=False)
    assert resumed.table().equals(table)


def test_one_example(tiny, task_of):
    lm, task = tiny("llama"), task_of(7)
    found = corruptions(lm, {"a": task, "b": other_corruption(task)}, top=4, show_progress=False)
    assert found.shown("a", "b") == [] and found.movers() == []
    assert any("With one prompt there is no standard error" in sentence for sentence in found.sentences)


def test_refusals(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(7, n=3)
    with pytest.raises(TaskError, match="nothing to compare"):
        corruptions(lm, {"a": task})
    with pytest.raises(TaskError, match="'a' and 'b' differ in clean"):
        corruptions(lm, {"a": task, "b": task_of(7, n=3, seed=5)})
    both = {"a": task, "b": other_corruption(task)}
    with pytest.raises(MethodError, match="top=99"):
        corruptions(lm, both, top=99, show_progress=False)
    found = corruptions(lm, both, top=3, show_progress=False)
    with pytest.raises(MethodError, match="name two different corruptions among a, b"):
        found.shown("a", "a")
    with pytest.raises(MethodError, match="by='kendall'"):
        found.correlations("kendall")
    path = found.save(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="damaged or cut short"):
        vc.open(path)
