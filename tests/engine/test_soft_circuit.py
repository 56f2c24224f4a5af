"""Weighted circuits: 0 and 1 are circuits, the gradient at 1 is EAP, elsewhere the slope. Tolerance: conftest.EXACT."""

import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.cost import Cost
from veracausa.engine import mixed_writes
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


@pytest.mark.cases(4)
def test_weights_of_0_and_1_are_circuits(ready, agree):
    lm, task, circuit, rows = ready
    whole = all_edges_mask(lm.graph)
    masks = [whole, np.zeros_like(whole), whole & (np.random.default_rng(0).random(whole.shape) < 0.5)]
    hard = run_circuits(lm, task, masks, show_progress=False)
    for mask, metric in zip(masks, hard.metric, strict=True):
        found, _ = gradient(circuit, torch.as_tensor(mask, dtype=torch.float64), rows)
        agree(found, metric, hard.measured.gap)


@pytest.mark.parametrize("waiting", [1, 5, 13, 1000])
def test_gradients_that_wait_are_those_of_plain_autograd(waiting, monkeypatch):
    """Σ_u m_vu δ_u by autograd alone, a product for each group of readers, whatever waits for how long; both masks."""
    lm = as_model(tiny_models.make("olmo2", seed=1), "olmo2")
    graph, draw = lm.graph, torch.Generator().manual_seed(0)
    monkeypatch.setattr(mixed_writes, "_WAITING", waiting)
    for rows in ((), (2,)):
        mask = torch.randn(*rows, graph.readers, graph.writers, generator=draw, dtype=torch.float64, requires_grad=True)
        start = torch.randn(2, 3, lm.width, generator=draw, dtype=torch.float64, requires_grad=True)
        found = []
        for ours in (True, False):
            written, plain, total = mixed_writes.MixedWrites(lm.decoder, mask), [], torch.zeros((), dtype=torch.float64)
            for reader in dict.fromkeys(graph.reader_group.tolist()):
                writers, known = int((graph.writer_order <= graph.reader_order[reader]).sum()), sum(map(len, plain))
                if writers > known:  # what is written depends on what was seen before
                    new = torch.stack([torch.sin((i + 1) * start + total) for i in range(known, writers)])
                    written.put(new)
                    plain.append(new)
                count = int((graph.reader_group == reader).sum())
                own = mask[..., reader : reader + count, :writers]
                other = torch.einsum("rw,wbsd->rbsd" if not rows else "brw,wbsd->rbsd", own, torch.cat(plain))
                seen = written.seen(reader, count) if ours else other
                total = total + torch.cos(seen).sum() / seen.numel()
            found.append(torch.autograd.grad(total, [mask, start]))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)  # sums in another order


@pytest.mark.cases(4)
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
