import pickle

import pytest

from veracausa.errors import AnswerError, MethodError, PromptError, TaskError
from veracausa.tasks import Task


def make(n=4, **change):
    """n pairs of lengths 3, 4, 5, … that first differ at their last token but one."""
    parts = {
        "name": "t",
        "clean": [(*range(k), 50 + k, 9) for k in range(1, n + 1)],
        "corrupted": [(*range(k), 60 + k, 9) for k in range(1, n + 1)],
        "correct": [(1,)] * n,
        "incorrect": [(2, 3)] * n,
        "info": tuple({"i": k} for k in range(n)),
        "vocabulary": {9: " to", 51: " Mary", 61: " John", 1: " yes", 2: " no", 3: " never"},
    }
    return Task(**(parts | change))


def test_parts():
    task = make()
    assert len(task) == 4 and task.lengths == (3, 4, 5, 6) and task.first_difference == (1, 2, 3, 4)
    assert task.tokens(0) == (["#0", " Mary", " to"], ["#0", " John", " to"])
    assert task.answer_strings(0) == ([" yes"], [" no", " never"])
    assert task.clean_text == ("",) * 4
    assert task.clean[1] == (0, 1, 52, 9) and isinstance(task.clean, tuple)


def test_selection():
    task = make()
    assert task[1].clean == task.clean[1:2] and task[-1].info == ({"i": 3},)
    assert task[1:3].clean == task.clean[1:3]
    assert task[[3, 0, 3]].info == ({"i": 3}, {"i": 0}, {"i": 3})
    assert [len(one) for one in task] == [1, 1, 1, 1]
    assert task[:2].vocabulary == task.vocabulary and task[:2].name == "t"
    with pytest.raises(IndexError, match="4 examples, so there is no example 4"):
        task[4]
    with pytest.raises(TaskError, match="no example of task 't' is selected"):
        task[2:2]


def test_answers():
    task = make(3, correct=[(1,), (1, 4), (1,)], incorrect=[(2, 3), (2,), (5, 6)])
    answers = task.answers([2, 1])
    assert answers.tokens.tolist() == [[1, 5, 6], [1, 4, 2]]
    assert answers.correct.tolist() == [[True, False, False], [True, True, False]]
    assert answers.incorrect.tolist() == [[False, True, True], [False, False, True]]
    assert len(task.answers()) == 3


def test_split_is_a_partition_and_reproducible():
    task = make(10)
    one, two = task.split(0.7, seed=1)
    assert (len(one), len(two)) == (7, 3)
    taken = [info["i"] for info in one.info + two.info]
    assert sorted(taken) == list(range(10)) and taken[:7] == sorted(taken[:7])
    assert [i["i"] for i in task.split(0.7, seed=1)[0].info] == taken[:7]
    assert [i["i"] for i in task.split(0.7, seed=2)[0].info] != taken[:7]
    assert taken[7:] == [3, 4, 9], "the same on every machine and Python"
    for fraction in (0, 1, -0.5):
        with pytest.raises(TaskError, match="between 0 and 1"):
            task.split(fraction)
    with pytest.raises(TaskError, match="one part is empty"):
        make(2).split(0.1)


def test_digest_depends_on_content_and_metric_alone():
    task = make()
    assert task.digest() == make(name="other", vocabulary={}, clean_text=tuple("abcd")).digest()
    assert len(task.digest()) == 64
    others = [task.with_metric("prob"), task[:3], task[[1, 0, 2, 3]], make(correct=[(7,)] * 4)]
    assert len({task.digest(), *(t.digest() for t in others)}) == 5


def test_describe():
    text = make(options={"seed": 3, "corruption": "swap"}).describe()
    assert text == "t: 4 pairs (seed 3, corruption swap) of 3 to 6 tokens, metric logit_diff."
    assert make(1).describe() == "t: 1 pair of 3 tokens, metric logit_diff."


def test_pickles_for_worker_processes():
    task = make()
    assert pickle.loads(pickle.dumps(task)).digest() == task.digest()


def test_bad_prompts():
    with pytest.raises(
        PromptError, match="pair 0 of task 't': the clean prompt is 3 tokens and the corrupted one 2"
    ) as e:
        make(1, corrupted=[(0, 61)])
    assert "clean:     ['#0', ' Mary', ' to']" in str(e.value) and "corrupted: ['#0', ' John']" in str(e.value)
    with pytest.raises(PromptError, match="are the same tokens"):
        make(1, corrupted=[(0, 51, 9)])
    with pytest.raises(PromptError, match="the clean prompt has no tokens"):
        make(1, clean=[()])


def test_bad_answers():
    with pytest.raises(AnswerError, match="has no correct answer"):
        make(1, correct=[()])
    with pytest.raises(AnswerError, match=r"\[' no'\] are both correct and incorrect"):
        make(1, correct=[(1, 2)])
    with pytest.raises(AnswerError, match="given twice"):
        make(1, correct=[(1, 1)])
    for name in ("logit_diff", "logit_diff_lse", "prob_diff"):
        with pytest.raises(AnswerError, match=f"'{name}' compares correct with incorrect answers"):
            make(1, incorrect=[()], metric=name)
        with pytest.raises(AnswerError):
            make(1, incorrect=(), metric=name)
    assert make(1, incorrect=(), metric="logprob").incorrect == ((),)


def test_bad_sets():
    with pytest.raises(TaskError, match="task 't' has no examples"):
        make(0)
    with pytest.raises(TaskError, match="2 clean prompts but 1 of 'correct'"):
        make(2, correct=[(1,)])
    with pytest.raises(MethodError, match="there is no metric 'accuracy'"):
        make(1, metric="accuracy")
    with pytest.raises(MethodError):
        make(1).with_metric("accuracy")
