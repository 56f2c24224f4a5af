"""eap-ig-activations: against slopes in moved runs, sums over readers, and the sites' exact effects.

Tolerance 1e-9 of the gap in float64 (conftest.EXACT) where the same formula is computed twice; else it is said why.
"""

from contextlib import contextmanager

import naive_edges
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric, smooth
from naive import PATHS

import veracausa as vc
from veracausa.estimates.paths.grids import grid
from veracausa.units.every_unit import all_edges

FAMILIES = tiny_models.FAMILIES


def attribute(lm, task, units="edges", **options):
    options = {"method": "eap-ig-activations", "show_progress": False} | options
    return vc.attribute(lm, task, units=units, **options)


def site_of(writer):
    """The site that a writer moves with, by name: `input`, `a3`, `m3`."""
    return writer.split(".")[0]


@contextmanager
def shifted(model, family, site, delta):
    """The model with `delta` [n, width] added to what a site writes; yields a fresh `Run` to be filled by a forward."""
    blocks = naive_edges._blocks(model, family)
    run = naive_edges.Run([], [], {})
    attention_norm, mlp_norm, _ = naive_edges.READS.get(family, naive_edges._LLAMA)
    handles = []
    for block in blocks:
        for name, into in ((attention_norm, run.stream), (mlp_norm, run.middle)):
            keep = lambda _, args, into=into: into.append(args[0][0])  # noqa: E731
            handles.append(block.get_submodule(name).register_forward_pre_hook(keep))
    if site == "input":
        handles.append(blocks[0].register_forward_pre_hook(lambda _, args: (args[0] + delta, *args[1:])))
        handles.insert(0, handles.pop())
    else:
        block = blocks[int(site[1:])]
        attention = site[0] == "a"
        if family.startswith("gemma"):
            writing = block.post_attention_layernorm if attention else block.post_feedforward_layernorm
        else:
            writing = block.get_submodule(PATHS[family][2 if attention else 3])
        handles.append(writing.register_forward_hook(lambda _, __, output: output + delta))
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()


def naive_scores(lm, task, i, names, nodes):
    """Σ_k w_k · (central difference of M along Δ_u at v's input, in the run whose site is moved by α_k Δ)."""
    model, family, metric = lm.hf, lm.name, naive_metric(lm, task, i)
    ids, step = task.clean[i], 1e-5
    found = []
    with torch.no_grad():
        base, other = (naive_edges.trace(model, family, prompts[i]) for prompts in (task.clean, task.corrupted))
        for name in names:
            writer, reader = name.split("->")
            change = {w: other.writes[w] - base.writes[w] for w in base.writes}
            whole = sum(change[w] for w in change if site_of(w) == site_of(writer))
            total = 0
            for alpha, weight in zip(*grid("gauss", nodes), strict=True):
                with shifted(model, family, site_of(writer), alpha * whole) as run:
                    model(torch.tensor([list(ids)]), use_cache=False)
                    there = naive_edges.Run(list(run.stream), list(run.middle), {})
                    ends = [
                        metric(naive_edges.rewritten(model, family, ids, there, reader, sign * step * change[writer]))
                        for sign in (1, -1)
                    ]
                total += weight * (ends[0] - ends[1]) / (2 * step)
            found.append(total)
    return torch.stack(found)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_against_slopes_in_runs_whose_site_has_moved(tiny, task_of, agree, family):
    """1e-6 of the gap: a central difference with step 1e-5 leaves 1e-10 · M''' and 1e-11 of rounding."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = attribute(lm, task, nodes=2)
    assert (scores.values.abs() > 1e-6).double().mean() > 0.9
    some = np.random.default_rng(0).permutation(len(scores))[:24]
    names = [scores.units.names[e] for e in some]
    theirs = torch.stack([naive_scores(lm, task, i, names, 2) for i in range(2)])
    agree(scores.values[:, some], theirs, scores.gap, 1e-6)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("gemma")])
def test_a_writers_edges_sum_to_integrated_gradients_of_its_site(tiny, task_of, agree, family, direction):
    """Where a write is linear in z."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    edges = attribute(lm, task, nodes=3, direction=direction)
    writers = np.array([name.split("->")[0] for name in edges.units.names])
    for kind in ("heads", "mlps"):
        nodes = attribute(lm, task, kind, method="ig", nodes=3, direction=direction)
        sums = torch.stack([edges.values[:, writers == name].sum(1) for name in nodes.units.names], 1)
        agree(sums, nodes.values, edges.gap)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_the_inputs_edges_are_those_of_the_path_over_the_input(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    sites, inputs = attribute(lm, task), attribute(lm, task, method=vc.Method(path="inputs", nodes=5))
    first = sites.units.writer == 0
    agree(sites.values[:, first], inputs.values[:, first], sites.gap)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt2", "gpt_neox", "gemma2", "gemma3"]))
def test_a_sites_edges_sum_to_the_effect_of_patching_it(task_of, agree, family, direction):
    lm, task = smooth(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, nodes=48, direction=direction)
    sites = np.array([site_of(name.split("->")[0]) for name in scores.units.names])
    order = ["input", *(f"{part}{layer}" for layer in range(lm.layers) for part in "am")]
    sums = torch.stack([scores.values[:, sites == site].sum(1) for site in order])
    agree(scores.completeness.claimed, sums, scores.gap)
    exact = [vc.exact(lm, task, units=kind, direction=direction, show_progress=False) for kind in ("attention", "mlps")]
    for kind, effects in zip("am", exact, strict=True):
        mine = [order.index(f"{kind}{layer}") for layer in range(lm.layers)]
        agree(scores.completeness.true[mine], effects.values.T, scores.gap)
    sign = -1 if direction == "noising" else 1
    agree(scores.completeness.true[0], sign * scores.gap, scores.gap)
    coarse = attribute(lm, task, nodes=1, direction=direction)
    assert scores.completeness.relative(scores.gap) < 1e-3 < coarse.completeness.relative(scores.gap)
    assert "sites" in " ".join(coarse.notes)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_chunks_some_edges_positions_and_single_pairs_change_nothing(tiny, task_of, agree, monkeypatch, family):
    lm, task = tiny(family), task_of((5, 7), n=3, seed=4)
    every = attribute(lm, task, nodes=3)
    some = np.random.default_rng(0).permutation(len(every))[:40]
    agree(attribute(lm, task, every.units[some], nodes=3).values, every.values[:, some], every.gap)
    single = attribute(lm, task, all_edges(lm, 7), nodes=3)
    agree(single.values.unflatten(1, (-1, 7)).nansum(2), every.values, every.gap)
    agree(attribute(lm, task[1], nodes=3).values[0], every.values[1], every.gap)
    for size in (4, 1000):
        monkeypatch.setattr("veracausa.estimates.paths.sites.rows_per_chunk", lambda *_, n=size: n)
        again = attribute(lm, task, nodes=3)
        agree(again.values, every.values, every.gap)
        agree(again.completeness.true, every.completeness.true, every.gap)


def test_rules_act_on_the_way_back(tiny, task_of, agree):
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    method = vc.Method(path="layer", rule="gim", nodes=3)
    edges = attribute(lm, task, method=method)
    nodes = attribute(lm, task, "heads", method=method)
    writers = np.array([name.split("->")[0] for name in edges.units.names])
    sums = torch.stack([edges.values[:, writers == name].sum(1) for name in nodes.units.names], 1)
    agree(sums, nodes.values, edges.gap)
    assert edges.completeness is None


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_cost_is_counted(tiny, family):
    """Both recordings and one whole run; per site the blocks behind it, forward m + 1 times, backward m times."""
    lm, nodes = tiny(family), 4
    task = vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))
    scores, layers, late = attribute(lm, task, nodes=nodes), lm.layers, 4
    heads = [layers - layer - lm.graph.parallel for layer in range(layers)]
    depth = layers + sum(heads) + sum(layers - layer - 1 for layer in range(layers))
    assert scores.cost.backward == depth * late * nodes
    assert scores.cost.forward == (2 + 2 * late + late) * layers + depth * late * (nodes + 1)


def test_a_receipt_takes_it(tiny, task_of):
    lm, task = tiny("gemma2"), task_of((5, 6), n=3, seed=4)
    scores = attribute(lm, task)
    assert scores.method == "eap-ig-activations" and scores.settings["grid"] == "gauss"
    receipt = vc.verify(lm, task, scores, top=10, sample=20, show_progress=False)
    assert len(receipt) == 30
