"""Spans of a task: what is looked for in prompts, which tokens it is, and what is refused."""

import dataclasses
import json
import re

import pandas as pd
import pytest

import veracausa as vc
from veracausa.errors import FileError, MethodError, PromptError, TaskError
from veracausa.tasks.finding import Prompt, sought
from veracausa.tasks.pool import merged, pool
from veracausa.tasks.slots import filled, prompts
from veracausa.tasks.spans import Span
from veracausa.tasks.tokens import encode

PAIR = {"clean": "Paris is the capital of France and of", "corrupted": "Rome is the capital of Italy and of"}
ANSWERS = {"correct": " Paris", "incorrect": " Rome"}
APART = {"clean": "France", "corrupted": "Italy"}


def words(task, i=0):
    """What the spans of a pair read, in both prompts."""
    one, other = task.tokens(i)
    return {
        name: ("".join(one[slice(*span.clean)]).strip(), "".join(other[slice(*span.corrupted)]).strip())
        for name, span in task.spans[i].items()
    }


def made(lm, spans, **more):
    return vc.task(lm, **{**PAIR, **ANSWERS, **more}, spans=spans)


def test_texts_patterns_characters_and_tokens(real):
    first = len(encode(real, "Paris is the")) - 3  # behind a start token, if there is one
    spans = {
        "city": {"clean": "Paris", "corrupted": "Rome"},
        "verb": "is",
        "noun": re.compile(r"the (\w+) of"),
        "country": {"clean": slice(24, 30), "corrupted": re.compile("Italy")},
        "the": range(first + 2, first + 3),
    }
    task = made(real, spans)
    assert words(task) == {
        "city": ("Paris", "Rome"), "verb": ("is", "is"), "noun": ("capital", "capital"),
        "country": ("France", "Italy"), "the": ("the", "the"),
    }  # fmt: skip
    assert task.span_names == tuple(spans) and not any(span.moved for span in task.spans[0].values())


def test_words_of_several_tokens_signs_and_other_alphabets(real):
    text = "In the café “Zürich” 東京タワー stands 🗼 and Kraków-Nowa Huta is"
    task = made(
        real, {"hut": "Kraków-Nowa Huta", "cafe": "café", "tower": "東京タワー", "sign": "🗼", "verb": "is"},
        clean=text, corrupted=text.replace("In", "At"),
    )  # fmt: skip
    prompt = Prompt.of(real, text, task.clean[0])
    for name, (first, end) in {name: span.clean for name, span in task.spans[0].items()}.items():
        covered = text[prompt.characters[first][0] : prompt.characters[end - 1][1]].strip()
        assert (
            covered
            == {"hut": "Kraków-Nowa Huta", "cafe": "café", "tower": "東京タワー", "sign": "🗼", "verb": "is"}[name]
        )
    assert task.spans[0]["hut"].clean[1] - task.spans[0]["hut"].clean[0] > 2


def test_a_tokenizer_that_tells_no_characters_is_read_token_by_token(real, monkeypatch):
    text = "Zoë saw the café 🗼 in Łódź, and"
    told = Prompt.of(real, text, encode(real, text))
    monkeypatch.setattr(type(real), "is_fast", False)
    read = Prompt.of(real, text, encode(real, text))
    for (a, b), (c, d) in zip(told.characters, read.characters, strict=True):
        assert text[a:b].strip() == text[c:d].strip() and b == d


def test_one_for_all_or_one_for_each(real):
    clean = [
        "Paris is the capital of France and of",
        "London is a city of France and of",
        "London is the capital and of",
    ]
    corrupted = [
        "Rome is the capital of France and of",
        "Rome is a city of France and of",
        "Rome is the capital and of",
    ]
    task = vc.task(
        real, clean=clean, corrupted=corrupted, correct=[" it"] * 3, incorrect=[" all"] * 3,
        spans={"country": "France", "kind": ["capital", "city", None],
               "city": {"clean": ["Paris", "London", "London"], "corrupted": "Rome"}},
    )  # fmt: skip
    assert [set(words(task, i)) for i in range(3)] == [
        {"country", "kind", "city"},
        {"country", "kind", "city"},
        {"city"},
    ]
    assert words(task, 1) == {"country": ("France", "France"), "kind": ("city", "city"), "city": ("London", "Rome")}


def test_where_prompts_have_it_elsewhere(real):
    task = made(real, {"who": "Ann"}, clean="Ann and Bob saw him and", corrupted="Bob and Ann saw him and")
    start = len(encode(real, "Ann")) - 1
    assert task.spans[0]["who"] == Span((start, start + 1), (start + 2, start + 3)) and task.spans[0]["who"].moved


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"it": "Berlin"}, "no prompt has the span 'it'"),
        ({"it": ["Berlin"]}, "pair 0 of task 'custom': the span 'it': 'Berlin' is not in the clean prompt"),
        ({"it": "France"}, "pair 0 .* the span 'it': 'France' is not in the corrupted prompt, 'Rome is"),
        ({"it": "of"}, r"the span 'it', clean prompt: 'of' is there 2 times.*re.compile"),
        ({"it": re.compile(r"\bo(f)")}, "is there 2 times"),
        ({"it": "capi"}, r"'capi' is no run of whole tokens: the token ' ?▁?capital' goes beyond it"),
        ({"it": slice(5, 6)}, "no character is in it"),
        ({"it": slice(500, 600)}, "no character is in it"),
        ({"it": range(3, 3)}, r"range\(3, 3\) is none of its"),
        ({"it": range(5, 50)}, r"range\(5, 50\) is none of its"),
        ({"it": "is the", "other": "the capital"}, "spans 'it' and 'other' overlap in the clean prompt"),
        ({"it": {"clean": ["France"], "corrupted": [None]}}, "pair 0: the corrupted prompt has none"),
        ({"it": ["is", "is"]}, "has 2 entries for 1 pairs"),
        ({"it": {"clean": "France"}}, "has 'clean' and 'corrupted'"),
        ({"it": 3}, "is a text, a pattern"),
        ({"it": ""}, "is a text, a pattern"),
        ({"it": slice(0, 9, 2)}, "is a text, a pattern"),
        ({"it": re.compile(rb"is")}, "is a text, a pattern"),
        ({"it": range(-2, 0)}, "is a text, a pattern"),
        ({"an it": "is"}, "is no name for a span"),
        ({"7": "is"}, "is no name for a span"),
        ({3: "is"}, "is no name for a span"),
        ({"end": "of"}, "cannot be called 'end': that is the last position"),
        ({"spans": "is"}, "cannot be called 'spans'"),
        ({"positions": "is"}, "cannot be called 'positions'"),
        (["is"], "spans is a dict"),
    ],
)
def test_what_is_no_span(real, spans, message):
    with pytest.raises((PromptError, TaskError, MethodError), match=message):
        made(real, spans)


def test_pairs_whose_spans_do_not_fit_are_left_out_on_request(real):
    table = pd.DataFrame([
        {**PAIR, **ANSWERS, "span city": "capital", "note": "a"},
        {**PAIR, **ANSWERS, "span city": "of", "note": "b"},
        {**PAIR, **ANSWERS, "span city": None, "note": "c"},
    ])  # fmt: skip
    with pytest.raises(PromptError, match=r"the table, row 1: the span 'city', clean prompt: 'of' is there 2 times"):
        vc.task(real, table)
    task = vc.task(real, table, unequal="skip")
    assert len(task) == 2 and [bool(one) for one in task.spans] == [True, False]
    assert "row 1" in task.options["left out"][0] and task.info[0] == {"note": "a", "row": "row 0"}


def test_tables_say_spans_in_columns_or_in_one(real, tmp_path):
    rows = [
        {**PAIR, **ANSWERS, "spans": {"noun": "capital", "country": APART, "second": [2, 3]}},
        {**PAIR, **ANSWERS, "spans": {"noun": "the capital"}},
        {**PAIR, **ANSWERS},
    ]
    wanted = vc.task(real, rows).spans
    assert [set(one) for one in wanted] == [{"noun", "country", "second"}, {"noun"}, set()]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert vc.task(real, tmp_path / "pairs.jsonl").spans == wanted
    flat = [
        {**PAIR, **ANSWERS, "span noun": "capital", "span country": json.dumps(APART), "span second": "[2, 3]"},
        {**PAIR, **ANSWERS, "span noun": "the capital", "span country": "", "span second": ""},
        {**PAIR, **ANSWERS, "span noun": "", "span country": "", "span second": ""},
    ]
    pd.DataFrame(flat).to_csv(tmp_path / "pairs.csv", index=False)
    assert vc.task(real, tmp_path / "pairs.csv").spans == wanted
    more = vc.task(real, rows[:1], spans={"more": "and"})
    assert set(more.spans[0]) == {"noun", "country", "second", "more"}
    with pytest.raises(TaskError, match="'noun' is said by spans= and by the table"):
        vc.task(real, rows, spans={"noun": "capital"})
    with pytest.raises(TaskError, match="row 0: the span 'noun' has a column of its own"):
        vc.task(real, [{**rows[0], "span noun": "capital"}])
    with pytest.raises(TaskError, match=r"row 0, column 'spans': spans are name"):
        vc.task(real, [{**rows[0], "spans": 3}])
    with pytest.raises(TaskError, match=r"row 0, spans: 'a b' is no name"):
        vc.task(real, [{**rows[2], "span a b": "is"}])


def test_chats_and_token_ids(real):
    ids = {name: list(encode(real, text)) for name, text in PAIR.items()}
    by_ids = vc.task(
        real, **{name: [one] for name, one in ids.items()}, **ANSWERS, spans={"noun": "capital", "country": APART}
    )
    assert by_ids.spans == made(real, {"noun": "capital", "country": APART}).spans
    if getattr(real, "chat_template", None):
        chats = {name: [[{"role": "user", "content": text}]] for name, text in PAIR.items()}
        task = vc.task(real, **chats, correct="Paris", incorrect="Rome", spans={"noun": "capital", "country": APART})
        assert words(task) == {"noun": ("capital", "capital"), "country": ("France", "Italy")}
        assert task.spans[0]["noun"].clean[0] > by_ids.spans[0]["noun"].clean[0]


def test_parts_of_a_task_keep_their_spans(real):
    task = vc.tasks.ioi(real, n=8)
    assert task[2:4].spans == task.spans[2:4] and task[[5]].spans == (task.spans[5],)
    assert task.with_metric("prob").spans == task.spans
    one, other = task.split(0.5)
    assert sorted(map(str, (*one.spans, *other.spans))) == sorted(map(str, task.spans))
    assert task.digest() == dataclasses.replace(task, spans=()).digest()
    assert [set(one) >= {"IO", "S1", "S2"} for one in task.spans] == [True] * 8


def test_pools_keep_spans(real):
    task = vc.tasks.ioi(real, n=3)
    made = pool(real, task, most=1)
    for i, info in enumerate(made.info):
        assert {name: span.clean for name, span in made.spans[i].items()} == {
            name: span.clean for name, span in task.spans[info["pair"]].items()
        }
    assert merged(made, made).spans == made.spans * 2


def test_files(real, tmp_path):
    task = vc.tasks.ioi(real, n=3)
    path = task.save(tmp_path / "task.json")
    assert vc.open(path).spans == task.spans
    bare = dataclasses.replace(task, spans=())
    old = json.loads(bare.save(tmp_path / "old.json").read_text())
    assert "spans" not in old and vc.open(tmp_path / "old.json").spans == ({},) * 3
    content = json.loads(path.read_text())
    content["spans"][0]["IO"] = [[3, 99], [3, 99]]
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"was changed|damaged"):
        vc.open(path)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([{"a": (1, 1)}], "pair 0 of task 'x': the span 'a' is empty in the clean prompt"),
        ([{"a": (2, 9)}], r"is tokens 2 to 8 of the clean prompt, which has 4"),
        ([{"a": (-1, 2)}], "is tokens -1 to 1"),
        ([{"a": [(1, 2), (3, 3)]}], "is empty in the corrupted prompt"),
        ([{"a": (0, 2), "b": (1, 3)}], "overlap in the clean prompt"),
        ([{"a": [(0, 1), (0, 2)], "b": [(1, 3), (1, 3)]}], "overlap in the corrupted prompt"),
        ([{"a": "word"}], r"words are looked for by vc\.task"),
        ([{"a": (1, 2, 3)}], "is a range of tokens"),
        ([{"a": (True, 2)}], "is a range of tokens"),
        ([["a"]], "spans is a list of a dict"),
        ([{"a": (1, 2)}, {}], "1 clean prompts but 2 of 'spans'"),
    ],
)
def test_ranges_that_a_task_has_not(spans, message):
    with pytest.raises((PromptError, TaskError), match=message):
        vc.Task("x", ((1, 2, 3, 4),), ((1, 2, 3, 5),), ((6,),), ((7,),), spans=tuple(spans))


def test_templates_with_slots():
    text, places = filled("{A} met {B}, so {A} {{left}}", {"A": "Ann", "B": "Bob Lee"})
    assert text == "Ann met Bob Lee, so Ann {left}" == "{A} met {B}, so {A} {{left}}".format(A="Ann", B="Bob Lee")
    assert {key: text[where] for key, where in places.items()} == {
        ("A", 0): "Ann",
        ("B", 0): "Bob Lee",
        ("A", 1): "Ann",
    }
    both = prompts(
        "{A} met {B}", {"A": "Ann", "B": "Bo"}, {"A": "Eve", "B": "Al"}, {"who": "A", "lost": "C"}, other="To {B}, {A}"
    )
    assert both["clean"] == "Ann met Bo" and both["corrupted"] == "To Al, Eve" and list(both["spans"]) == ["who"]
    assert both["corrupted"][both["spans"]["who"].corrupted] == "Eve"
    assert sought({"a": ["x", None]}, 2, "")[1] == {}


@pytest.mark.parametrize("name", vc.tasks.BUILTIN)
def test_spans_of_the_built_in_tasks_stand_for_their_slots(real, name):
    """Whole words, once each, none of them torn by this tokenizer in most pairs."""
    task = vc.tasks.build(name, real, n=24)
    assert task.span_names
    for i in range(len(task)):
        read = words(task, i)
        assert all(one and other for one, other in read.values())
        assert all(one in task.clean_text[i] and other in task.corrupted_text[i] for one, other in read.values())
    assert sum(map(len, task.spans)) > 0.9 * len(task) * min(map(len, filter(None, task.spans)))
