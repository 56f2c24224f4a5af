from collections import Counter

import pytest
from word_tokenizer import word_tokenizer

from veracausa.errors import TaskError
from veracausa.tasks import ioi
from veracausa.tasks.data.ioi import OBJECTS, PLACES, TEMPLATES
from veracausa.tasks.data.names import FEMALE, MALE


def words_with(names):
    return word_tokenizer(" ".join((*OBJECTS, *PLACES, *TEMPLATES, *names)).split())


def test_data():
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 12
    assert len(set(FEMALE + MALE)) == len(FEMALE + MALE) > 150
    for template in TEMPLATES:
        # the first name is not the first word, so every name has its leading space
        assert not template.startswith("{A}") and template.index("{A}") < template.index("{B}") < template.index("{S}")


def test_swap(real):
    task = ioi(real, n=64)
    assert Counter(info["order"] for info in task.info) == {"ABBA": 32, "BABA": 32}
    assert set(Counter(info["template"] for info in task.info).values()) == {4}
    for i, info in enumerate(task.info):
        indirect, subject = info["indirect_object"], info["subject"]
        assert task.answer_strings(i) == ([f" {indirect}"], [f" {subject}"])
        clean, corrupted = task.tokens(i)
        assert clean.count(f" {subject}") == 2 and clean.count(f" {indirect}") == 1
        assert corrupted.count(f" {subject}") == 1 and corrupted.count(f" {indirect}") == 2
        assert (clean.index(f" {indirect}") < clean.index(f" {subject}")) == (info["order"] == "ABBA")
        differ = [a != b for a, b in zip(clean, corrupted, strict=True)]
        assert sum(differ) == 1, "only the second mention of the subject"


def test_abc(real):
    task, swapped = ioi(real, n=64, corruption="abc"), ioi(real, n=64)
    assert task.clean == swapped.clean and task.correct == swapped.correct
    for i, info in enumerate(task.info):
        clean, corrupted = task.tokens(i)
        assert len({info["indirect_object"], info["subject"], *info["corrupted_names"]}) == 5
        assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 3
        assert [t.strip() for t in corrupted if t.strip() in info["corrupted_names"]] == info["corrupted_names"]
    assert task.digest() != swapped.digest()


def test_every_pair_of_a_small_tokenizer():
    tokenizer = words_with(("Mary", "John", "Anna"))
    task = ioi(tokenizer, n=400)
    couples = Counter((info["indirect_object"], info["subject"]) for info in task.info)
    assert len(couples) == 6 and max(couples.values()) < 110, "all ordered couples, about equally often"


def test_too_few_names():
    tokenizer = words_with(("Mary", "John", "Anna", "James"))
    with pytest.raises(TaskError, match="'abc' needs 5 names that are one token each, but this tokenizer has 4 of the"):
        ioi(tokenizer, n=2, corruption="abc")
    with pytest.raises(TaskError, match=r"needs 2 names .* has 0 of"):
        ioi(words_with(()), n=2)
    with pytest.raises(TaskError, match="no corruption 'zero'; choose one of swap, third, abc, order, words"):
        ioi(tokenizer, n=2, corruption="zero")


@pytest.mark.parametrize(
    ("corruption", "changed"), [("third", {"S"}), ("order", {"A", "B"}), ("words", {"place", "object"})]
)
def test_further_corruptions(real, corruption, changed):
    """The same clean prompts for the same seed, other words in the slots that the kind names, and nowhere else."""
    task, swapped = ioi(real, n=64, corruption=corruption), ioi(real, n=64)
    assert task.clean == swapped.clean and task.correct == swapped.correct
    for i, info in enumerate(task.info):
        clean, corrupted = task.tokens(i)
        names = [info["indirect_object"], info["subject"]]
        names = names if info["order"] == "ABBA" else names[::-1]
        slots = dict(zip("ABS", info["corrupted_names"], strict=True))
        same = {"A": names[0], "B": names[1], "S": info["subject"]}
        differ = {role for role in "ABS" if slots[role] != same[role]}
        assert differ == changed & set("ABS")
        if corruption == "third":
            assert slots["S"] not in names and sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 1
        if corruption == "order":
            assert [slots["A"], slots["B"]] == names[::-1]
        if corruption == "words":
            text = [name for name in clean if name.strip() in names]
            assert text == [name for name in corrupted if name.strip() in names], "names stay where they are"
