import pytest

from veracausa import errors
from veracausa.tasks import published_pair, task


def make(words, **change):
    parts = {
        "clean": ["The key to the cabinet", "After Mary and John went to the store , Mary gave milk to"],
        "corrupted": ["The keys to the cabinet", "After Mary and John went to the store , John gave milk to"],
        "correct": [" is", " John"],
        "incorrect": [" are", [" Mary", " Anna"]],
    }
    return task(words, **(parts | change))


def test_own_pairs(words):
    got = make(words, name="mine")
    assert got.name == "mine" and got.metric == "logit_diff" and got.lengths == (5, 13)
    assert got.answer_strings(1) == ([" John"], [" Mary", " Anna"])
    assert got.tokens(0)[1] == ["The", " keys", " to", " the", " cabinet"]
    assert got.first_difference == (1, 9)
    bare = make(words.tokenizer)
    assert bare.name == "custom" and bare.digest() == got.digest()


def test_one_pair_as_strings_and_token_ids(words):
    parts = {"clean": "The key", "corrupted": "The keys"}
    one = task(words, **parts, correct=" is", incorrect=" are")
    assert len(one) == 1
    ids = words.tokenizer.convert_tokens_to_ids(["Ġis", "Ġare"])
    assert task(words, **parts, correct=[ids[0]], incorrect=[[ids[1]]]).digest() == one.digest()
    assert task(words, **parts, correct=" is", metric="prob").incorrect == ((),)


def test_published_pair(real):
    pair = published_pair(real)
    assert pair.name == "ioi-published" and len(pair) == 1 and pair.metric == "logit_diff"
    assert pair.answer_strings(0) == ([" John"], [" Mary"])
    assert pair.clean_text[0] == "After John and Mary went to the store, Mary gave a bottle of milk to"
    assert pair.corrupted_text[0] == "After John and Mary went to the store, John gave a bottle of milk to"
    start = len(pair.clean[0]) - 16
    assert pair.first_difference == (9 + start,) and start == (pair.tokens(0)[0][0] == "<bos>")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"clean": ["The key to the cabinet", "Mary gave"]},
            errors.PromptError,
            r"pair 1 of task 'custom': the clean prompt is 2 tokens and the corrupted one 13(.|\n)*\['Mary', ' gave'\]",
        ),
        ({"clean": ["The keys to the cabinet", "x"]}, errors.PromptError, "pair 0 .* are the same: 'The keys to the"),
        ({"clean": ["", "x"]}, errors.PromptError, "pair 0 of task 'custom', clean prompt is empty"),
        ({"clean": [3, "x"]}, errors.PromptError, "a prompt is text, but this is int"),
        ({"corrupted": ["x"]}, errors.TaskError, "2 clean prompts but 1 entries of 'corrupted'"),
        (
            {"correct": [" is are", " John"]},
            errors.AnswerError,
            r"pair 0 .*, correct: .* is 2 tokens .* \[' is', ' are'\]",
        ),
        ({"correct": [" is", " Zoe"]}, errors.AnswerError, "pair 1 .* ' Zoe' is not in this tokenizer's vocabulary"),
        ({"correct": [[], " John"]}, errors.AnswerError, "pair 0 .* has no correct answer"),
        ({"correct": [" is", " Anna"]}, errors.AnswerError, r"pair 1 .* \[' Anna'\] are both correct and incorrect"),
        ({"incorrect": None}, errors.AnswerError, "'logit_diff' compares correct with incorrect answers"),
        ({"metric": "accuracy"}, errors.MethodError, "the metrics are logit_diff"),
        ({"clean": [], "corrupted": [], "correct": [], "incorrect": []}, errors.TaskError, "has no examples"),
    ],
)
def test_bad_input(words, change, error, message):
    with pytest.raises(error, match=message):
        make(words, **change)


def test_real_bad_input(real):
    parts = {"correct": " Paris", "incorrect": " Rome", "corrupted": "The capital of Italy is"}
    with pytest.raises(errors.PromptError, match=r"\d tokens and the corrupted one [56], so") as caught:
        task(real, clean="The capital of Antigua and Barbuda is", **parts)
    assert "' Italy', ' is']" in str(caught.value), "both token lists are shown"
    with pytest.raises(errors.AnswerError, match=r"' Vaduz Castle' is \d tokens for this tokenizer: \["):
        task(real, clean="The capital of France is", **(parts | {"correct": " Vaduz Castle"}))


def test_half_of_a_character_is_no_text(words):
    with pytest.raises(errors.PromptError, match=r"clean prompt holds half of a character, '\\ud83d'"):
        make(words, clean=["The key \ud83d", "x"])
    for metric in ("logit_diff", "logprob"):
        with pytest.raises(errors.AnswerError, match="an answer holds half of a character"):
            make(words, correct=[" is\udc00", " John"], metric=metric)
