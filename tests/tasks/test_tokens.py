from types import SimpleNamespace

import pytest
from word_tokenizer import word_tokenizer

from veracausa.errors import AnswerError, PromptError, TaskError
from veracausa.tasks.tokens import continuation, encode, encode_answer, encode_prompt, single, strings, tokenizer_of

TEXT = "The cat sat on the mat"


def test_tokenizer_of():
    tokenizer = word_tokenizer(TEXT.split())
    assert tokenizer_of(SimpleNamespace(tokenizer=tokenizer)) is tokenizer_of(tokenizer) is tokenizer
    with pytest.raises(TaskError, match="tiny has no tokenizer"):
        tokenizer_of(SimpleNamespace(tokenizer=None, name="tiny"))
    with pytest.raises(TaskError, match="but got str"):
        tokenizer_of("gpt2")


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_start_token_is_kept_and_end_token_dropped(start, end):
    tokenizer = word_tokenizer(TEXT.split(), start=start, end=end)
    shown = strings(tokenizer, encode(tokenizer, TEXT))
    assert shown == ["<s>"] * start + ["The", " cat", " sat", " on", " the", " mat"]
    assert strings(tokenizer, encode(tokenizer, " cat", start=False)) == [" cat"]
    prompt = "The cat"
    assert encode_answer(tokenizer, prompt, encode(tokenizer, prompt), " sat", "") == encode(tokenizer, TEXT)[2 + start]


def test_continuation_and_no_boundary():
    tokenizer = word_tokenizer([*TEXT.split(), "cats"])
    assert strings(tokenizer, continuation(tokenizer, "The cat", " sat on")) == [" sat", " on"]
    assert continuation(tokenizer, "The cat", "s") is None
    assert single(tokenizer, " mat") and not single(tokenizer, " dog") and not single(tokenizer, " cat sat")


def test_real_strings(real):
    ids = encode(real, "So Émile paid 1732 € 🙂")
    shown = strings(real, ids)
    assert len(shown) == len(ids) and shown[-1] and " paid" in shown and "3" in shown
    assert "\ufffd" not in "".join(shown)


def test_bad_text():
    tokenizer = word_tokenizer(TEXT.split())
    ids = encode(tokenizer, TEXT)
    for text, message in ((" ", "row 3 is empty"), (7, "row 3: a prompt is text, but this is int: 7")):
        with pytest.raises(PromptError, match=message):
            encode_prompt(tokenizer, text, "row 3")
    for answer, message in (
        (" cat sat", r"the answer ' cat sat' is 2 tokens for this tokenizer: \[' cat', ' sat'\]"),
        (" dog", "not in this tokenizer's vocabulary"),
        ("", "an answer is empty"),
        (None, "an answer is text"),
        (10**6, "1000000 is not a token id"),
        (-1, "-1 is not a token id"),
    ):
        with pytest.raises(AnswerError, match=message):
            encode_answer(tokenizer, TEXT, ids, answer, "row 3")
    assert encode_answer(tokenizer, TEXT, ids, 5, "row 3") == 5
