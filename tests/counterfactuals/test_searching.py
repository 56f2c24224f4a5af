"""Pools and the search over them: what pairs are made, which is found, and what is said of held-out prompts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.counterfactuals.searches import Search
from veracausa.counterfactuals.searching import search
from veracausa.errors import FileError, MethodError, TaskError, UnitError
from veracausa.tasks.data.ioi import OBJECTS, PLACES, TEMPLATES
from veracausa.tasks.data.names import FEMALE, MALE
from veracausa.tasks.pool import merged, pool
from veracausa.tasks.registry import CORRUPTIONS


@pytest.fixture(scope="module")
def words():
    """A word tokenizer that knows the IOI task's words and a few names, in a model's place."""
    text = " ".join((*OBJECTS, *PLACES, *TEMPLATES, *FEMALE[:8], *MALE[:8])).split()
    return SimpleNamespace(name="words", tokenizer=word_tokenizer(text))


def test_pool_of_corruptions_and_edits(words):
    task = vc.tasks.ioi(words, n=6)
    made = pool(words, task, edits=("names", "places"), most=2)
    for i in range(6):
        own = [k for k, info in enumerate(made.info) if info["pair"] == i]
        assert {made.clean[k] for k in own} == {task.clean[i]} and len({made.corrupted[k] for k in own}) == len(own)
        assert [made.corrupted[k] for k in own if made.info[k]["own"]] == [task.corrupted[i]]
        hows = [made.info[k]["how"] for k in own]
        assert set(CORRUPTIONS["ioi"]) <= set(hows)
        assert [hows.count(f"names {k} → new") for k in (1, 2)] == [2, 2]
        assert hows.count("names 3 → new") in (1, 2), "one of them may be the pair that 'third' has made already"
        assert hows.count("places 1 → new") in (0, 2), "one template's place stands there, or none"
    for k, info in enumerate(made.info):
        changed = [(a, b) for a, b in zip(*made.tokens(k), strict=True) if a != b]
        if "→" in info["how"]:
            ((_, new),) = changed
            assert new.strip() in made.corrupted_text[k]
            present = set(made.tokens(k)[0])
            assert (new in present) is ("new" not in info["how"])
        assert made.correct[k] == task.correct[info["pair"]]


def test_edits_of_ones_own(words):
    task = vc.tasks.ioi(words, n=2)
    other = next(name for name in FEMALE[:8] if name not in (task.info[0]["subject"], task.info[0]["indirect_object"]))
    names = [task.info[0]["subject"], other]
    made = pool(words, task, corruptions=(), edits={"who": names})
    own = [info["how"] for info in made.info if info["pair"] == 0]
    assert own == ["swap", "who 1 → new", "who 2 → new"], "the subject stands twice, the other name nowhere"
    at = task.clean[0].index(next(t for t, s in task.vocabulary.items() if s == f" {names[0]}"))
    few = pool(words, task, corruptions=(), edits={"who": names}, positions=[at])
    assert [info["how"] for info in few.info if info["pair"] == 0] == ["swap", "who 1 → new"]


def test_pools_that_cannot_be(words):
    task = vc.tasks.ioi(words, n=6)
    with pytest.raises(TaskError, match="no corruption 'noise'; it has swap, third, abc, order, words"):
        pool(words, task, corruptions=("noise",))
    with pytest.raises(TaskError, match="A task that was cut or joined cannot be built again"):
        pool(words, task[2:], corruptions=("abc",))
    with pytest.raises(TaskError, match="known are names, places"):
        pool(words, task, edits=("verbs",))
    with pytest.raises(TaskError, match="'one' has 1 words that are one token"):
        pool(words, task, edits={"one": ["Mary"]})


def pool_of(task, kinds=3):
    """A pool by hand for tiny models: kind k adds k to the last token; kind 1 is the task's own."""
    columns = {"clean": [], "corrupted": [], "correct": [], "incorrect": [], "info": []}
    for i, ids in enumerate(task.clean):
        for k in range(1, kinds + 1):
            columns["clean"].append(ids)
            columns["corrupted"].append((*ids[:-1], (ids[-1] + k) % 60))
            columns["correct"].append(task.correct[i])
            columns["incorrect"].append(task.incorrect[i])
            columns["info"].append({"pair": i, "how": f"plus {k}", "own": k == 1})
    return vc.Task("by hand", metric=task.metric, **{name: tuple(values) for name, values in columns.items()})


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_best_pair_is_the_largest(tiny, task_of, tmp_path, family):
    lm, pool = tiny(family), pool_of(task_of(7, n=6))
    found = search(lm, pool, units=["a1.h2"], out=tmp_path / "pieces", show_progress=False)
    every = vc.exact(lm, pool, units=[f"a1.h{h}" for h in range(4)], show_progress=False).values.numpy()
    searched = np.flatnonzero(found.searched)
    assert len(searched) == 9 and {pool.info[i]["pair"] for i in searched}.isdisjoint(
        {pool.info[i]["pair"] for i in np.flatnonzero(~found.searched)}
    )
    np.testing.assert_allclose(found.effect("a1.h2"), every[:, 2])
    margin = np.abs(every[:, 2]) - np.abs(every[:, [0, 1, 3]]).max(1)
    assert found.best("a1.h2") == searched[np.abs(every[searched, 2]).argmax()]
    assert found.best("a1.h2", "stands out") == searched[margin[searched].argmax()]
    assert search.work(lm, pool, units=["a1.h2"]).tokens() == pytest.approx(found.scores.cost.token_layers)
    again = vc.open(found.save(tmp_path / "search.safetensors"))
    assert again.sentences == found.sentences and again.table().equals(found.table())
    assert again.pool.digest() == found.pool.digest()
    alone = search(lm, pool, units=["m1"], show_progress=False)
    assert alone.by == ("effect",) and len(alone.table()) == 1
    with pytest.raises(MethodError, match="m1 is alone in its site"):
        alone.margin("m1")


def test_the_check_is_a_paired_test_on_other_words(tiny, task_of):
    """By hand: kind 3 is made largest, two of four held-out prompts share its words and must not count."""
    task = task_of(7, n=8)
    words = [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16)] * 2  # last token and what it becomes
    task = replace(task, clean=tuple((*ids[:-1], own[0]) for ids, own in zip(task.clean, words, strict=True)))
    pool = pool_of(task)
    lm = tiny("llama")
    scores = vc.exact(lm, pool, units=[f"a1.h{h}" for h in range(4)], show_progress=False)
    values = 0.01 * torch.randn(scores.values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[2::3, 0] -= 1.0
    values[2, 0] -= 1.0  # prompt 0's is the largest
    searched = np.repeat(np.arange(8) < 4, 3)
    found = Search(replace(scores, values=values), pool, ("a1.h0",), searched)
    assert found.best("a1.h0") == 2 and pool.info[2]["how"] == "plus 3"
    check = found.check("a1.h0")
    prompts = [5, 6, 7]  # prompt 4 ends with the same words as prompt 0
    kind = values[[3 * p + 2 for p in prompts], 0].abs().numpy()
    own = values[[3 * p for p in prompts], 0].abs().numpy()
    assert check.n == 3 and check.difference[0] == pytest.approx((kind - own).mean())
    assert check.difference[1] == pytest.approx(stats.sem(kind - own))
    assert check.p == pytest.approx(stats.ttest_rel(kind, own, alternative="greater").pvalue)
    assert found.default("a1.h0", 2) == float(values[0, 0])
    kinds = found.kinds("a1.h0")
    assert kinds["how"][0] == "plus 3" and kinds["n"].tolist() == [8, 8, 8]
    np.testing.assert_allclose(kinds["|effect|"][0], values[2::3, 0].abs().mean())
    assert "On 3 held-out prompts with other words its |effect| by that kind is" in found.sentences[0]


def test_another_pool_to_check_on(tiny, task_of):
    lm = tiny("llama")
    one, other = pool_of(task_of(7, n=2)), pool_of(task_of(7, n=3, seed=9))
    found = search(lm, one, units=["a0.h1"], held_out=other, show_progress=False)
    assert found.searched.sum() == 6 and len(found.pool) == 15
    assert [info["pair"] for info in merged(one, other).info] == sorted([*range(5)] * 3)
    single = search(lm, pool_of(task_of(7)), units=["a0.h1"], show_progress=False)
    assert single.check("a0.h1").n == 0 and "No held-out prompt has such a pair" in single.sentences[0]


def test_refusals(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(7, n=3)
    with pytest.raises(TaskError, match="is no pool of counterfactuals"):
        search(lm, task, units=["a0.h1"])
    with pytest.raises(UnitError, match="no edges and no single positions"):
        search(lm, pool_of(task), units=["a0.h1@2"])
    path = search(lm, pool_of(task), units=["a0.h1"], show_progress=False).save(tmp_path / "x.st")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="damaged or cut short"):
        vc.open(path)


@pytest.mark.slow
def test_smollm2_finds_what_the_swap_hides(smollm2):
    """a16.h0 has no effect when the repeated name changes; the search finds a pair where it has one, and the same kind
    of pair shows it on held-out prompts with other names, beyond chance."""
    made = pool(smollm2, vc.tasks.ioi(smollm2, n=8, seed=1), most=1)
    found = search(smollm2, made, units=["a16.h0"], show_progress=False)
    best = found.best("a16.h0")
    assert abs(found.effect("a16.h0")[best]) > 10 * abs(found.default("a16.h0", best))
    check = found.check("a16.h0")
    assert check.n >= 3 and check.difference[0] > 2 * check.difference[1] and check.p < 0.05
