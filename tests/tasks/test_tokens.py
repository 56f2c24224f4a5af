import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import processors
from word_tokenizer import digit_pair_tokenizer, word_tokenizer

from veracausa.errors import AnswerError, PromptError, TaskError
from veracausa.tasks.tokens import (
    continuation,
    encode,
    encode_answer,
    encode_prompt,
    single,
    string,
    strings,
    tokenizer_of,
)

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


@pytest.mark.parametrize("end", [False, True])
def test_a_start_token_in_the_text_is_not_doubled(end):
    tokenizer = word_tokenizer(TEXT.split(), start=True, end=end)
    plain = encode(tokenizer, TEXT)
    assert encode(tokenizer, f"<s>{TEXT}") == plain and encode_prompt(tokenizer, f"<s>{TEXT}", "") == plain
    assert encode_answer(tokenizer, "<s>The cat", plain[:3], " sat", "") == plain[3]
    inside = encode(tokenizer, "The<s> cat")
    assert strings(tokenizer, inside) == ["<s>", "The", "<s>", " cat"], "in the middle it marks a turn"
    for text in ("<s><s>The cat", " <s>The cat"):
        with pytest.raises(PromptError, match=r"row 3 begins with \['<s>'"):
            encode_prompt(tokenizer, text, "row 3")


def test_two_tokens_that_are_put_in_front_are_not_doubled():
    tokenizer = word_tokenizer(TEXT.split())
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "<unk>")]
    template = processors.TemplateProcessing(single="<s> <unk> $A", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = template
    whole = encode(tokenizer, "The cat")
    assert strings(tokenizer, whole) == ["<s>", "<unk>", "The", " cat"]
    assert encode(tokenizer, "<unk>The cat") == encode(tokenizer, "<s><unk>The cat") == whole


def test_a_real_text_that_begins_with_its_start_token(real):
    start = real.bos_token if real("x")["input_ids"][0] == real.bos_token_id else ""
    assert encode(real, start + TEXT) == encode(real, TEXT)


def test_a_text_that_ends_where_a_text_is_over():
    tokenizer = word_tokenizer(TEXT.split())
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>"})
    for text in ("The cat</s>", "The cat<pad><pad>", "The cat</s><pad>"):
        with pytest.raises(PromptError, match=r"row 3 ends in \['<(/s|pad)>'.*the metric would be read behind it"):
            encode_prompt(tokenizer, text, "row 3")
    assert len(encode_prompt(tokenizer, "The</s> cat", "row 3")) == 3


def test_what_is_advised_for_an_answer_of_several_tokens_is_accepted(real):
    """SmolLM2 and Gemma split " 68" into " ", "6" and "8", and there is no word for its first token alone."""
    prompt, answer = "2 + 66 =", " 68"
    with pytest.raises(AnswerError, match=r"' 68' is 3 tokens.*end both prompts with .*'2 \+ 66 = '.*behind it, '6'"):
        encode_answer(real, prompt, encode(real, prompt), answer, "")
    longer = prompt + " "
    assert string(real, encode_answer(real, longer, encode(real, longer), "6", "")) == "6"
    with pytest.raises(AnswerError, match=r"give its first token, ' V(ad)?'$") as caught:
        encode_answer(real, "The", encode(real, "The"), " Vaduz", "")
    first = str(caught.value).split("'")[-2]
    assert string(real, encode_answer(real, "The", encode(real, "The"), first, "")) == first


def test_a_first_token_that_no_text_makes_is_advised_by_its_id():
    tokenizer = digit_pair_tokenizer()
    with pytest.raises(AnswerError, match=r"its first token, by its id, (\d+) ") as caught:
        encode_answer(tokenizer, "in", encode(tokenizer, "in"), "€", "")
    token = int(re.search(r"by its id, (\d+)", str(caught.value))[1])
    assert encode_answer(tokenizer, "in", encode(tokenizer, "in"), token, "") == token


def test_white_space_may_be_an_answer():
    tokenizer = digit_pair_tokenizer()
    assert string(tokenizer, encode_answer(tokenizer, "in", encode(tokenizer, "in"), " ", "")) == " "


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
        (True, "an answer is text"),
        (torch.tensor(2.5), "an answer is text .* a Tensor of shape"),
    ):
        with pytest.raises(AnswerError, match=message):
            encode_answer(tokenizer, TEXT, ids, answer, "row 3")
    for five in (5, np.int64(5), torch.tensor(5)):
        assert encode_answer(tokenizer, TEXT, ids, five, "row 3") == 5
