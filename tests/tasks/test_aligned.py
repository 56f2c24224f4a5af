"""Pairs whose prompts have different lengths: what corresponds, how such tasks are made, kept and refused."""

import dataclasses
import json

import pytest

import veracausa as vc
from veracausa.errors import FileError, MethodError, PromptError, TaskError
from veracausa.tasks.aligned import counterpart, shared_end, shared_start
from veracausa.tasks.placing import corresponding, moved
from veracausa.tasks.spans import Span
from veracausa.tasks.task import Task

LISTS = {
    "clean": ["The king of France was called", "The king of France was called"],
    "corrupted": ["The king of South Georgia was called", "The king of Spain was called"],
    "correct": [" Louis", " Louis"],
    "incorrect": [" George", " George"],
}
SPANS = {"land": {"clean": "France", "corrupted": ["South Georgia", "Spain"]}, "verb": "was"}


def made(lm, **more):
    return vc.task(lm, **{**LISTS, "spans": SPANS, "align": "last", "metric": "logit_diff", **more})


@pytest.mark.slow
def test_prompts_of_different_lengths_with_spans(real):
    task = made(real)
    assert task.uneven == {0} and task.align == "last" and "1 of unequal prompts" in task.describe()
    span, (clean, corrupted) = task.spans[0]["land"], task.tokens(0)
    assert "".join(clean[slice(*span.clean)]).strip() == "France"
    assert "".join(corrupted[slice(*span.corrupted)]).strip() == "South Georgia"
    assert task.lengths == (len(clean), len(clean)) and len(corrupted) > len(clean)
    assert not moved(task[1], ["land"]) and made(real, align="mean").align == "mean"
    one, other = task.sides
    assert (one.clean, other.clean) == (task.clean, task.corrupted) and not one.paired and not other.paired
    assert other.spans[0]["land"] == Span(span.corrupted, span.corrupted) and other.read == ((-1,), (-1,))


def test_the_default_refuses_them_and_says_what_helps(real):
    with pytest.raises(PromptError, match=r"pair 0 .*\n  clean: .*\n  corrupted: .*\n.*align='last' \(or 'mean'\)"):
        made(real, align=None)
    with pytest.raises(PromptError, match=r"\nalign='last' needs a span in both: name one in this pair"):
        made(real, spans={"land": {"clean": [None, "France"], "corrupted": [None, "Spain"]}})
    kept = made(real, spans={"land": {"clean": [None, "France"], "corrupted": [None, "Spain"]}}, unequal="skip")
    assert len(kept) == 1 and "name one in this pair" not in kept.options["left out"][0]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"spans": None}, TaskError, r"no pair names a span. Give spans="),
        ({"align": "first"}, TaskError, r"align='first' is not known"),
        ({"align": 2}, MethodError, r"align is one of last, mean or None"),
        ({"paired": False, "corrupted": None}, TaskError, r"align= is about the two prompts"),
        ({"spans": {"land": {"clean": "France", "corrupted": [None, "Spain"]}}}, TaskError, "both prompts have it"),
        ({"spans": {"land": {"clean": "France", "corrupted": "Spain"}}}, PromptError, "is not in the corrupted prompt"),
        ({"spans": {"land": range(3, 3)}}, PromptError, "is none of its"),
        ({"spans": {"a": {"clean": "France", "corrupted": ["South Georgia", "Spain"]},
                    "b": {"clean": "of", "corrupted": ["Georgia", "of"]}}}, PromptError, r"'a' and 'b' overlap"),
        ({"read": "land"}, TaskError, r"that span is not equally long in both prompts"),
        ({"read": -3}, TaskError, r"of which the corrupted prompt has not all"),
        ({"read": "all"}, TaskError, r"of which the corrupted prompt has not all"),
    ],
)  # fmt: skip
def test_what_is_refused(real, more, error, message):
    with pytest.raises(error, match=message):
        made(real, **more)


def test_read_at_a_span_behind_the_difference(real):
    task = made(real, read="verb")
    for i in range(2):
        assert task.places[i] == tuple(range(*task.spans[i]["verb"].clean))
        assert task.counterparts[i] == tuple(range(*task.spans[i]["verb"].corrupted))
        assert task.sides[1].places[i] == task.counterparts[i]


def test_an_answer_of_several_tokens(real):
    task = made(real, metric="logprob", correct=[" Louis the Fourteenth"] * 2, incorrect=None)
    assert task.continued and task.counterparts[0][-1] == len(task.corrupted[0]) - 1
    assert len(task.counterparts[0]) == len(task.places[0]) > 1


def test_digests_and_files(real, tmp_path):
    task = made(real)
    others = [made(real, align="mean"), dataclasses.replace(task, spans=({"land": task.spans[0]["land"]}, {}))]
    assert len({one.digest() for one in (task, *others)}) == 3
    again = vc.open(task.save(tmp_path / "task.json"))
    assert again.digest() == task.digest() and again.align == "last" and again.spans == task.spans and again.uneven
    even = task[1]
    plain = dataclasses.replace(even, align=None)
    assert plain.digest() == dataclasses.replace(plain, spans=()).digest() != even.digest()
    assert "align" not in json.loads(plain.save(tmp_path / "plain.json").read_text())
    for change in ({"align": "mean"}, {"align": "nothing"}, {"align": None}):
        content = json.loads((tmp_path / "task.json").read_text())
        (tmp_path / "other.json").write_text(json.dumps(content | change))
        with pytest.raises(FileError):
            vc.open(tmp_path / "other.json")


def test_tables_and_files_of_pairs(real, tmp_path):
    rows = [
        {name: LISTS[name][i] for name in LISTS} | {"span verb": "was"}
        | {"spans": {"land": {"clean": "France", "corrupted": ("South Georgia", "Spain")[i]}}}
        for i in range(2)
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for data in (rows, path):
        assert vc.task(real, data, align="last").digest() == made(real).digest()
        with pytest.raises(PromptError, match="align='last'"):
            vc.task(real, data)


def test_counterparts_of_positions():
    clean, corrupted = (1, 2, 3, 9, 9), (1, 4, 5, 3, 7, 9, 9)
    assert shared_start(clean, corrupted) == 1 and shared_end(clean, corrupted) == 2
    found = [counterpart(at, clean, corrupted, {"three": Span((2, 3), (3, 4))}) for at in range(5)]
    assert found == [0, None, 3, 5, 6]
    assert [counterpart(at, clean, clean[::-1], {"one": Span((0, 1), (4, 5))}) for at in range(5)] == [*range(5)]
    # the last position always; and no token twice, where one prompt is the other's beginning
    assert shared_end((1, 1), (1, 1, 1)) == 1 and shared_end((1, 2), (1, 3, 4)) == 1
    assert counterpart(1, (1, 2), (1, 3, 4), {}) == 2


def test_spans_that_correspond():
    where = {"long": Span((1, 4), (5, 7)), "same": Span((4, 6), (1, 3))}
    ids = {"clean": ((1, 2, 3, 4, 5, 6, 7),), "corrupted": ((1, 5, 6, 8, 9, 3, 4, 7),)}
    ids |= {"correct": ((1,),), "incorrect": ((2,),)}
    names = ("long", "same", "end", "lacking")
    for align, own in (("last", (3, 4)), ("mean", (1, 4))):
        task = Task(name="x", spans=(where,), align=align, **ids)
        here, there = corresponding(task, 0, names, True)
        assert here == {"long": own, "same": (4, 6), "end": (6, 7)}
        assert there == {"long": (6, 7) if align == "last" else (5, 7), "same": (1, 3), "end": (7, 8)}
        assert corresponding(task, 0, names, False) == (there, here)
