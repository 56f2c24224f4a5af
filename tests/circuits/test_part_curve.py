"""Circuits of features: against whole runs with hooks, closed ends, and what is done with errors."""

import numpy as np
import pytest
import torch
from laid_features import asked, dictionary, part_of
from naive_features import both, run

import veracausa as vc
from veracausa.errors import VeracausaError

QUIET = {"show_progress": False}


def naive(hf, family, pair, theirs, outside):
    """M of the run in which these parts take the other run's values."""
    delta = 0
    if outside:
        own, there = (theirs.parts(*both(hf, family, ids, theirs)) for ids in (pair.clean, pair.corrupted))
        delta = sum(there[part] - own[part] for part in outside)
    with torch.no_grad():
        logits = run(hf, family, pair.clean, [(theirs.writes, lambda a: a + delta)])
    return float(logits[pair.correct] - logits[pair.incorrect])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("errors", ["node", "kept", "moved"])
def test_circuits_are_what_hooks_on_whole_runs_give(family, errors):
    hf, lm, found, task = asked(family)
    ours, theirs = dictionary(lm.width, "r1", "relu")
    lm = lm.reading(ours)
    scores = vc.exact(lm, task, units="features", **QUIET)
    curve = vc.circuits.part_curve(lm, task, scores, sizes=(0, 3, 6), errors=errors, **QUIET)
    moved = ["error"] if errors == "moved" else []
    assert any(name.endswith("error") for name in curve.ranked) == (errors == "node")
    parts = [part_of(name) for name in curve.ranked]

    def mean(outside):
        return np.mean([naive(hf, family, pair, theirs, outside) for pair in found])

    whole, none = mean([]), mean(parts + moved)
    for size, faithful, complete in zip(curve.sizes, curve.faithfulness, curve.completeness, strict=True):
        assert faithful == pytest.approx((mean(parts[size:] + moved) - none) / (whole - none), abs=1e-9)
        assert complete == pytest.approx((mean(parts[:size] + moved) - none) / (whole - none), abs=1e-9)


def test_ends():
    _, lm, _, task = asked("llama", count=4)
    lm = lm.reading(dictionary(lm.width, "r1", "relu")[0])
    scores = vc.attribute(lm, task, units="features", **QUIET)
    most = len(scores.units)
    curve = vc.circuits.part_curve(lm, task, scores, sizes=(0, most), **QUIET)
    np.testing.assert_allclose(curve.faithfulness, [0, 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(curve.completeness, [1, 0], rtol=0, atol=1e-9)
    zero = vc.circuits.part_curve(lm, task, scores, errors="moved", ablation="zero", **QUIET)
    assert zero.sizes[-1] == most - 1 and "errors moved · ablation zero" in zero.describe()
    assert list(zero.table()["parts"]) == list(zero.sizes)
    one = vc.circuits.part_curve(lm, task, scores, sizes=(1,), **QUIET)
    assert one.sentences[0].startswith(f"The strongest one of {most} parts holds ")
    assert one.sentences[1].startswith("Without the strongest one ")


def test_what_is_refused():
    _, lm, _, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", "relu")[0])
    heads, parts = (vc.attribute(lm, task, units=units, **QUIET) for units in ("heads", "features"))
    for scores, how, said in (
        (heads, {}, "of heads"),
        (parts, {"errors": "gone"}, "node, kept, moved"),
        (parts, {"sizes": (99,)}, "circuits have 0"),
    ):
        with pytest.raises(VeracausaError, match=said):
            vc.circuits.part_curve(lm, task, scores, **how, **QUIET)
