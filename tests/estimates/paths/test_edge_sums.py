"""Scores of edges: slopes of exact edge effects, sums over readers against scores of nodes, sums over cuts.

Tolerance 1e-9 of the gap in float64 (conftest.EXACT) where the same formula is computed twice; else it is said why.
"""

import naive_edges
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric, smooth

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.estimates.methods import EDGE_REFUSALS, resolve_method
from veracausa.estimates.presets import EDGE_PRESETS
from veracausa.tasks.task import Task
from veracausa.units.every_unit import all_edges

FAMILIES = tiny_models.FAMILIES
SUMMING = [family for family in FAMILIES if not family.startswith("gemma")]  # where a write is linear in z
PATTERNS = ("llama", "gpt2", "gpt_neox", "gemma3")


def attribute(lm, task, units="edges", **options):
    return vc.attribute(lm, task, units=units, show_progress=False, **options)


def naively(function, lm, task, names):
    return torch.stack([
        function(lm.hf, lm.name, task.clean[i], task.corrupted[i], naive_metric(lm, task, i), names)
        for i in range(len(task))
    ])  # fmt: skip


@pytest.mark.parametrize(
    "family",  # lm.check() says the same of every family (contract 6)
    [pytest.param(f, marks=[] if f in ("gpt2", "llama", "gpt_neox", "gemma2") else pytest.mark.slow) for f in FAMILIES],
)
def test_eap_is_the_slope_of_the_exact_effect(tiny, task_of, agree, family):
    """Contract 6. 1e-6 of the gap: a central difference with step 1e-5 leaves 1e-10 · M''' and 1e-11 of rounding."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = attribute(lm, task, method="eap")
    agree(scores.values, naively(naive_edges.slopes, lm, task, scores.units.names), scores.gap, 1e-6)
    assert (scores.values.abs() > 1e-6).double().mean() > 0.9


@pytest.mark.cases(2)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("method", [name for name in EDGE_PRESETS if name != "qk-exact"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt2", "gpt_neox", "qwen3"], ["llama"]))
def test_a_writers_edges_sum_to_the_score_of_its_write(tiny, task_of, agree, family, method, direction):
    """On every path and under every rule: Σ_v g_v is the gradient at the write. 1e-8: paths amplify rounding."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    edges = attribute(lm, task, method=method, direction=direction)
    for kind, nodes in (("heads", lm.layers * lm.heads), ("mlps", lm.layers)):
        own = {"eap": "atp", "eap-ig-activations": vc.Method(path="layer", nodes=5)}.get(method, method)
        node = attribute(lm, task, kind, method=own, direction=direction)
        of = {name: i for i, name in enumerate(node.units.names)}
        writer = np.array([of.get(name.split("->")[0], -1) for name in edges.units.names])
        sums = torch.stack([edges.values[:, writer == i].sum(1) for i in range(nodes)], 1)
        agree(sums, node.values, edges.gap, 1e-8)


@pytest.mark.parametrize("family", SUMMING)
def test_eap_summed_over_readers_is_atp_in_every_family(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    edges, nodes = attribute(lm, task, method="eap"), attribute(lm, task, "heads", method="atp")
    writer = np.array([name.split("->")[0] for name in edges.units.names])
    agree(torch.stack([edges.values[:, writer == n].sum(1) for n in nodes.units.names], 1), nodes.values, edges.gap)


@pytest.mark.parametrize("family", PATTERNS)
def test_qk_exact(tiny, task_of, agree, family):
    """Queries and keys through the recomputed pattern, everything else as eap."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores, plain = attribute(lm, task, method="qk-exact"), attribute(lm, task, method="eap")
    names = np.array(scores.units.names)
    recomputed = np.array([name.endswith(("<q>", "<k>")) for name in names])
    agree(scores.values[:, ~recomputed], plain.values[:, ~recomputed], scores.gap)
    theirs = naively(naive_edges.through_pattern, lm, task, names[recomputed].tolist())
    agree(scores.values[:, recomputed], theirs, scores.gap)
    assert (scores.values - plain.values)[:, recomputed].abs().max() > 1e-3


def crossing(scores, cut):
    """Sum of the edges that pass the stream before block `cut` (L: before the logits)."""
    graph = scores.units.graph
    chosen = (graph.writer_layer[scores.units.writer] < cut) & (graph.reader_layer[scores.units.reader] >= cut)
    return scores.values[:, chosen].sum(1)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3"])
def test_cuts(task_of, agree, family, direction):
    """All edges that cross a place of the stream sum to M(x′) − M(x); the residual falls as 1/m²."""
    lm, task = smooth(family), task_of((5, 6), n=2, seed=4)
    change, residuals = {"noising": -1, "denoising": 1}[direction], []
    for nodes in (5, 65):
        scores = attribute(lm, task, method="conductance", nodes=nodes, direction=direction)
        sums = torch.stack([crossing(scores, cut) for cut in range(lm.layers + 1)])
        agree(scores.completeness.claimed, sums, scores.gap)
        agree(scores.completeness.true, (change * scores.gap).expand(len(sums), 2), scores.gap)
        residuals.append(scores.completeness.relative(scores.gap))
    assert residuals[1] < residuals[0] / 50 and residuals[1] < 0.01


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_tangents_on_gauss_nodes_are_complete(task_of, family):
    lm, task = smooth(family), task_of((5, 6), n=2, seed=4)
    method = vc.Method(path="inputs", combine="increments", nodes=40)
    scores = attribute(lm, task, method=method)
    assert scores.completeness.relative(scores.gap) < 1e-3


@pytest.mark.parametrize("method", ["eap", "eap-ig", "conductance", "qk-exact"])
def test_some_edges_are_those_of_all(tiny, task_of, agree, method):
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    every = attribute(lm, task, method=method)
    some = np.random.default_rng(0).permutation(len(every))[:40]
    part = attribute(lm, task, every.units[some], method=method)
    agree(part.values, every.values[:, some], every.gap)
    if every.completeness:
        agree(part.completeness.claimed, every.completeness.claimed, every.gap)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "conductance"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_positions_sum_to_the_edge(tiny, task_of, agree, family, method):
    lm, task = tiny(family), task_of((5, 7), n=2, seed=4)
    every = attribute(lm, task, method=method)
    single = attribute(lm, task, all_edges(lm, 7), method=method)
    agree(single.values.unflatten(1, (-1, 7)).nansum(2), every.values, every.gap)
    assert single.values[task.lengths.index(5)].isnan().any() and not every.values.isnan().any()


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["eap-ig", "conductance", "expected-gradients", "gradpath-complete", "qk-exact"])
def test_chunks_and_the_prefix_change_nothing(tiny, task_of, agree, monkeypatch, method):
    lm, task = tiny("llama"), task_of((5, 6), n=4, seed=4)
    before = attribute(lm, task, method=method)
    for size in (1, 3, 5):
        for module in ("network", "gradpath"):
            monkeypatch.setattr(f"veracausa.estimates.paths.{module}.rows_per_chunk", lambda *_, n=size, **__: n)
        after = attribute(lm, task, method=method)
        agree(after.values, before.values, before.gap, 1e-8)
        if before.draw_stderr is not None:
            agree(after.draw_stderr, before.draw_stderr, before.gap, 1e-7)
    for i in range(4):
        agree(attribute(lm, task[i], method=method).values[0] if method != "expected-gradients"
              else before.values[i], before.values[i], before.gap, 1e-8)  # fmt: skip


def test_the_draws_standard_error_is_calibrated(task_of):
    lm, one = smooth("llama"), task_of(6, seed=4)
    n = 128
    copies = Task("copies", one.clean * n, one.corrupted * n, one.correct * n, one.incorrect * n, one.metric)
    scores = attribute(lm, copies, method="expected-gradients", nodes=3)
    spread = scores.values.std(0)
    large = spread > 0.1 * spread.max()
    # a variance from 128 values has a relative standard error of 12%, and 2 degrees of freedom per estimate more
    assert scores.draw_stderr.square().mean(0).sqrt()[large].tolist() == pytest.approx(spread[large].tolist(), rel=0.4)


def test_a_receipt_and_stability_as_for_nodes(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=4, seed=4)
    scores = attribute(lm, task, method="eap-ig")
    receipt = vc.verify(lm, task, scores, top=10, sample=20, show_progress=False)
    assert len(receipt) == 30 and "edges" in repr(receipt)
    assert receipt.agreement.r == pytest.approx(
        vc.agreement(scores, vc.exact(lm, task, units=receipt.exact.units, show_progress=False)).r
    )
    assert 0 < vc.scores.stability(scores, top=10, draws=50).jaccard <= 1


def test_cost_is_that_of_the_passes(tiny):
    lm = tiny("llama")
    task = vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))
    for edge, node in (("eap", "atp"), ("eap-ig", "eap-ig"), ("gradpath-complete", "gradpath-complete")):
        ours, theirs = attribute(lm, task, method=edge).cost, attribute(lm, task, "heads", method=node).cost
        assert (ours.forward, ours.backward) == (theirs.forward, theirs.backward)


@pytest.mark.parametrize(
    ("method", "word"),
    [
        ("atp", "eap"),
        ("ig", "eap-ig-activations"),
        ("nonsense", "eap-gp"),
        (vc.Method(path="unit"), "no activation of its own"),
        (vc.Method(baseline="zero"), "baseline"),
        (vc.Method(rule="graddrop"), "nodes"),
        (vc.Method(path="gradpath", combine="increments"), "gradpath-complete"),
    ],
)
def test_what_means_nothing_is_refused(tiny, task_of, method, word):
    with pytest.raises(MethodError, match=word):
        attribute(tiny("llama"), task_of(6), method=method)


def test_every_refusal_is_reached():
    cases = [vc.Method(path=path) for path in ("encoded", "unit")]
    cases += [vc.Method(baseline="zero"), vc.Method(rule="graddrop")]
    for refusal, method in zip(EDGE_REFUSALS, cases, strict=True):
        assert refusal.applies(method, "logit_diff", "noising")
        with pytest.raises(MethodError):
            resolve_method(method, "logit_diff", "noising", edges=True)
