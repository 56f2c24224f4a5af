"""Iterated selection: its first round is one-shot EAP; its later ones are scored where the circuit stands."""

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.iterated import iterate
from veracausa.errors import MethodError


def run(lm, task, **options):
    return iterate(lm, task, show_progress=False, **options)


def test_one_round_ranks_by_the_circuit_behind_it(tiny, task_of):
    """What is dropped in the first round is what EAP ranks last, in its order."""
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    eap = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    scores = run(lm, task, rounds=1, smallest=0.3)
    kept = round(0.3 * len(eap))
    assert scores.ranking()[kept:] == eap.ranking("importance")[kept:]
    assert set(scores.ranking()[:kept]) == set(eap.ranking("importance")[:kept])


@pytest.mark.parametrize("by", ["importance", "abs"])
def test_values_are_ranks(tiny, task_of, by):
    lm, task = tiny("gemma2"), task_of((5, 6), n=2)
    scores = run(lm, task, rounds=4, by=by, points=2)
    n = len(scores)
    assert n == lm.graph.size and sorted(scores.values[0].tolist()) == pytest.approx(
        [(i + 0.5) / n for i in range(n)]
    )
    assert not scores.signed and scores.settings["per_example"] is False
    assert torch.equal(scores.values[0], scores.values[1])
    assert "ranks" in repr(scores)


def test_every_drop_is_by_the_scores_of_the_circuit_at_hand(tiny, task_of):
    """Of the edges of the second round's circuit, those that stay are worth more than those that go."""
    lm, task = tiny("llama"), task_of(6, n=1)
    scores = run(lm, task, rounds=2, smallest=0.2)
    ranking, n = scores.ranking(), lm.graph.size
    sizes = np.geomspace(round(0.2 * n), n, 3).round().astype(int)
    from veracausa.circuits.evaluate import run_circuits
    from veracausa.engine.circuit_forward import kept_by

    def metric(kept):
        mask = kept_by(lm.graph, scores.units.writer[kept], scores.units.reader[kept])
        return float(run_circuits(lm, task, [mask], show_progress=False).metric[0, 0])

    middle = np.array(ranking[: sizes[1]])
    whole = metric(middle)
    worth = np.array([whole - metric(np.delete(middle, i)) for i in range(len(middle))])  # of each edge, there
    stays = np.arange(len(middle)) < sizes[0]
    assert worth[stays].mean() > worth[~stays].mean()  # gradients are no exact effects, but know which side is which


def test_the_curve_takes_it(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    curve = vc.curve(lm, task, run(lm, task, rounds=5, smallest=0.05), sizes=(0.05, 0.3, 1.0), show_progress=False)
    assert curve.signed[-1].f == pytest.approx(1, abs=1e-9) and curve.method == "iterated"
    assert [one.f for one in curve.signed] == pytest.approx([one.f for one in curve.absolute])


@pytest.mark.parametrize("options", [{"rounds": 0}, {"points": 0}, {"smallest": 0}, {"smallest": 1}, {"by": "luck"}])
def test_what_means_nothing_is_refused(tiny, task_of, options):
    with pytest.raises(MethodError, match="at least 1"):
        run(tiny("llama"), task_of(6), **options)
