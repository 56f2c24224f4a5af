"""Studies of every size on models with few heads and layers, and what becomes of a study where something fails."""

from __future__ import annotations

import dataclasses
import warnings

import pandas as pd
import pytest
import tiny_models
import torch
from bridges import as_model
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.report.chapters.registry import chapters
from veracausa.report.charts.figures import Figure
from veracausa.scores.agreement import strongest_of
from veracausa.storage.files import write_tensors
from veracausa.studies import questions
from veracausa.studies.levels import LEVELS
from veracausa.studies.results import Failure, Panel
from veracausa.tasks.data.ioi import OBJECTS, PLACES, TEMPLATES
from veracausa.tasks.data.names import FEMALE, MALE

#: The sizes with fewer points, prompts and searches; every chapter is there.
SMALL = {
    "quick": LEVELS["quick"].but(prompts=4),
    "default": LEVELS["default"].but(neurons=4, sample=3, nodes=2, to_zero=2, prompts=4),
    "full": LEVELS["full"].but(neurons=6, sample=3, nodes=2, to_zero=2, prompts=4, searched=1, edits=1, replaced=3),
}
WORDS = " ".join((*OBJECTS, *PLACES, *TEMPLATES, *FEMALE, *MALE)).split()
TINY = {"num_key_value_heads": 1, "hidden_size": 16, "intermediate_size": 5, "dtype": torch.float32}


@pytest.fixture(scope="module")
def small(tiny):
    """`small(layers, heads)`: a tiny model with a vocabulary for IOI."""
    tokenizer = word_tokenizer(WORDS)

    def build(layers: int, heads: int):
        sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": len(tokenizer)}
        lm = tiny("llama", **TINY, **sizes)
        return dataclasses.replace(lm, tokenizer=tokenizer)

    return build


def quietly(lm, tasks, level, **options):
    """A study, and the warnings about what could not be made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study = vc.study(lm, tasks, level=level, show_progress=False, **options)
        folder = options.get("out")
        if folder is not None:
            study.save(folder)
    return study, [str(one.message) for one in caught if "could not be made" in str(one.message)]


LONG = [pytest.param(size, marks=pytest.mark.slow) for size in ("default", "full")]


@pytest.mark.parametrize("size", ["quick", *LONG])
def test_every_size_of_study_on_two_layers_of_two_heads(small, task_of, tmp_path, size):
    lm = small(2, 2)
    tasks = [vc.tasks.ioi(lm, n=1, seed=3)] * (size == "full") + [vc.tasks.ioi(lm, n=3)]
    study, failed = quietly(lm, tasks, SMALL[size], out=tmp_path)
    assert failed == [] and not any(isinstance(one, Failure) for part in study.sections for one in part.findings)
    kinds = {type(one).__name__ for one in study.sections[-1].findings}
    wanted = {"AblationStudy"} if size == "quick" else {"CounterfactualComparison", "Search", "Baselines", "Surface"}
    assert wanted <= kinds
    assert (tmp_path / "report.html").read_text().count("could not be made") == 0
    rated = pd.read_csv(tmp_path / "tables" / f"{len(tasks)}-3-pairs-of-ioi-attention-heads-agreement.csv")
    assert rated["jaccard"].between(0, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_models.mostly_slow(["mamba", "mamba2", "bamba", "lfm2"], fast=("bamba",)))
def test_a_study_is_about_mixers_where_there_are_some(tmp_path, family):
    tokenizer = word_tokenizer(WORDS)
    hf = tiny_models.make(family, seed=1, dtype=torch.float32, vocab_size=len(tokenizer))
    lm = dataclasses.replace(as_model(hf, family), tokenizer=tokenizer)
    study, failed = quietly(lm, vc.tasks.ioi(lm, n=3), SMALL["default"], out=tmp_path)
    assert failed == [] and not any(isinstance(one, Failure) for one in study.sections[0].findings)
    kinds = [panel.kind for panel in study.sections[0].panels]
    wanted = {
        "mamba": ["mixers", "channels"], "mamba2": ["mixer_heads", "channels"],
        "bamba": ["mixer_heads", "heads", "mlps", "neurons"], "lfm2": ["mixers", "heads", "mlps", "neurons"],
    }  # fmt: skip
    assert kinds == wanted[family]
    first = study.sections[0].panels[0]
    assert torch.equal(
        first.exact.values, vc.exact(lm, study.sections[0].task, units=kinds[0], show_progress=False).values
    )
    assert any("no tangents" in note for note in study.notes) and "could not be made" not in " ".join(study.summary)
    asked = {type(one).__name__ for one in study.sections[0].findings}
    assert {"Disagreement", "Responses", "Surface", "AblationStudy", "Search", "Baselines", "LogitAttribution"} <= asked
    page = (tmp_path / "report.html").read_text()
    assert "could not be made" not in page and "mixer_heads" not in " ".join(study.summary)


@pytest.mark.parametrize("layers, heads", [(1, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_study_of_one_layer(small, task_of, tmp_path, layers, heads):
    lm = small(layers, heads)
    _, failed = quietly(lm, vc.tasks.ioi(lm, n=3), SMALL["default"], out=tmp_path)
    assert failed == []


def test_sets_of_the_strongest_leave_some_out():
    assert [strongest_of(count) for count in (1, 2, 3, 10, 11, 500)] == [1, 1, 1, 5, 10, 10]


def test_what_compares_the_strongest_refuses_before_it_runs(tiny, task_of, monkeypatch):
    lm, task = tiny("llama"), task_of(6)
    for module in ("comparing_baselines", "comparing_corruptions"):
        monkeypatch.setattr(f"veracausa.counterfactuals.{module}.exact", None)  # nothing may run
    one = {"units": ["a0.h0"], "show_progress": False}
    with pytest.raises(vc.errors.MethodError, match="one unit only"):
        vc.counterfactuals.baselines(lm, task, ablations=("zero",), **one)
    with pytest.raises(vc.errors.MethodError, match="one unit only"):
        vc.counterfactuals.corruptions(lm, {"a": task, "b": task}, **one)
    with pytest.raises(vc.errors.MethodError, match="top=12"):
        vc.counterfactuals.corruptions(lm, {"a": task, "b": task}, top=12, show_progress=False)


def test_a_chapter_that_cannot_be_found_stands_there_as_a_sentence(study_of_one, monkeypatch):
    def refuse(*_, **__):
        raise vc.errors.MethodError("There are no responses today.")

    refuse.work = questions.responses.work  # it is still forecast
    monkeypatch.setattr(questions, "responses", refuse)
    with pytest.warns(RuntimeWarning, match="There are no responses today"):
        study = study_of_one()
    [failure] = [one for one in study.sections[0].findings if isinstance(one, Failure)]
    assert failure.title.startswith("Responses of") and failure.sentence.endswith("There are no responses today.")
    assert any(type(one).__name__ == "AblationStudy" for one in study.sections[0].findings)  # it went on
    [chapter] = chapters([failure], "1")
    assert (chapter.title, chapter.lead) == (failure.title, failure.sentence)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "broken",
    [
        "veracausa.report.pages.panels.jaccard_view",
        "veracausa.report.tables._range",
        "veracausa.report.chapters.causes._causes_table",
    ],
)
def test_what_cannot_be_drawn_costs_nothing_else(study_of_one, tmp_path, monkeypatch, broken):
    """Each part of the page fails in turn: all scores are there, the page is, and says what failed in its place."""

    def fail(*_, **__):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(broken, fail)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError: a fault of ours"):
        study_of_one.made.save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "could not be made: ZeroDivisionError: a fault of ours" in page
    panel: Panel = study_of_one.made.sections[0].panels[0]
    saved = vc.open(tmp_path / "scores" / "1-2-pairs-of-tiny-attention-heads-exact.safetensors")
    assert torch.equal(saved.values, panel.exact.values)
    if broken.endswith("_causes_table"):  # its numbers are there, if not as they were meant to be shown
        bare = tmp_path / "tables" / "1-2-pairs-of-tiny-why-the-methods-disagree-table.csv"
        assert len(pd.read_csv(bare)) == len(panel.exact)


def test_numbers_are_written_before_anything_is_drawn(study_of_one, tmp_path, monkeypatch):
    """A process that ends while it draws has saved all numbers; of a picture that fails the page says so."""

    def die(figure):
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "png", die)
    with pytest.raises(KeyboardInterrupt):
        study_of_one.made.save(tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "scores").iterdir())) == 5
    assert list((tmp_path / "killed" / "tables").iterdir())

    def fail(figure):
        raise ValueError("no canvas")

    monkeypatch.setattr(Figure, "png", fail)
    with pytest.warns(RuntimeWarning, match="no canvas"):
        study_of_one.made.save(tmp_path / "undrawn")
    assert "-map.png could not be made: ValueError: no canvas" in (tmp_path / "undrawn" / "report.html").read_text()


def test_a_page_that_cannot_be_made_says_where_the_numbers_are(study_of_one, tmp_path, monkeypatch):
    monkeypatch.setattr("veracausa.report.pages.page.framed", None)
    with pytest.raises(vc.errors.FileError, match="All its numbers are in"):
        study_of_one.made.save(tmp_path)
    assert len(list((tmp_path / "scores").iterdir())) == 5


@pytest.fixture(scope="module")
def study_of_one(tiny, task_of):
    """A small study with its findings: `made`; called, it is made anew."""
    lm, task = tiny("llama", dtype=torch.float32), task_of((5, 6), n=2)
    level = SMALL["quick"].but(explained=1)

    def make():
        return vc.study(lm, task, level=level, show_progress=False)

    make.made = make()
    return make


def test_a_finding_of_another_version_costs_nothing_else(study_of_one, tmp_path):
    study = study_of_one.made
    study.save(tmp_path)
    other = sorted((tmp_path / "findings").iterdir())[0]
    write_tensors(other, "veracausa-something-0", {}, {"x": torch.zeros(1)})
    back = vc.open(tmp_path)
    [failure] = [one for one in back.sections[0].findings if isinstance(one, Failure)]
    assert failure.title == f"Not read: {other.stem}" and "'veracausa-something-0'" in failure.sentence
    assert len(back.sections[0].findings) == len(study.sections[0].findings)
    other.write_bytes(other.read_bytes()[:-1])  # damage is no other version
    with pytest.raises(vc.errors.FileError, match="damaged"):
        vc.open(tmp_path)
