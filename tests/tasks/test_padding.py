"""What may stand at the ends of a prompt: one start token, no padding, no end of a text."""

import pytest
import torch
from bridges import as_model
from tiny_models import make
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import PromptError
from veracausa.tasks.padding import Specials

BOS, EOS, PAD = 1, 2, 0
OWN = Specials(BOS, EOS, PAD)  # Gemma, Llama with a padding token
SHARED = Specials(BOS, EOS, EOS)  # SmolLM2-Instruct, Llama padded with its end
ONE = Specials(7, 7, 7)  # GPT-2
UNSET = Specials(7, 7, None)  # GPT-2, Pythia as they come
NO_START = Specials(None, EOS, EOS)  # Qwen base models


@pytest.mark.parametrize(
    ("specials", "ids", "before", "behind"),
    [
        (OWN, [BOS, 5, 6], 0, 0),
        (OWN, [5, 6], 0, 0),
        (OWN, [5, BOS, 6, EOS, 8], 0, 0),  # in the middle they mark turns
        (OWN, [PAD, PAD, BOS, 5, 6], 2, 0),
        (OWN, [PAD, 5, 6], 1, 0),
        (OWN, [BOS, BOS, 5, 6], 1, 0),
        (OWN, [BOS, PAD, PAD, BOS, 5], 3, 0),
        (OWN, [EOS, BOS, 5, 6], 1, 0),
        (OWN, [BOS, 5, 6, EOS], 0, 1),
        (OWN, [BOS, 5, 6, PAD, PAD], 0, 2),
        (OWN, [BOS, 5, 6, EOS, PAD], 0, 2),
        (SHARED, [BOS, 5, 6], 0, 0),
        (SHARED, [EOS, 5, 6], 1, 0),
        (SHARED, [EOS, EOS, BOS, 5], 2, 0),
        (ONE, [7, 5, 6], 0, 0),
        (ONE, [7, 7, 5, 6], 1, 0),
        (ONE, [5, 6, 7], 0, 1),
        (ONE, [7], 0, 0),
        (UNSET, [7, 5, 6], 0, 0),
        (UNSET, [7, 7, 5], 1, 0),
        (UNSET, [5, 7], 0, 1),
        (NO_START, [EOS, 5, 6], 0, 0),
        (NO_START, [EOS, EOS, 5], 1, 0),
        (Specials(), [0, 0, 5, 0], 0, 0),  # no tokenizer: nobody knows
    ],
)
def test_padding_at_the_ends(specials, ids, before, behind):
    assert (specials.padding_before(ids), specials.padding_behind(ids)) == (before, behind)
    assert specials.stripped(ids) == tuple(ids[before : len(ids) - behind])


WORDS = ["The", "key", "keys", "to", "cabinet", "is", "are"]


@pytest.fixture(scope="module")
def reader():
    """A tiny model that reads words, padded with a token of its own."""
    tokenizer = word_tokenizer(WORDS, start=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "eos_token": "</s>"})
    return as_model(make("llama", seed=1, dtype=torch.float64), tokenizer=tokenizer)


TEXTS = {"clean": "The key to The cabinet", "corrupted": "The keys to The cabinet"}
ANSWERS = {"correct": [" is"], "incorrect": [" are"]}


def by_hand(lm, text, answers):
    """The metric of one text by the bare model, without the library."""
    logits = lm.hf(torch.tensor([lm.tokenizer(text)["input_ids"]])).logits[0, -1]
    ids = [lm.tokenizer.convert_tokens_to_ids("Ġ" + answers[key][0].strip()) for key in ("correct", "incorrect")]
    return (logits[ids[0]] - logits[ids[1]]).item()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["batch", "tensor", "lists"])
def test_padded_ids_give_the_number_of_the_bare_prompt(reader, side, how):
    reader.tokenizer.padding_side = side
    longer = "The cabinet is to The key to"
    batches = {key: reader.tokenizer([text, longer], padding=True, return_tensors="pt") for key, text in TEXTS.items()}
    prompts = {
        "batch": lambda b: type(b)({key: rows[:1] for key, rows in b.items()}),
        "tensor": lambda b: b["input_ids"][:1],
        "lists": lambda b: b["input_ids"][:1].tolist(),
    }[how]
    task = vc.task(reader, **{key: prompts(batch) for key, batch in batches.items()}, **ANSWERS)
    assert task.clean == vc.task(reader, **TEXTS, **ANSWERS).clean
    measured = reader.measure(task)
    assert abs(float(measured.clean[0]) - by_hand(reader, TEXTS["clean"], ANSWERS)) < 1e-9
    assert abs(float(measured.corrupted[0]) - by_hand(reader, TEXTS["corrupted"], ANSWERS)) < 1e-9


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_ids_in_a_task_are_refused_by_every_call(reader, side):
    reader.tokenizer.padding_side = side
    ids = {
        key: reader.tokenizer([text, "The cabinet is to The key to"], padding=True)["input_ids"][:1]
        for key, text in TEXTS.items()
    }
    answers = {key: [[reader.tokenizer.convert_tokens_to_ids("Ġ" + a[0].strip())]] for key, a in ANSWERS.items()}
    task = vc.Task("padded", **ids, **answers)
    plain = vc.task(reader, **TEXTS, **ANSWERS)
    for call in (
        lambda: reader.measure(task),
        lambda: vc.exact(reader, task, show_progress=False),
        lambda: vc.attribute(reader, task, show_progress=False),
        lambda: vc.exact(reader, plain, ablation="mean", reference=task, show_progress=False),
    ):
        with pytest.raises(PromptError, match=r"(begins with|ends in) \['<pad>'.*without padding"):
            call()


def test_an_end_token_and_a_second_start_in_ids_are_refused(reader):
    start, end = reader.tokenizer.bos_token_id, reader.tokenizer.eos_token_id
    task = vc.task(reader, **TEXTS, **ANSWERS)
    (clean,), (corrupted,) = task.clean, task.corrupted
    answers = {"correct": [[5]], "incorrect": [[6]]}
    for one, two in (((start, *clean), (start, *corrupted)), ((*clean, end), (*corrupted, end))):
        with pytest.raises(PromptError, match=r"begins with|ends in"):
            reader.measure(vc.Task("ends", [one], [two], **answers))


def test_float_ids_and_texts_are_no_ids():
    rows = torch.tensor([[1, 2, 3]])
    answers = {"correct": [[1]], "incorrect": [[2]]}
    assert vc.Task("ids", rows, rows.numpy() + 1, **answers).corrupted == ((2, 3, 4),)
    for clean in (rows.double(), [[1.0, 2.0]], ["The key"], [["The"]], "The", 3, None, {"a": [1]}, [[None]]):
        with pytest.raises(PromptError, match=r"vc\.Task: clean.* is a list"):
            vc.Task("ids", clean, rows, **answers)
