"""The chapter of a study's circuit says importances, whose sign its drawing has, and the smallest circuit run."""

import dataclasses

import torch

from veracausa.circuits.quality.curve import Curve
from veracausa.report.chapters import feeding
from veracausa.report.chapters.registry import chapters
from veracausa.report.instrument.contents import contents
from veracausa.report.packing import Columns
from veracausa.report.pages.panels import SectionView
from veracausa.scores.scores import Scores
from veracausa.words import plain, signed


def test_its_sentences_are_true_of_the_numbers(study):
    scores, curve = (next(one for one in study.sections[1].findings if type(one) is kind) for kind in (Scores, Curve))
    first, second, *_ = feeding.sentences(scores, [curve])
    best = int(torch.argmax(scores.mean().abs()))
    assert f"{scores.units.names[best]}, importance {signed(-float(scores.mean()[best]))} " in first
    assert scores.direction == "noising" and "not verified" in first
    enough = [one for one in curve.absolute if one.f >= 0.8]
    assert f"has {enough[0].edges} of them (f = {plain(enough[0].f)})" in second
    none = dataclasses.replace(curve, sizes=(), signed=curve.signed[:1], absolute=())
    assert feeding.sentences(scores, [none])[1] == "No circuit that was run, by |importance|, keeps 80%."


def test_edges_at_positions_stand_in_the_circuits_chapter(study):
    section = study.sections[1]
    scores, curve = (next(one for one in section.findings if type(one) is kind) for kind in (Scores, Curve))
    some = scores.units[scores.ranking()[:5]].at_each(8)
    values = torch.arange(float(scores.n * len(some))).reshape(scores.n, len(some))
    placed = dataclasses.replace(scores, values=values, units=some)
    [chapter] = chapters([scores, curve, placed], "s")
    assert (
        f"the strongest part is {some.names[-1]}, importance {signed(-float(values[:, -1].mean()))}."
        in chapter.sentences[-1]
    )
    assert [one.title for one in chapter.tables][-1] == "The 40 strongest edges at positions"
    view = SectionView(dataclasses.replace(section, panels=(), findings=(scores, curve, placed)), "s")
    [circuit] = contents([view], Columns())["sections"][0]["circuits"]
    assert (
        circuit["positions"]["total"] == int((values.mean(0) != 0).sum()) and circuit["positions"]["axes"]["positional"]
    )
