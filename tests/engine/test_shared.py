"""Recordings that calls share: the same numbers at the same cost, from fewer runs."""

from __future__ import annotations

import pytest
import torch

import veracausa as vc
from veracausa.engine import guard
from veracausa.engine.guard import borrowed, loan_of, shared
from veracausa.engine.shelf import Shelf


@pytest.fixture
def counted(tiny):
    """A model, and the number of times that its first block has run."""
    lm, runs = tiny("llama", fresh=True), []
    lm.hf.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    return lm, lambda: len(runs)


def calls(lm, task):
    """Calls that record the same pairs, some with other sites, some with gradients."""
    how = {"show_progress": False}
    return [
        vc.exact(lm, task, units="heads", **how),
        vc.attribute(lm, task, units="heads", method="ig", nodes=2, **how),
        vc.exact(lm, task, units="neurons", direction="denoising", **how),
        vc.attribute(lm, task, units="neurons", method="atp", **how),
        vc.attribute(lm, task, units="heads", method="atp", direction="denoising", **how),
        vc.attribute(lm, task, units="heads", method="relp", **how),
        vc.exact(lm, task, units="queries", **how),
        vc.exact(lm, task.with_metric("logprob"), units="heads", **how),
        vc.exact(lm, task, units="heads", ablation="zero", **how),
        vc.effects.last_in(lm, task, units="heads", **how),
    ]


@pytest.mark.cases(1)
@pytest.mark.parametrize("room", [0.125, 0.0], ids=["shared", "no room"])
def test_numbers_and_costs_are_those_of_calls_alone(counted, task_of, monkeypatch, room):
    (lm, runs), task = counted, task_of((5, 6), n=4)
    monkeypatch.setattr(guard, "SHELF", room)
    with borrowed(lm.decoder):
        alone, before = calls(lm, task), runs()
    with shared(lm.decoder):
        together = calls(lm, task)
    assert runs() < 1.8 * before if room else runs() == 2 * before
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.values, other.values), one.method
        assert (one.cost.forward, one.cost.backward) == (other.cost.forward, other.cost.backward), one.method


def test_the_bare_model_is_asked_once_while_recordings_are_shared(counted, task_of):
    (lm, runs), task = counted, task_of(6, n=2)

    def asked(task):
        before = runs()
        lm.measure(task)
        return runs() - before

    assert asked(task) > 0 and asked(task) > 0
    with borrowed(lm.decoder):
        assert asked(task) > 0 and asked(task) > 0
    with shared(lm.decoder):
        assert asked(task) > 0 and asked(task) == 0
        with shared(lm.decoder):
            assert asked(task) == 0
        assert asked(task_of(6, n=2, seed=5)) > 0
    assert loan_of(lm.decoder).shelf is None and asked(task) > 0


def test_a_shelf_makes_room():
    shelf = Shelf(10)
    for key, size in (("a", 4), ("b", 4), ("a", 5), ("c", 3), ("d", 11)):
        shelf.put(key, key.upper(), size)
    assert [shelf.get(key) for key in "abcd"] == ["A", None, "C", None]
