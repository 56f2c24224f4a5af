"""Runs with some edges: contract 4 in every family, against a naive run that computes one reader after the other.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import naive_circuit
import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import Wiring, all_edges_mask
from veracausa.units.edges import Edges

FAMILIES = tiny_models.FAMILIES
#: Forms of attention: positions added to scores, sinks, windows, parallel blocks, experts, projections in one.
FORMS = [
    "bloom",
    "falcon",
    "falcon-alibi",
    "mpt",
    "gptj",
    "gpt_neo",
    "phi",
    "cohere",
    "olmo",
    "glm4",
    "gpt_oss",
    "mixtral",
]


def run(lm, task, masks, **options):
    return run_circuits(lm, task, masks, show_progress=False, **options)


@pytest.mark.cases(5)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_on_mixed_lengths(tiny, task_of, agree, family):
    """The rest of contract 4 (all but one edge, all but a writer's) is in `veracausa.contracts.edges`."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    whole = all_edges_mask(lm.graph)
    found, bare = run(lm, task, [whole, np.zeros_like(whole)]), lm.measure(task)
    agree(found.metric, torch.stack([bare.clean, bare.corrupted]), bare.gap)
    assert found.kl[0].abs().max() < 1e-12 and (found.kl[1] > 1e-4).all()


@pytest.mark.cases(5)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_circuits_reader_by_reader(tiny, task_of, agree, family, share):
    lm, task = tiny(family), task_of((5, 7), n=2)
    draw = np.random.default_rng(round(10 * share))
    whole = all_edges_mask(lm.graph)
    masks = [whole & (draw.random(whole.shape) < share) for _ in range(3)]
    found = run(lm, task, masks)
    theirs = torch.stack([naive_circuit.metrics(lm, task, mask) for mask in masks])
    agree(found.metric, theirs, found.measured.gap)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_batches_and_the_prefix_change_nothing(tiny, task_of, agree, monkeypatch, family):
    lm, task = tiny(family), task_of((5, 7), n=4)
    whole = all_edges_mask(lm.graph)
    masks = [whole & (np.random.default_rng(0).random(whole.shape) < 0.5)]
    found = run(lm, task, masks)
    agree(run(lm, task, masks, share_prefix=False).metric, found.metric, found.measured.gap)
    monkeypatch.setattr("veracausa.circuits.runs.run_circuits.rows_per_chunk", lambda *_: 1)
    agree(run(lm, task, masks).metric, found.metric, found.measured.gap)
    agree(run(lm, task[2], masks).metric[:, 0], found.metric[:, 2], found.measured.gap)


def in_stretches(monkeypatch):
    """No memory for more than two positions of both rows at once."""

    def few(lm, length):
        return 8 if lm.decoder.shares_prefixes else None

    monkeypatch.setattr("veracausa.engine.circuit_forward.tokens_at_once", few)


@pytest.mark.parametrize("ablation", ["counterfactual", "mean"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow([*FAMILIES, *FORMS], ["llama", "gemma2", "gpt_neox", "mpt"]))
def test_stretches_of_positions_change_nothing(tiny, task_of, agree, monkeypatch, family, ablation):
    """Also where the tail (of mixed lengths) lies in several stretches."""
    lm, task = tiny(family), task_of((5, 8), n=2)
    whole = all_edges_mask(lm.graph)
    masks = [whole, *(whole & (np.random.default_rng(seed).random(whole.shape) < 0.5) for seed in range(2))]
    found = run(lm, task, masks, ablation=ablation)
    in_stretches(monkeypatch)
    parts = run(lm, task, masks, ablation=ablation)
    agree(parts.metric, found.metric, found.measured.gap)
    agree(parts.kl, found.kl, found.kl.abs().max())
    assert parts.cost.forward == found.cost.forward and lm.decoder.shares_prefixes


@pytest.mark.parametrize("family", ["nemotron_h", "jamba"])
def test_what_cannot_go_on_from_keys_and_values_runs_whole(tiny, task_of, agree, monkeypatch, family):
    lm, task = tiny(family), task_of(7, n=2)
    whole = all_edges_mask(lm.graph)
    masks = [whole & (np.random.default_rng(0).random(whole.shape) < 0.5)]
    found = run(lm, task, masks)
    in_stretches(monkeypatch)
    assert torch.equal(run(lm, task, masks).metric, found.metric) and not lm.decoder.shares_prefixes


@pytest.mark.cases(4)
@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("gemma")])
def test_edges_on_no_way_from_input_to_logits_change_nothing(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    whole = all_edges_mask(lm.graph)
    masks = [whole & (np.random.default_rng(seed).random(whole.shape) < 0.25) for seed in range(4)]
    living = [Wiring(lm.graph, mask).living for mask in masks]
    assert any((mask != alive).any() for mask, alive in zip(masks, living, strict=True))
    found = run(lm, task, [*masks, *living])
    agree(found.metric[:4], found.metric[4:], found.measured.gap)


def test_small_circuits_cost_less(tiny):
    """n = 6, L = 3, first difference at 2, S = 4: recording, the whole graph once as a check, then the live blocks."""
    lm = tiny("llama")
    task = vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))
    graph = lm.graph

    def cost(*names):
        ends = np.array([graph.parse(name) for name in names], dtype=int).reshape(-1, 2)
        return run(lm, task, [Edges.of(graph, ends[:, 0], ends[:, 1]).mask]).cost.forward

    base = 2 * 3 + 2 * 4 * 3 + 4 * 3
    assert cost() == base
    assert cost("input->m1") == base  # leads nowhere: its writer is never seen
    assert cost("input->m1", "m1->logits") == base + 4
    assert cost("input->a0.h0<q>", "a0.h0->m2", "m2->logits") == base + 2 * 4


def test_living_by_hand():
    graph = Graph(2, 2, 1)
    names = ["input->a0.kv0<v>", "a0.h1->a1.h0<q>", "a1.h0->logits", "input->m0", "a1.h1->logits", "a0.h0->m1"]
    ends = np.array([graph.parse(name) for name in names])
    wiring = Wiring(graph, Edges.of(graph, ends[:, 0], ends[:, 1]).mask)
    alive = {f"{graph.writer_names[w]}->{graph.reader_names[r]}" for r, w in np.argwhere(wiring.living)}
    # h1 of layer 1 has no edge in; m0 and m1 have none out; a key/value edge feeds both heads of its group
    assert alive == {"input->a0.kv0<v>", "a0.h1->a1.h0<q>", "a1.h0->logits"}
