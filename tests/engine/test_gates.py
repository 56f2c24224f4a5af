"""Gated runs against exact effects and against the naive reference with the same mixture put in by plain hooks."""

import naive
import pytest
import tiny_models
import torch
from bridges import naive_metric

import veracausa as vc
from veracausa.cost import Cost
from veracausa.engine.batches import buckets
from veracausa.engine.gates import GatedPairs, layer_gates
from veracausa.engine.guard import borrowed
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.patches import sites_for
from veracausa.engine.recording import record_pairs
from veracausa.units.every_unit import all_units

FAMILIES = tiny_models.FAMILIES
KINDS = ("heads", "mlps", "attention", "neurons")


def gated_metric(lm, task, kind, gates, cost=None, share=True, most=9):
    """M of every pair under gates [layers, parts] of its own, [examples, layers, parts]."""
    place, found = all_units(lm, kind).place, {}
    with borrowed(lm.decoder):
        for start, examples in buckets(lm.decoder, task, share, most):
            ids = pair_ids(lm, task, examples)
            tape = record_pairs(lm.decoder, *ids, start, examples=examples, sites=sites_for(place))
            pairs, rows = GatedPairs.of(lm.decoder, place, tape, ids[0]), torch.arange(len(examples))
            value = readout(lm, task, tape)(pairs.run(gates[list(examples)], rows, cost), rows)
            found |= dict(zip(examples, value, strict=True))
    return torch.stack([found[i] for i in range(len(task))])


def opened(lm, task, kind):
    parts = {"heads": lm.heads, "neurons": lm.neurons}.get(kind, 1)
    return torch.ones(len(task), lm.layers, parts, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_open_is_the_clean_run(tiny, task_of, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6, 7), n=4, seed=4)
    measured = lm.measure(task)
    agree(gated_metric(lm, task, kind, opened(lm, task, kind)), measured.clean, measured.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_closed_is_the_units_exact_effect(tiny, task_of, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6), n=3, seed=4)
    exact = vc.exact(lm, task, units=kind, show_progress=False)
    for unit in range(0, len(exact), 37 if kind == "neurons" else 1):
        gates = opened(lm, task, kind)
        gates[:, exact.units.layer[unit], max(exact.units.index[unit], 0)] = 0
        agree(gated_metric(lm, task, kind, gates) - exact.clean, exact.values[:, unit], exact.gap)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_of_a_layer_closed_is_the_attention_layers_exact_effect(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    exact = vc.exact(lm, task, units="attention", show_progress=False)
    for layer in range(lm.layers):
        gates = opened(lm, task, "heads")
        gates[:, layer] = 0
        agree(gated_metric(lm, task, "heads", gates) - exact.clean, exact.values[:, layer], exact.gap)


def naive_gated(lm, task, kind, gates, example):
    """The same by plain hooks on a whole forward; carries gradients to the gates."""
    site = {"mlps": "mlp", "neurons": "neurons"}.get(kind, "z")
    corrupted = naive.activations(lm.hf, lm.name, task.corrupted[example])[site]

    def edit(layer):
        def mix(a):
            gate = gates[layer].repeat_interleave(a.shape[1] // gates.shape[1])
            return gate * a + (1 - gate) * corrupted[layer]

        return mix

    edits = [(site, layer, edit(layer)) for layer in range(lm.layers)]
    return naive_metric(lm, task, example)(naive._run(lm.hf, lm.name, task.clean[example], edits)[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_gates_and_their_gradients(tiny, task_of, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6), n=3, seed=4)
    shape = opened(lm, task, kind).shape
    gates = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours = gated_metric(lm, task, kind, gates)
    theirs = torch.stack([naive_gated(lm, task, kind, gates[i], i) for i in range(len(task))])
    gap = lm.measure(task).gap
    agree(ours.detach(), theirs.detach(), gap)
    agree(*(torch.autograd.grad(m.sum(), gates)[0] for m in (ours, theirs)), gap)


def test_prefix_batches_and_rows_change_nothing(tiny, task_of, agree):
    lm, task = tiny("gemma3"), task_of((6, 7), n=5, seed=4)
    gates = torch.rand(5, lm.layers, lm.heads, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, gap = gated_metric(lm, task, "heads", gates), lm.measure(task).gap
    agree(gated_metric(lm, task, "heads", gates, share=False), whole, gap)
    agree(gated_metric(lm, task, "heads", gates, most=1), whole, gap)
    agree(gated_metric(lm, task[[3]], "heads", gates[[3]]), whole[[3]], gap)


def test_cost_counts_the_positions_that_are_run(tiny, task_of):
    lm, task = tiny("llama"), task_of(7, n=2, seed=4)
    positions = sum(length - first for length, first in zip(task.lengths, task.first_difference, strict=True))
    cost, gates = Cost(), opened(lm, task, "heads")
    gated_metric(lm, task, "heads", gates, cost)
    assert (cost.forward, cost.backward) == (positions * lm.layers, 0)
    gated_metric(lm, task, "heads", gates.requires_grad_(), cost)
    assert (cost.forward, cost.backward) == (2 * positions * lm.layers, positions * lm.layers)


def test_units_outside_the_table_stay_open():
    flat = torch.tensor([[0.2, 0.3]])
    gates = layer_gates(flat, torch.tensor([1, 0]), torch.tensor([2, 1]), (2, 3))
    assert gates.tolist() == torch.tensor([[[1, 0.3, 1], [1, 1, 0.2]]]).tolist()
