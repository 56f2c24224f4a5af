"""Circuits under zero, mean, resample and optimal ablation: against the naive reference with the same constants.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import dataclasses

import naive_circuit
import naive_edges
import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.circuits.runs.ablations import mean_writes, resampled
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.cost import Cost
from veracausa.effects.optimal_descent import Learning, Part
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import MethodError

FAMILIES = tiny_models.FAMILIES


def run(lm, task, masks, **options):
    return run_circuits(lm, task, masks, show_progress=False, **options)


def some_masks(lm):
    whole, draw = all_edges_mask(lm.graph), np.random.default_rng(3)
    return [whole & (draw.random(whole.shape) < share) for share in (0.05, 0.3, 0.8)]


def naive_means(lm, task, aligned):
    """Mean writes over all prompts of the task, prompt by prompt."""
    traces = [naive_edges.trace(lm.hf, lm.name, ids) for ids in (*task.clean, *task.corrupted)]
    return {
        name: torch.stack([one.writes[name] for one in traces]).mean(0)
        if aligned
        else torch.cat([one.writes[name] for one in traces]).mean(0, keepdim=True)
        for name in lm.graph.writer_names
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_ablation(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    zeros = {name: torch.zeros(1, lm.width, dtype=torch.float64) for name in lm.graph.writer_names}
    masks = [np.zeros_like(all_edges_mask(lm.graph)), *some_masks(lm)]
    found = run(lm, task, masks, ablation="zero")
    theirs = torch.stack([naive_circuit.metrics(lm, task, mask, zeros) for mask in masks])
    agree(found.metric, theirs, lm.measure(task).gap)
    agree(found.measured.corrupted, theirs[0], lm.measure(task).gap)


@pytest.mark.parametrize("lengths", [6, (5, 7)])
@pytest.mark.parametrize("family", FAMILIES)
def test_mean_ablation_is_over_prompts_not_over_writers_or_the_last_position(tiny, task_of, agree, family, lengths):
    lm, task = tiny(family), task_of(lengths, n=4)
    means = naive_means(lm, task, aligned=lengths == 6)
    ours = mean_writes(lm, task, task.lengths, Cost())
    for i, name in enumerate(lm.graph.writer_names):
        torch.testing.assert_close(ours[i], means[name], rtol=0, atol=1e-12)
    masks = some_masks(lm)[1:]
    found = run(lm, task[:2], masks, ablation="mean", reference=task)
    theirs = torch.stack([naive_circuit.metrics(lm, task[:2], mask, means) for mask in masks])
    agree(found.metric, theirs, lm.measure(task).gap)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_circuits_that_share_their_memory_are_those_alone_bit_for_bit(tiny, task_of, family):
    """A larger circuit, a smaller one, and the first again write into the same room, pairs of two lengths."""
    lm, task = tiny(family), task_of((5, 6), n=4)
    small, _, large = some_masks(lm)
    together = run(lm, task, [large, small, large]).metric
    assert torch.equal(together[0], together[2])
    for mask, metric in zip((large, small), together, strict=False):
        assert torch.equal(run(lm, task, [mask]).metric[0], metric)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_all_edges_are_the_clean_run(tiny, task_of, agree, family, ablation):
    lm, task = tiny(family), task_of(6, n=4)
    measured = lm.measure(task)
    found = run(lm, task, [all_edges_mask(lm.graph)], ablation=ablation)
    agree(found.metric[0], measured.clean, measured.gap)
    assert found.kl[0].abs().max() < 1e-12


def test_resampling_is_a_counterfactual_of_another_prompt(tiny, task_of, agree):
    lm, task = tiny("llama"), task_of((5, 7), n=6)
    other = resampled(task, task, seed=1)
    for i in range(len(task)):
        assert other.corrupted[i] in {*task.clean, *task.corrupted} - {task.clean[i], task.corrupted[i]}
        assert other.corrupted[i] == resampled(task[: i + 1], task, seed=1).corrupted[i]  # keyed by (seed, example)
    assert other.corrupted != resampled(task, task, seed=2).corrupted
    masks = some_masks(lm)
    found = run(lm, task, masks, ablation="resample", seed=1)
    agree(found.metric, run(lm, other, masks).metric, found.measured.gap)
    agree(found.measured.corrupted, lm.measure(other).corrupted, found.measured.gap)


def test_nothing_to_resample_from(tiny, task_of):
    with pytest.raises(MethodError, match="another prompt of the same length"):
        run(tiny("llama"), task_of(6, n=1), some_masks(tiny("llama")), ablation="resample")


@pytest.mark.slow
def test_optimal_constants_lower_the_loss(tiny, task_of, agree):
    lm, task = tiny("gpt2"), task_of((5, 7), n=6)
    masks = some_masks(lm)[1:2]
    found = run(lm, task, masks, ablation="optimal", learning=Learning(steps=40))
    mean = run(lm, task, masks, ablation="mean", reference=task)
    assert float(found.kl.mean()) < 0.7 * float(mean.kl.mean())
    assert "40 steps" in found.notes[0] and "→" in found.notes[0]
    again = run(lm, task, masks, ablation="optimal", learning=Learning(steps=40))
    agree(again.metric, found.metric, found.measured.gap)
    other = run(lm, task, masks, ablation="optimal", learning=Learning(steps=40, seed=1))
    assert not torch.equal(other.metric, found.metric)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_gradients_of_constants(tiny, task_of, family):
    """Central differences of step 1e-5 in float64 against autograd: agreement to 1e-5 of the largest entry."""
    from veracausa.circuits.runs.optimal_constants import _Learner
    from veracausa.circuits.runs.tapes import record_all
    from veracausa.engine.attention import SUFFIX
    from veracausa.engine.circuit_forward import wiring_of
    from veracausa.engine.guard import attention_function, borrowed

    lm, task = tiny(family), task_of(6, n=2)
    constants = mean_writes(lm, task, (), Cost())
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        with torch.no_grad():
            buckets = record_all(lm, task, Cost(), share_prefix=False)[0]
            parts = [Part(one.tape, one.read.divergence(one.tape.clean)) for one in buckets]
        learner = _Learner(lm, parts, wiring_of(lm.decoder, some_masks(lm)[1], settled=False), Cost(), lambda _: None)
        leaf = constants.clone().requires_grad_()
        learner.divergence(leaf, parts[0], slice(0, 2)).sum().backward()
        draw = torch.Generator().manual_seed(0)
        for _ in range(5):
            way = torch.randn(constants.shape, generator=draw, dtype=constants.dtype)
            with torch.no_grad():
                ends = [
                    learner.divergence(constants + sign * 1e-5 * way, parts[0], slice(0, 2)).sum() for sign in (1, -1)
                ]
            slope, ours = float(ends[0] - ends[1]) / 2e-5, float((leaf.grad * way).sum())
            assert ours == pytest.approx(slope, rel=1e-5, abs=1e-5 * float(leaf.grad.abs().max()))


def test_faithfulness_and_curve_say_the_ablation(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=4)
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    circuit = vc.select(scores, n=60)
    found = vc.faithfulness(lm, task, circuit, ablation="mean", show_progress=False)
    assert "mean ablation" in repr(found) and found.ablation == "mean"
    curve = vc.curve(lm, task, scores, sizes=(0.1, 1.0), ablation="zero", show_progress=False)
    assert "zero ablation" in repr(curve) and curve.signed[-1].f == pytest.approx(1, abs=1e-9)
    with pytest.raises(MethodError, match="not known"):
        vc.faithfulness(lm, task, circuit, ablation="average", show_progress=False)


def test_learning_options():
    with pytest.raises(MethodError, match="above 0"):
        Learning(steps=0)
    assert dataclasses.replace(Learning(), steps=3).steps == 3
