"""Weighted circuits: 0 and 1 are circuits, the gradient at 1 is EAP, elsewhere the slope. Tolerance: conftest.EXACT."""

import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.cost import Cost
from veracausa.engine.ablated import OtherRun
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import SITES, all_edges_mask
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.recording import record_pairs
from veracausa.engine.soft_circuit import SoftCircuit

FAMILIES = tiny_models.FAMILIES


def soft(lm, task):
    """A run of pairs of one length that differ from position 0 on (nothing shared)."""
    with torch.no_grad():
        examples = tuple(range(len(task)))
        tape = record_pairs(lm.decoder, *pair_ids(lm, task, examples), 0, examples=examples, sites=SITES)
        read = readout(lm, task, tape)
        return SoftCircuit(lm.decoder, tape, OtherRun(lm.decoder, tape), read, Cost()), slice(0, len(task))


def gradient(circuit, mask, rows):
    """M of the rows, and the gradient of its sum with respect to the weights."""
    leaf = mask.detach().clone().requires_grad_()
    last = circuit.run(leaf, rows)
    metric = circuit.read(last, torch.arange(len(circuit.tape.examples))[rows])
    return metric.detach(), torch.autograd.grad(metric.sum(), leaf)[0]


@pytest.fixture(params=[*FAMILIES, "olmo2", "deepseek_v3"])
def ready(tiny, task_of, request):
    lm, task = tiny(request.param), task_of(6, n=2)
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        yield lm, task, *soft(lm, task)


def test_weights_of_0_and_1_are_circuits(ready, agree):
    lm, task, circuit, rows = ready
    whole = all_edges_mask(lm.graph)
    masks = [whole, np.zeros_like(whole), whole & (np.random.default_rng(0).random(whole.shape) < 0.5)]
    hard = run_circuits(lm, task, masks, show_progress=False)
    for mask, metric in zip(masks, hard.metric, strict=True):
        found, _ = gradient(circuit, torch.as_tensor(mask, dtype=torch.float64), rows)
        agree(found, metric, hard.measured.gap)


def test_the_gradient_at_1_is_minus_eap(ready, agree):
    lm, task, circuit, rows = ready
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    whole = torch.as_tensor(all_edges_mask(lm.graph), dtype=torch.float64)
    _, slope = gradient(circuit, whole, rows)
    agree(-slope[scores.units.reader, scores.units.writer], scores.values.sum(0), scores.gap)


@pytest.mark.cases(6)
def test_elsewhere_it_is_the_slope(ready, agree):
    """1e-6 of the gap: a central difference with step 1e-5."""
    lm, task, circuit, rows = ready
    gap = lm.measure(task).gap
    whole, draw = all_edges_mask(lm.graph), np.random.default_rng(1)
    mask = torch.as_tensor(whole * draw.random(whole.shape))
    _, slope = gradient(circuit, mask, rows)
    for reader, writer in draw.permutation(np.argwhere(whole))[:12]:
        step = torch.zeros_like(mask)
        step[reader, writer] = 1e-5
        ends = [gradient(circuit, mask + sign * step, rows)[0].sum() for sign in (1, -1)]
        agree(slope[reader, writer], (ends[0] - ends[1]) / 2e-5, gap, 1e-6)
    assert slope.abs().max() > 1e-3
