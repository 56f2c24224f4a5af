"""The chapter of a study's circuit says importances, whose sign its drawing has, and the smallest circuit run."""

import dataclasses

import torch

from veracausa.circuits.quality.curve import Curve
from veracausa.report.chapters import feeding
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
