"""A call's session: the bar moves by what is counted, and a call that was cut off goes on where it was."""

from contextlib import contextmanager

import pytest
import torch

import veracausa as vc
from veracausa.engine.session import Session, session
from veracausa.errors import FileError

UNITS = ("a0.h1", "m2")


def surface(lm, task, **options):
    return vc.causes.surface(lm, task, units=UNITS, alphas=[0.5], show_progress=False, **options)


@pytest.fixture
def bars(monkeypatch):
    """Every progress bar of a call as [total, where it began, where it ended]."""
    seen = []

    @contextmanager
    def progress(label, total, show, done=0.0):
        seen.append([total, done, done])

        def tick(amount):
            seen[-1][2] += amount

        yield tick

    monkeypatch.setattr("veracausa.engine.session.progress", progress)
    return seen


def test_the_bar_begins_at_what_is_measured_and_ends_at_what_was_planned(tiny, task_of, bars):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    found = surface(lm, task)
    planned = vc.causes.surface.work(lm, task, units=UNITS, alphas=[0.5]).tokens()
    ((total, began, ended),) = bars
    assert 0 < began < ended == total == planned == found.cost.token_layers


def test_a_call_that_is_cut_off_goes_on_where_it_was(tiny, task_of, bars, tmp_path, monkeypatch):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    whole, put, done = surface(lm, task), Session.put, []

    def stops(call, at, values):
        put(call, at, values)
        done.append(at)
        if len(done) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "put", stops)
    with pytest.raises(KeyboardInterrupt):
        surface(lm, task, out=tmp_path)
    again = surface(lm, task, out=tmp_path)
    assert sorted(example for at in done for example in at) == [0, 1, 2]  # no pair twice
    assert torch.equal(again.values, whole.values)
    assert again.cost.token_layers == whole.cost.token_layers and bars[-1][1] > bars[0][1]


def test_pieces_are_compared_on_some_pairs_where_none_is_measured(tiny, task_of, tmp_path, monkeypatch):
    lm, task = tiny("llama", fresh=True), task_of((6, 7), n=3)
    options = {"out": tmp_path, "name": "some", "measured": False, "compared": 2, "show": False}
    for _ in range(2):
        with session(lm, task, (3, 1), **options) as call:
            assert call.cost.token_layers == 0
    kind = type(lm.hf.model.layers[0].mlp)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 1.5 * own(self, x))  # no hash can see it
    with pytest.raises(FileError, match="behaved otherwise"), session(lm, task, (3, 1), **options):
        raise AssertionError("nothing is computed")
