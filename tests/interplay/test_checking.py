"""Checking an estimate of interactions: what is run, what is bounded, and what is refused."""

import numpy as np
import pytest
import torch
from two_layers import QUIET, asked

import veracausa as vc
from veracausa.errors import VeracausaError


@pytest.fixture(scope="module")
def both():
    _, lm, task = asked("llama", count=3)
    how = {"nodes": 2, **QUIET}
    return lm, task, vc.interactions(lm, task, "neurons:0", "neurons:2", **how)


def test_what_is_checked_is_what_was_run(both):
    lm, task, estimate = both
    whole = vc.interactions(lm, task, "neurons:0", "neurons:2", method="exact", **QUIET)
    found = vc.interplay.check(lm, task, estimate, top=5, sample=10, **QUIET)
    run = np.isfinite(found.truth)
    assert 1 <= run.all(0).sum() == len(found.exact.sources) <= 15 and run.any(0).sum() == run.all(0).sum()
    assert np.allclose(found.truth[run], whole.strength[run], rtol=1e-9)
    assert set(found.top) == set(np.argsort(-estimate.strength, axis=None, kind="stable")[:5])
    assert not set(found.top) & set(found.drawn) and len(found.drawn) == 10
    strong = whole.strength > found.bar
    assert found.missed >= (strong & ~run).sum()
    table = found.table()
    assert (table.exact.isna() == (table.verified == "not verified")).all()
    assert found.cost_share == pytest.approx(found.cost.token_layers / whole.cost.token_layers) and found.cost_share < 1


def test_a_bound_holds_over_seeds(both):
    lm, task, estimate = both
    whole = vc.interactions(lm, task, "neurons:0", "neurons:2", method="exact", **QUIET)
    held = []
    for seed in range(12):
        found = vc.interplay.check(lm, task, estimate, top=3, sample=6, tau=0.3, seed=seed, **QUIET)
        held.append(found.missed >= ((whole.strength > found.bar) & ~np.isfinite(found.truth)).sum())
    assert sum(held) >= 11


def test_when_all_is_run_nothing_is_missed(both):
    lm, task, estimate = both
    found = vc.interplay.check(lm, task, estimate, top=10, sample=10**6, **QUIET)
    assert found.missed == 0 and found.known.all() and "No pair is unchecked." in found.sentences
    assert found.r() > 0.5


def test_another_task_model_or_an_exact_result_is_refused(both):
    lm, task, estimate = both
    exact = vc.interactions(lm, task, "neurons:0", ["m2.n1"], method="exact", **QUIET)
    mean = vc.interactions(lm, task, "neurons:0", ["m2.n1"], ablation="mean", nodes=1, **QUIET)
    other = asked("gpt2", count=3)[1]
    for model, of, what, how, said in (
        (lm, task, exact, {}, "exact already"), (lm, task[:2], estimate, {}, "other prompts"),
        (lm, task, mean, {"reference": task[:2]}, "another reference"), (other, task, estimate, {}, "not the one"),
        (lm, task, estimate, {"top": 0}, "top=1"),
    ):  # fmt: skip
        with pytest.raises(VeracausaError, match=said):
            vc.interplay.check(model, of, what, **how, **QUIET)


def test_a_check_is_read_as_it_was_written(both, tmp_path):
    lm, task, estimate = both
    found = vc.interplay.check(lm, task, estimate, top=4, sample=4, **QUIET)
    again = vc.open(found.save(tmp_path / "check.safetensors"))
    assert repr(again) == repr(found) and torch.equal(again.exact.squares, found.exact.squares)
