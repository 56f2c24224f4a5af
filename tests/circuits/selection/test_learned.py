"""Learned edge masks: the gates' gradients, true edges of compiled programs, and what never changes a number."""

import re

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.recorded import record
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.runs.tapes import step_groups
from veracausa.circuits.selection.gated_edges import gated_edges
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, borrowed
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.learned.losses import MASK_LOSSES
from veracausa.ground_truth import load_compiled
from veracausa.units.every_unit import all_edges


def learn(lm, task, **options):
    return vc.circuits.learn(lm, task, **({"steps": 6, "keep": 0.2, "show_progress": False} | options))


@pytest.mark.cases(3)
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("loss", list(MASK_LOSSES))
def test_the_gradient_is_the_slope_of_the_loss(tiny, task_of, loss, each):
    """1e-6 of the largest slope: a central difference with step 1e-5. Pairs with gates of their own, too."""
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    edges, generator = all_edges(lm), torch.Generator().manual_seed(1)
    groups = step_groups(lm, task, True, 2, pairs=2)
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        runs = gated_edges(record(lm, task, Cost(), most=2), edges, loss, groups)
        group = max(range(len(groups)), key=lambda number: len(runs.pairs(number)))
        assert sorted(pair for number in range(len(groups)) for pair in runs.pairs(number)) == [0, 1, 2]
        shape = (len(runs.pairs(group)), len(edges)) if each else (len(edges),)
        gates = torch.rand(shape, dtype=torch.float64, generator=generator)
        for cause in (False, True)[: 1 + (loss != "kl")]:
            found = runs.slope(group, gates, cause)[1]
            for at in map(tuple, np.argwhere(found.abs().numpy() >= np.sort(found.abs().numpy(), None)[-4])):
                step = torch.zeros_like(gates)
                step[at] = 1e-5
                ends = [runs.slope(group, gates + sign * step, cause)[0] for sign in (1, -1)]
                slope = (ends[0] - ends[1]) / 2e-5
                assert float(found[at]) == pytest.approx(slope, abs=1e-6 * float(found.abs().max()))


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", ["share", "top-k"])
@pytest.mark.parametrize("program", ["pair_balance", pytest.param("frac_prevs", marks=pytest.mark.slow)])
def test_the_true_edges_of_a_compiled_program_are_found(program, how):
    lm, known = load_compiled(program)
    task, count = known.task(n=16), len(known.edges)
    mask = learn(lm, task, how=how, keep=count, steps=100, batch=8, smallest=0.05 if how == "top-k" else None)
    assert set(mask.top(count).name) == set(known.edges)
    tenths = re.search(r"of the steps: (.*?);", mask.notes[0])[1].split()
    first, last = float(tenths[0]), float(tenths[-1])
    assert last < 0.7 * first or last < 1e-4
    assert "KL 0.000" in mask.notes[1]


@pytest.mark.parametrize("how", ["share", "top-k"])
def test_what_it_says_of_itself(tiny, task_of, how, tmp_path):
    lm, task = tiny("gemma3"), task_of((5, 6), n=3, seed=4)
    mask = learn(lm, task, how=how)
    assert not mask.signed and mask.verified == "not verified" and mask.cost.backward > 0
    assert mask.units.digest() == all_edges(lm).digest() and (mask.values == mask.values[0]).all()
    assert ((mask.values >= 0) & (mask.values <= 1)).all() and mask.settings["steps"] == 6
    kept = mask.ranking()[: mask.settings["keep"]]
    outcome = run_circuits(lm, task, [mask.units[kept].mask])
    assert f"KL {outcome.kl.mean():.3f}, metric {outcome.metric.mean():+.3f}" in mask.notes[1]
    assert len(vc.select(mask, n=30)) <= 30
    assert len(vc.curve(lm, task, mask, sizes=(0.1, 1.0), show_progress=False).signed) == 2
    again = vc.open(mask.save(tmp_path / "mask.safetensors"))
    assert torch.equal(again.values, mask.values) and again.notes == mask.notes


@pytest.mark.slow
def test_the_wanted_share_is_reached(tiny, task_of):
    mask = learn(tiny("llama"), task_of(5, seed=4), keep=0.3, steps=200)
    assert float(mask.mean().mean()) == pytest.approx(0.3, rel=0.3)


@pytest.mark.parametrize("how", ["share", "top-k"])
def test_a_warm_start_is_taken(tiny, task_of, how):
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    mask = learn(lm, task, how=how, steps=1, lr=1e-9, start=scores)
    assert mask.ranking() == scores.ranking() and mask.settings["start"] == "eap"
    few = vc.attribute(lm, task, units=["input->m0"], method="eap", show_progress=False)
    with pytest.raises(UnitError, match="same units"):
        learn(lm, task, start=few)


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", ["share", "top-k"])
def test_reproducible_by_seed_whatever_the_chunks(tiny, task_of, monkeypatch, how):
    """Gates begin apart, since ranks of edges that the loss never moves would be decided by rounding."""
    lm, task = tiny("gpt2"), task_of((5, 6), n=4)
    start = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    one, same, other = (learn(lm, task, how=how, seed=seed, start=start).values for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    monkeypatch.setattr("veracausa.circuits.runs.recorded.rows_per_chunk", lambda *_: 1)
    chunked = learn(lm, task, how=how, seed=1, start=start).values
    torch.testing.assert_close(chunked, one, rtol=0, atol=1e-8)


def test_cost_is_counted(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    one, three = (learn(lm, task, steps=steps, batch=8).cost for steps in (1, 3))
    first = min(next(t for t in range(6) if a[t] != b[t]) for a, b in zip(task.clean, task.corrupted, strict=True))
    late = 2 * len(task) * (6 - first)  # few tokens: both pairs run from the first difference of either
    assert three.backward - one.backward == late * lm.layers and three.backward == 3 * one.backward


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"how": "luck"}, "luck"),
        ({"smallest": 0.0}, "smallest=0.0"),
        ({"keep": 1.0}, "keep=1.0"),
        ({"keep": 0}, "keep=0"),
        ({"loss": "mse"}, "loss='mse'"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_what_means_nothing_is_refused(tiny, task_of, options, word):
    with pytest.raises(MethodError, match=word):
        learn(tiny("llama"), task_of((5, 6), n=2), **options)


def test_edges_are_learned_here_and_not_with_the_nodes(tiny, task_of):
    with pytest.raises(MethodError, match=r"vc\.circuits\.learn"):
        vc.estimates.learn_mask(tiny("llama"), task_of(6), units="edges")
    assert np.isfinite(learn(tiny("llama"), task_of(6), steps=2).values.numpy()).all()
