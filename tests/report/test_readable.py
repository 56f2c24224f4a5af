"""Whatever a name, a prompt or a token holds can be drawn and shown."""

from __future__ import annotations

import json
import os
import random
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import altair as alt
import pytest
from processes import python

import veracausa as vc
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.pages.frame import embed
from veracausa.report.pages.page import section_views
from veracausa.report.readable import LONGEST_TEXT, LONGEST_TITLE, drawable, readable
from veracausa.studies.results import Panel, Section, Study

#: Characters that end the drawing library's process, or that no file can hold; and others that are hard to show.
FATAL = [*map(chr, range(9)), *map(chr, range(11, 32)), "\ufffe", "\uffff", "\U0001fffe", "\ud800", "\udfff"]
STRANGE = ["\t", "\n", "\x7f", "\x85", "\u202e", "\u2066", "\u200f", "\ufeff", "\u2028", "\u0301", "😀", "ש", "<&>\"'`"]
STRANGE += ["\\", "\\u0001", "\\b"]


def nasty(seed: int, length: int = 40) -> str:
    """Random characters of all kinds."""
    draw = random.Random(seed)
    kinds = [lambda: draw.choice(FATAL), lambda: draw.choice(STRANGE), lambda: chr(draw.randrange(0x110000)),
             lambda: chr(draw.randrange(32, 127))]  # fmt: skip
    return "".join(draw.choice(kinds)() for _ in range(length))


def figure(text: str) -> Figure:
    """A figure with a text wherever one can stand: title, axis, legend, data, and an expression."""
    data = Datasets()
    rows = [{"a": text, "b": 1, text or "empty": 2}]
    label = f"{json.dumps({'1': text[:12]})}[toString(datum.value)]"
    view = alt.Chart(data.add("rows", rows)).mark_bar()
    view = view.encode(
        x=alt.X("b:Q", title=text, axis=alt.Axis(values=[1], labelExpr=label)),
        y=alt.Y("a:N", axis=alt.Axis(labelExpr="datum.label")),
        color=alt.Color("a:N", legend=alt.Legend(title=text, labelExpr=label)),
    )
    return Figure("f", text, (Part(text, view, data, text, f"{text}\n{text}"),), text)


@pytest.mark.slow
def test_every_text_can_be_drawn():
    """In a process of its own: what goes wrong here ends the process, so nothing could catch it."""
    code = (
        "from test_readable import figure, nasty, FATAL, STRANGE\n"
        "texts = [''.join(FATAL), ''.join(STRANGE), *(nasty(seed, 100) for seed in range(4)), '', 'x' * 5000]\n"
        "for text in texts:\n"
        "    assert figure(text).png().startswith(b'\\x89PNG')\n"
        "print('all', len(texts))"
    )
    path = os.pathsep.join(sys.path)  # where this file finds its helpers
    assert python(code, cwd=Path(__file__).parent, env={"PYTHONPATH": path}) == "all 8\n"


@pytest.mark.parametrize("seed", range(50))
def test_cleaned_texts_are_xml_and_utf8(seed):
    text = nasty(seed, 200)
    made = readable(text)
    assert len(made) == len(text)
    made.encode()
    escaped = made.replace("&", "&amp;").replace("<", "&lt;")
    assert ElementTree.fromstring(f"<t>{escaped}</t>").text is not None  # refuses what XML does not allow
    spec = json.loads(json.dumps(drawable(figure(text).specs())))
    assert all(readable(one) == one for one in strings(spec))
    json.loads(embed({"text": text}))
    embed({"text": text}).encode()


def strings(part):
    """All texts of a specification."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        yield from part
        for value in part.values():
            yield from strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from strings(value)


def test_signs_stand_for_what_cannot_be_shown():
    assert readable("a\x1b[31m\x00\x7f\u202eb\ud800") == "a␛[31m␀␡�b�"
    ordinary = " Mary\n gave\t 😀 קפה café \\u0001"
    assert readable(ordinary) == ordinary


def test_escapes_of_an_expression_are_cleaned_and_those_of_a_text_are_not():
    spec = drawable({"labelExpr": r'"\u0001\x02\u{3}\4 \\u0001 \ud83d\ude00 \ud800 \b\f\n\t"', "title": r"\u0001"})
    assert spec["labelExpr"] == r'"␁␂␃␄ \\u0001 \ud83d\ude00 � ␈␌\n\t"'
    assert spec["title"] == "＼u0001"


def test_long_texts_are_cut_in_titles_and_data_but_not_in_expressions():
    long = "x" * 10_000
    spec = drawable({"title": {"text": long, "subtitle": [long]}, "labelExpr": long, "data": {"values": [{"a": long}]}})
    assert len(spec["title"]["text"]) == len(spec["title"]["subtitle"][0]) == LONGEST_TITLE
    assert spec["labelExpr"] == long and len(spec["data"]["values"][0]["a"]) == LONGEST_TEXT


def test_a_long_name_of_a_task_makes_no_long_files_and_no_mixed_up_data(tiny, task_of, tmp_path, monkeypatch):
    """Names of data and files keep their ends, however long a task's name is, and whatever is in it."""
    monkeypatch.setattr(Figure, "png", lambda figure: b"")  # drawn elsewhere
    lm = tiny("llama")
    task = task_of(6, n=2, name="a\x00<b>long</b>\ufffe " * 40)
    quiet = {"show_progress": False}
    panels = [
        Panel(kind, vc.exact(lm, task, units=kind, **quiet), (vc.attribute(lm, task, units=kind, **quiet),))
        for kind in ("heads", "mlps")
    ]
    section = Section("A section of " + task.name, task, lm.measure(task), tuple(panels))
    study = Study("S", {"name": lm.name}, (section,), (task.name,), {}, "m", "d", task.name, 1.0)
    page = study.save(tmp_path).read_text()
    assert "<b>long" not in page and "\x00" not in page
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert max(map(len, files)) < 200 and len(files) == len(set(files))
    for view in section_views(study)[0].panels:
        for one in view.figures:
            for spec in one.specs():
                assert set(names_of_data(spec)) <= set(spec["datasets"])
            assert len({name for part in one.parts for name in part.data}) == sum(len(part.data) for part in one.parts)


def names_of_data(part):
    """Names of the data that a specification asks for."""
    if isinstance(part, dict):
        if isinstance(part.get("data"), dict) and "name" in part["data"]:
            yield part["data"]["name"]
        for key, value in part.items():
            if key != "datasets":
                yield from names_of_data(value)
    elif isinstance(part, list):
        for value in part:
            yield from names_of_data(value)
