"""Chats as prompts: the model's own template, the place of the answer, and what is said where there is none."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from word_tokenizer import word_tokenizer

from veracausa import errors
from veracausa.tasks import task
from veracausa.tasks import task as given

#: As the templates of Llama 3 and Gemma: the start token first, marks around turns, system messages refused.
TEMPLATE = (
    "<s>{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ANSWERS = {"correct": ["is"], "incorrect": ["are"]}


def user(text):
    return [{"role": "user", "content": text}]


def make_tokenizer(*, start=True):
    words = "The key keys to the cabinet is are It user assistant end system [ ] x"
    tokenizer = word_tokenizer(words.split(), start=start)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize("start", [True, False])
def test_tokens_are_those_of_the_template_with_one_start(start):
    """With and without a tokenizer that adds a start token of its own."""
    tokenizer = make_tokenizer(start=start)
    got = task(tokenizer, clean=[user("The key")], corrupted=[user("The keys")], **ANSWERS)
    own = tokenizer.apply_chat_template(user("The key"), add_generation_prompt=True, return_dict=False)
    assert list(got.clean[0]) == own and got.tokens(0)[0].count("<s>") == 1
    assert got.clean_text[0] == "<s>[user]The key[end][assistant]" and got.options["prompts"] == "chats"
    assert got.tokens(0)[0][-1] == "]" and got.answer_strings(0) == (["is"], ["are"])


def test_one_chat_alone_texts_as_chats_and_the_rendered_text_are_the_same():
    tokenizer = make_tokenizer()
    one = task(tokenizer, clean=user("The key"), corrupted=user("The keys"), **ANSWERS)
    told = task(tokenizer, clean="The key", corrupted="The keys", chat=True, **ANSWERS)
    text = task(tokenizer, clean=one.clean_text, corrupted=one.corrupted_text, **ANSWERS)
    assert one.digest() == told.digest() == text.digest()


def test_an_answer_that_the_assistant_has_begun():
    tokenizer = make_tokenizer()
    begun = [{"role": "assistant", "content": "It"}]
    got = task(
        tokenizer, clean=user("The key") + begun, corrupted=user("The keys") + begun, correct=" is", incorrect=" are"
    )
    assert got.clean_text[0] == "<s>[user]The key[end][assistant]It" and got.answer_strings(0)[0] == [" is"]


def test_options_reach_the_template():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE + "{% if not think %}x{% endif %}"
    parts = {"clean": user("The key"), "corrupted": user("The keys")} | ANSWERS
    assert task(tokenizer, **parts).clean_text[0].endswith("x")
    assert not task(tokenizer, **parts, chat={"think": True}).clean_text[0].endswith("x")


def test_real_chat(real):
    parts = {"clean": user("The capital of France?"), "corrupted": user("The capital of Italy?")}
    answers = {"correct": "Paris", "incorrect": "Rome"}
    if real.chat_template is None:  # Gemma-3-270m is a base model
        with pytest.raises(errors.TaskError, match="clean prompt is a chat, but this tokenizer has no chat template"):
            task(real, **parts, **answers)
        return
    got = task(real, **parts, **answers)
    own = real.apply_chat_template(parts["clean"], add_generation_prompt=True, return_dict=False)
    assert list(got.clean[0]) == own and got.tokens(0)[0][-3:] == ["ass", "istant", "\n"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_chats_in_files(tmp_path, kind):
    tokenizer = make_tokenizer()
    row = {"clean": user("The key"), "corrupted": user("The keys"), "correct": "is", "incorrect": "are"}
    path = tmp_path / f"chats.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        cells = [json.dumps(row[key]).replace('"', '""') for key in ("clean", "corrupted")]
        path.write_text(f'clean,corrupted,correct,incorrect\n"{cells[0]}","{cells[1]}",is,are\n')
    got = given(tokenizer, path)
    assert got.digest() == task(tokenizer, clean=row["clean"], corrupted=row["corrupted"], **ANSWERS).digest()


def test_messages_in_arrays_of_a_table(tmp_path):
    """As pandas reads lists out of a Parquet file; an array of texts is no chat."""
    tokenizer, rows = make_tokenizer(), [{"clean": user("The key"), "corrupted": user("The keys"), **ANSWERS}]
    pd.DataFrame(rows).to_parquet(tmp_path / "chats.parquet")
    table = pd.read_parquet(tmp_path / "chats.parquet")
    assert isinstance(table["clean"][0], np.ndarray)
    asked = task(tokenizer, rows)
    assert task(tokenizer, table).digest() == asked.digest() == task(tokenizer, tmp_path / "chats.parquet").digest()
    table.at[0, "clean"] = np.array(["The key"], dtype=object)
    with pytest.raises(errors.TaskError, match="a prompt is text or a list of messages, but this is a ndarray"):
        task(tokenizer, table)


def test_a_text_in_brackets_is_no_chat(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("clean,corrupted,correct,incorrect\n[{ The key,[{ The keys,is,are\n")
    assert given(word_tokenizer(["The", "key", "keys", "is", "are", "[{"]), path).clean_text == ("[{ The key",)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (
            [{"role": "system", "content": "x"}, *user("The key")],
            r"refuses these messages \(system, user\): System role not supported",
        ),
        ([{"role": "user"}], r'a message is \{"role": "user", "content": "…"\}, both text, but this is dict'),
        ([{"role": "user", "content": [{"type": "text"}]}], "both text, but this is dict"),
        ([*user("The key"), "The key"], "both text, but this is str: 'The key'"),
        ("The key", "one prompt is a chat, the other is not"),
    ],
)
def test_chats_that_cannot_be_read(chat, message):
    with pytest.raises(errors.TaskError, match=rf"pair 0 of task 'custom'.*{message}"):
        task(make_tokenizer(), clean=[chat], corrupted=[user("The keys")], **ANSWERS)


def test_a_message_that_the_template_leaves_out():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}[end]"
    lost = [*user("The key"), {"role": "tool", "content": "to the cabinet"}]
    with pytest.raises(errors.TaskError, match=r"leaves the last message out .'to the cabinet'"):
        task(tokenizer, clean=[lost], corrupted=[user("The keys")], **ANSWERS)


def test_no_template_and_a_tokenizer_in_a_namespace():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(errors.TaskError, match=r"has no chat template.*set lm\.tokenizer\.chat_template"):
        task(SimpleNamespace(tokenizer=tokenizer), clean="The key", corrupted="The keys", chat=True, **ANSWERS)
