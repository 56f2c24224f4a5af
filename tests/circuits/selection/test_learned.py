"""Learned edge masks: the gates' gradients, true edges of compiled programs, and what never changes a number."""

import re

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.recorded import record
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.selection.learned import _Runs, competing
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import kept_by
from veracausa.engine.guard import attention_function, borrowed
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.learned.concrete import hard_concrete
from veracausa.ground_truth import load_compiled
from veracausa.units.resolve import all_edges


def learn(lm, task, **options):
    return vc.circuits.learn(lm, task, **({"steps": 6, "keep": 0.2, "show_progress": False} | options))


@pytest.mark.parametrize("size", [1.0, 7.5, 30.0])
def test_competing_gates_sum_to_their_number(size):
    """Their slopes are those of the gates with the threshold moving along: 1e-6, central differences of step 1e-6."""
    generator = torch.Generator().manual_seed(0)
    scores, uniform = (torch.rand(40, dtype=torch.float64, generator=generator) for _ in range(2))
    gates, steep = competing(scores, uniform, size)
    assert float(gates.sum()) == pytest.approx(size, abs=1e-9)
    assert ((gates >= 0) & (gates <= 1)).all()
    upstream = torch.rand(40, dtype=torch.float64, generator=generator)
    slope = steep * (upstream - (steep * upstream).sum() / steep.sum())
    for edge in range(0, 40, 3):
        step = torch.zeros_like(scores)
        step[edge] = 1e-6
        ends = [(competing(scores + sign * step, uniform, size)[0] * upstream).sum() for sign in (1, -1)]
        assert float(slope[edge]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("loss", ["kl", "metric"])
def test_the_gradient_is_the_slope_of_the_loss(tiny, task_of, loss):
    """1e-6 of the largest slope: a central difference with step 1e-5."""
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    edges, generator = all_edges(lm), torch.Generator().manual_seed(1)
    log_alpha = torch.randn(len(edges), dtype=torch.float64, generator=generator).requires_grad_()
    uniform = torch.rand(1, len(edges), dtype=torch.float64, generator=generator).clamp(0.05, 0.95)
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        runs = _Runs(record(lm, task, Cost(), most=2), edges, loss)
        sizes = [runs.size(group) for group in range(len(runs.recorded.groups))]
        assert sorted(sizes) == sorted(map(len, runs.recorded.groups)) and sum(sizes) == 3 and max(sizes) <= 2

        def value(at):
            gates = hard_concrete(at, uniform[0])
            return sum(runs.slope(group, gates)[0] for group in range(len(sizes)))

        found = sum(runs.gradient(group, log_alpha, lambda _: uniform)[1] for group in range(len(sizes)))
        moving = found.abs().argsort(descending=True)[:6].tolist()
        for edge in moving:
            step = torch.zeros_like(log_alpha)
            step[edge] = 1e-5
            difference = (value(log_alpha.detach() + step) - value(log_alpha.detach() - step)) / 2e-5
            assert float(found[edge]) == pytest.approx(difference, abs=1e-6 * float(found.abs().max()))


@pytest.mark.parametrize("how", ["share", "top-k"])
@pytest.mark.parametrize("program", ["pair_balance", pytest.param("frac_prevs", marks=pytest.mark.slow)])
def test_the_true_edges_of_a_compiled_program_are_found(program, how):
    lm, known = load_compiled(program)
    task, count = known.task(n=16), len(known.edges)
    mask = learn(lm, task, how=how, keep=count, steps=100, batch=8, smallest=0.05)
    assert set(mask.top(count).name) == set(known.edges)
    first, last = map(float, re.search(r"output, (\S+) over .* and (\S+) over", mask.notes[0]).groups())
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
    outcome = run_circuits(lm, task, [kept_by(lm.graph, mask.units.writer[kept], mask.units.reader[kept])])
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
