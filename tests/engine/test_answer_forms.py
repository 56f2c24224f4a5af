"""Answers in a form that the model does not say: with or without the space before them, capitalised or not."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.engine.answer_forms import note_forms, other_forms
from veracausa.errors import AnswerFormWarning
from veracausa.tasks.tokens import string

WORDS = ["The", "key", "keys", "is", "are", "Is", "The", "x", ","]


@pytest.fixture
def reader():
    return SimpleNamespace(name="tiny", tokenizer=word_tokenizer(WORDS))


def make(reader, answers=("is",), n=1, metric="logit_diff"):
    pairs = {"clean": ["The key"] * n, "corrupted": ["The keys"] * n}
    return vc.task(reader, **pairs, correct=[list(answers)] * n, incorrect=["x"] * n, metric=metric)


def logits_of(reader, rows):
    """Logits whose softmax is given for some tokens; the others share the rest."""
    found = []
    for row in rows:
        left = (1 - sum(row.values())) / (len(reader.tokenizer) - len(row))
        chances = torch.full((len(reader.tokenizer),), left)
        for name, p in row.items():
            chances[reader.tokenizer.convert_tokens_to_ids(name)] = p
        found.append(chances.log())
    return torch.stack(found)


def told(reader, task, *buckets):
    """The warnings of reading a task's buckets, each (examples, probabilities by token name)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for examples, rows in buckets:
            note_forms(reader, task, examples, logits_of(reader, rows))
    return [str(one.message) for one in caught if one.category is AnswerFormWarning]


def test_forms_of_a_word(reader, smollm2):
    tokenizer = reader.tokenizer
    ids = tokenizer.convert_tokens_to_ids
    assert other_forms(tokenizer, ids("is")) == {
        "space": ids("Ġis"), "capital": ids("Is"), "space and capital": ids("ĠIs")
    }  # fmt: skip
    assert other_forms(tokenizer, ids("Ġare")) == {"space": ids("are")} and other_forms(tokenizer, ids(",")) == {}
    paris = vc.task(smollm2, clean="a b", corrupted="a c", correct=" Paris", incorrect=" Rome").correct[0][0]
    assert string(smollm2.tokenizer, other_forms(smollm2.tokenizer, paris)["space"]) == "Paris"


@pytest.mark.parametrize(
    ("given", "chances", "other"),
    [
        ("is", {"is": 0.002, "Ġis": 0.9}, " is"),
        (" is", {"Ġis": 0.002, "is": 0.9}, "is"),
        (" is", {"Ġis": 0.002, "ĠIs": 0.5}, " Is"),
        ("is", {"is": 0.002, "ĠIs": 0.5}, " Is"),
    ],
)
def test_the_likelier_form_is_named_with_both_probabilities(reader, given, chances, other):
    (said,) = told(reader, make(reader, (given,)), ([0], [chances]))
    assert f"P({given!r}) = 0.002, P({other!r}) = " in said and f"correct={other!r}" in said and "1 of 1 pairs" in said


@pytest.mark.parametrize(
    ("answers", "chances"),
    [
        (("is",), {"is": 0.2, "Ġis": 0.8}),  # not rare
        (("is",), {"is": 0.09, "Ġis": 0.8}),  # not ten times
        (("is",), {"is": 1e-7, "Ġis": 1e-5, "The": 0.999}),  # neither is said
        (("is", " is"), {"is": 0.001, "Ġis": 0.9}),  # both are answers
        (("is", "are"), {"is": 0.001, "are": 0.3, "Ġis": 0.6}),  # the answers together are not rare
    ],
)
def test_nothing_is_said_where_the_given_form_will_do(reader, answers, chances):
    assert told(reader, make(reader, answers), ([0], [chances])) == []


def test_one_odd_pair_is_no_warning_and_a_warning_comes_once_over_all_buckets(reader):
    odd, usual = {"is": 0.001, "Ġis": 0.9}, {"is": 0.5, "Ġis": 0.1}
    assert told(reader, make(reader, n=3), ([0], [odd]), ([1, 2], [usual, usual])) == []
    task = make(reader, n=3)
    (said,) = told(reader, task, ([0], [usual]), ([2], [odd]), ([1], [odd]))
    assert "2 of 3 pairs: on pair 1 " in said
    assert told(reader, task, ([0, 1, 2], [odd] * 3)) == [], "said already"


def test_a_divergence_reads_no_answer_and_without_a_tokenizer_there_are_no_forms(reader):
    odd = {"is": 0.001, "Ġis": 0.9}
    assert told(reader, make(reader, metric="neg_kl"), ([0], [odd])) == []
    task, logits = make(reader), logits_of(reader, [odd])
    reader.tokenizer = None
    note_forms(reader, task, [0], logits)


@pytest.mark.cases(1)
@pytest.mark.parametrize("call", ["measure", "exact", "attribute"])
@pytest.mark.slow
def test_every_call_warns_with_the_bare_models_probabilities(smollm2, call):
    pairs = {"clean": "The capital of France is", "corrupted": "The capital of Italy is"}
    task = vc.task(smollm2, **pairs, correct="Paris", incorrect="Rome")
    run = {
        "measure": smollm2.measure,
        "exact": lambda task: vc.exact(smollm2, task, units=["a20.h0"], show_progress=False),
        "attribute": lambda task: vc.attribute(smollm2, task, units=["a20.h0"], show_progress=False),
    }[call]
    with pytest.warns(AnswerFormWarning) as caught:
        run(task)
    ids = smollm2.tokenizer(["Paris", " Paris"])["input_ids"]
    chances = smollm2.hf(torch.tensor(task.clean)).logits[0, -1].softmax(-1).detach()
    bare, spaced = (float(chances[i[0]]) for i in ids)
    assert f"P('Paris') = {bare:.2g}, P(' Paris') = {spaced:.2g}" in str(caught[0].message)
    assert spaced > 10 * bare and caught[0].filename == __file__, "it points at the user's own line"
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswerFormWarning)
        run(vc.task(smollm2, **pairs, correct=" Paris", incorrect=" Rome"))


@pytest.mark.slow
@pytest.mark.parametrize("name", vc.tasks.BUILTIN)
def test_built_in_tasks_are_no_false_alarm(smollm2, gemma3, name):
    for lm in (smollm2, gemma3):
        with warnings.catch_warnings():
            warnings.simplefilter("error", AnswerFormWarning)
            lm.measure(vc.tasks.build(name, lm, n=24))
