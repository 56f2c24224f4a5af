"""Stretches of positions: the same scores whatever is told at once.

Tolerance 1e-9 of the gap in float64 (conftest.EXACT): sums over stretches are those over positions in another order.
"""

import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.engine.stretches import Stretch, at_once, stretches
from veracausa.estimates.presets import EDGE_PRESETS


def test_stretches_cover_all_positions_once():
    found = stretches(10, 100, 3_000)
    assert [(one.first, one.behind, one.of) for one in found] == [(0, 3, 10), (3, 6, 10), (6, 9, 10), (9, 10, 10)]
    assert stretches(10, 100, 10**6) == [Stretch(0, 10, 10)] and stretches(10, 100, 10**6)[0].whole
    assert at_once(10, 100, 0) == 1 and len(stretches(1, 10**9, 0)) == 1


def test_a_tail_is_cut_by_its_own_positions():
    x, tail = torch.arange(12.0).reshape(1, 6, 2), torch.arange(12.0).reshape(1, 6, 2)[:, -2:]
    at = Stretch(3, 5, 6)
    assert torch.equal(at.cut(x), x[:, 3:5])
    assert torch.equal(at.cut(tail), x[:, 4:5])
    assert at.cut(x[:, -1:]).shape == (1, 0, 2)
    assert at.cut(torch.empty(0)).shape == (0,)


@pytest.fixture
def one_at_a_time(monkeypatch):
    """No memory for more than one position."""
    return lambda: monkeypatch.setattr("veracausa.engine.stretches.SHARE", 1e-15)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", [*EDGE_PRESETS, "ifr"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt2", "gemma2", "gpt_neox"], ["gemma2"]))
def test_scores_of_edges_are_those_of_all_positions_at_once(tiny, task_of, agree, one_at_a_time, family, method):
    lm, task = tiny(family), task_of((5, 7), n=3)
    found = vc.attribute(lm, task, units="edges", method=method, show_progress=False)
    one_at_a_time()
    parts = vc.attribute(lm, task, units="edges", method=method, show_progress=False)
    agree(parts.values, found.values, found.gap)
    if found.completeness is not None:
        agree(parts.completeness.claimed, found.completeness.claimed, found.gap)
    if found.draw_stderr is not None:
        agree(parts.draw_stderr, found.draw_stderr, found.gap, 1e-6)  # a root of a difference


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["eap", "eap-ig", "ceap", "eap-ig-activations", "qk-exact", "ifr"])
def test_scores_of_edges_of_mixers(tiny, task_of, agree, one_at_a_time, method):
    lm, task = tiny("nemotron_h"), task_of((5, 7), n=2)
    found = vc.attribute(lm, task, units="edges", method=method, show_progress=False)
    one_at_a_time()
    parts = vc.attribute(lm, task, units="edges", method=method, show_progress=False)
    agree(parts.values, found.values, found.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["eap", "eap-ig", "ceap", "eap-ig-activations", "ifr"])
def test_scores_of_edges_at_positions(tiny, task_of, agree, one_at_a_time, method):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    some = vc.attribute(lm, task, units="edges@positions", method=method, show_progress=False)
    one_at_a_time()
    parts = vc.attribute(lm, task, units="edges@positions", method=method, show_progress=False)
    agree(parts.values, some.values, some.gap)


@pytest.mark.parametrize("method", ["ceap", "gradpath-complete"])
@pytest.mark.parametrize("units", ["edges", "heads"])
def test_steps_between_chunks(tiny, task_of, agree, one_at_a_time, monkeypatch, units, method):
    """One row at a time: each step begins at the last row of the chunk before."""
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    found = vc.attribute(lm, task, units=units, method=method, show_progress=False)
    one_at_a_time()
    monkeypatch.setattr("veracausa.estimates.paths.network.rows_per_chunk", lambda *_, **__: 1)
    alone = vc.attribute(lm, task, units=units, method=method, show_progress=False)
    agree(alone.values, found.values, found.gap)
