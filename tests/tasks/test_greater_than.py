import pytest
from word_tokenizer import digit_pair_tokenizer, word_tokenizer

from veracausa.errors import TaskError
from veracausa.tasks import greater_than
from veracausa.tasks.data.greater_than import NOUNS, TEMPLATES


def test_next_digits(real):
    task = greater_than(real, n=100)
    assert task.options["compares"] == "next digits"
    for i, info in enumerate(task.info):
        tens = int(info["year"][0])
        later, earlier = ([int(t) for t in side] for side in task.answer_strings(i))
        assert later == list(range(tens + 1, 10)) and earlier == list(range(tens)), "the equal digit is on neither side"
        assert task.clean_text[i].endswith(info["century"]) and f"{info['century']}{info['year']}" in task.clean_text[i]
        assert f"{info['century']}01" in task.corrupted_text[i]
        assert set(task.tokens(i)[0][task.first_difference[i] :][:1]) == {info["year"][0]}
    assert len({info["noun"] for info in task.info}) > 20


def test_two_digit_years():
    tokenizer = digit_pair_tokenizer()
    task = greater_than(tokenizer, n=80)
    assert task.options["compares"] == "two-digit years"
    for i, info in enumerate(task.info):
        year = int(info["year"])
        later, earlier = ([int(t) for t in side] for side in task.answer_strings(i))
        assert later == list(range(year + 1, 100)) and earlier == list(range(year + 1))
        clean, corrupted = task.tokens(i)
        at = task.first_difference[i]
        assert clean[at - 1] == clean[-1] == f" {info['century']}"
        assert (clean[at], corrupted[at]) == (info["year"], "01")


def test_years_as_words():
    years = [f"{c}{y:02d}" for c in (17, 18) for y in range(100)]
    tokenizer = word_tokenizer(" ".join((*NOUNS, *TEMPLATES, *years, "17", "18")).split())
    with pytest.raises(TaskError, match=r"split into 17\|32 or into single digits.* makes \[' 1732'\] of ' 1732'"):
        greater_than(tokenizer, n=4)


def test_another_year():
    tokenizer = digit_pair_tokenizer()
    task, plain = greater_than(tokenizer, n=80, corruption="year"), greater_than(tokenizer, n=80)
    assert task.clean == plain.clean and task.correct == plain.correct and task.corrupted != plain.corrupted
    for i, info in enumerate(task.info):
        at = task.first_difference[i]
        clean, corrupted = task.tokens(i)
        assert clean[at] == info["year"] != corrupted[at] and len(corrupted[at]) == 2
    with pytest.raises(TaskError, match="no corruption 'abc'; choose one of 01, year"):
        greater_than(tokenizer, n=2, corruption="abc")
