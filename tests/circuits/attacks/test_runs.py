"""Runs with weights on a circuit's others: against the naive reference, finite differences, and the circuit's own run.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT), unless said.
"""

from contextlib import contextmanager

import naive_circuit
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.attacks.bench import Together, narrow
from veracausa.circuits.attacks.others import Field, Others
from veracausa.circuits.random_circuits import profiled
from veracausa.circuits.runs.ablations import Ablating
from veracausa.circuits.runs.recorded import record
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import attention_function, borrowed
from veracausa.errors import CircuitError


def some_mask(lm, share=0.3):
    whole = all_edges_mask(lm.graph)
    return whole & (np.random.default_rng(3).random(whole.shape) < share)


def some_nodes(lm):
    return np.asarray(all_edges_mask(lm.graph) & (np.arange(lm.graph.writers) % 3 != 1))


@contextmanager
def field_of(lm, task, mask, parts="edges", ablation="counterfactual"):
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        how = Ablating.of(lm, task, ablation, None, 0, None)
        yield Field(record(lm, task, Cost(), how=how), Others.of(lm.graph, mask, parts), how.settled)


def drawn(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(others, r):
    """Of all edges, written out edge by edge."""
    made = others.kept.astype(float)
    for reader, writer, which in zip(others.reader, others.writer, others.which, strict=True):
        made[reader, writer] = float(r[which])
    return made


@pytest.mark.parametrize("parts", ["edges", "nodes"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_weighted_runs_are_those_of_the_naive_reference(tiny, task_of, agree, family, parts):
    """Weights of all pairs, and each pair's own; under zero ablation, too."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    mask = some_mask(lm) if parts == "edges" else some_nodes(lm)
    with field_of(lm, task, mask, parts) as field:
        r = drawn(2, len(field.others))
        shared, own = field.metric(r[0]), field.metric(r)
    theirs = [naive_circuit.metrics(lm, task, weights(field.others, one)) for one in r]
    agree(shared, theirs[0], lm.measure(task).gap)
    agree(own, torch.stack([theirs[0][0], theirs[1][1]]), lm.measure(task).gap)
    zeros = {name: torch.zeros(1, lm.width, dtype=torch.float64) for name in lm.graph.writer_names}
    with field_of(lm, task, mask, parts, "zero") as field:
        found, none = field.metric(r[0]), field.recorded.measured.corrupted
    agree(found, naive_circuit.metrics(lm, task, weights(field.others, r[0]), zeros), lm.measure(task).gap)
    agree(none, naive_circuit.metrics(lm, task, np.zeros_like(mask), zeros), lm.measure(task).gap)


@pytest.mark.parametrize("parts", ["edges", "nodes"])
def test_the_gradient_is_the_slope(tiny, task_of, parts):
    """1e-6 of the largest slope: a central difference with step 1e-5; each pair's own sum to the shared one's."""
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    with field_of(lm, task, some_mask(lm) if parts == "edges" else some_nodes(lm), parts) as field:
        r = 0.8 * drawn(len(field.others)) + 0.1
        metric, slope = field.slope(r)
        _, own = field.slope(r.expand(3, -1))
        torch.testing.assert_close(metric, field.metric(r), rtol=0, atol=1e-12)
        torch.testing.assert_close(own.sum(0), slope, rtol=0, atol=1e-11)
        for other in slope.abs().argsort(descending=True)[:6].tolist():
            step = torch.zeros_like(r)
            step[other] = 1e-5
            ends = field.metric(r + step) - field.metric(r - step)
            torch.testing.assert_close(own[:, other], ends / 2e-5, rtol=0, atol=1e-6 * float(slope.abs().max()))


def naive_greedy(lm, task, others, sizes, rest):
    """Which others to restore to lower f, chosen anew at every size by central differences of hooked runs."""

    def lowered(chosen, other):
        ends = []
        for sign in (1, -1):
            r = np.where(np.isin(np.arange(len(others)), chosen), 1.0, rest)
            r[other] += sign * 1e-4
            ends.append(float(naive_circuit.metrics(lm, task, weights(others, r)).sum()))
        return (ends[0] - ends[1]) * sign_of_gap

    sign_of_gap, chosen = float(lm.measure(task).gap.sum().sign()), []
    for size in sizes:
        left = [other for other in range(len(others)) if other not in chosen]
        slopes = {other: lowered(chosen, other) for other in left}
        chosen += sorted(left, key=slopes.get)[: size - len(chosen)]
    return chosen


@pytest.mark.parametrize(("family", "drawn_by"), [("llama", 6), pytest.param("gemma2", 5, marks=pytest.mark.slow)])
def test_greedy_orders_are_those_of_the_naive_reference(tiny, task_of, agree, family, drawn_by):
    """With the rest at 0 and at 1/6, which choose otherwise; the circuit lacks eight edges of all."""
    lm, task, sizes = tiny(family), task_of(6, n=1), (1, 2, 4)
    mask = all_edges_mask(lm.graph)
    others = np.argwhere(mask)[np.random.default_rng(drawn_by).choice(mask.sum(), 8, replace=False)]
    mask[tuple(others.T)] = False
    circuit = vc.Circuit.of(lm.graph, *np.nonzero(mask)[::-1])
    found = vc.circuits.adversary(
        lm, task, circuit, budgets=["sparse"], sizes=sizes, goals=["down"], draws=0, show_progress=False
    )
    field, gap, chosen = Others.of(lm.graph, mask, "edges"), lm.measure(task).gap, []
    for by, rest in (("greedy", 0.0), ("greedy above", 1 / 6)):
        chosen.append(naive_greedy(lm, task, field, sizes, rest))
        for size in sizes:
            (at,) = [i for i, one in enumerate(found.attempts) if (one.by, one.amount) == (by, size)]
            r = np.isin(np.arange(len(field)), chosen[-1][:size]).astype(float)
            agree(found.metric[at], naive_circuit.metrics(lm, task, weights(field, r)), gap)
    assert chosen[0] != chosen[1]


def naive_ascent(lm, task, others, start, most, first, steps):
    """M where f is lowest on the way of sign ascent down, by central differences of hooked runs."""

    def metric(r):
        return float(naive_circuit.metrics(lm, task, weights(others, r)).sum())

    sign_of_gap = float(lm.measure(task).gap.sum().sign())
    r, seen = np.full(len(others), start), []
    for t in range(1, steps + 1):
        seen.append(metric(r))
        ends = [metric(r + 1e-4 * one) - metric(r - 1e-4 * one) for one in np.eye(len(others))]
        r = np.clip(r - first / t**0.5 * sign_of_gap * np.sign(ends), 0, most)
    return min([*seen, metric(r)], key=lambda value: sign_of_gap * value)


def test_ascent_is_that_of_the_naive_reference(tiny, task_of, agree):
    """Up to ε from ε/2 in four steps; any weights from 0 in two. The circuit lacks four edges of all."""
    lm, task = tiny("llama"), task_of(6, n=1)
    mask = all_edges_mask(lm.graph)
    mask[tuple(np.argwhere(mask)[np.random.default_rng(6).choice(mask.sum(), 4, replace=False)].T)] = False
    circuit, others = vc.Circuit.of(lm.graph, *np.nonzero(mask)[::-1]), Others.of(lm.graph, mask, "edges")
    how = {"largest": [0.6], "steps": [2], "starts": ["zero"], "goals": ["down"], "draws": 0, "show_progress": False}
    found = vc.circuits.adversary(lm, task, circuit, budgets=["bounded", "free"], **how)
    at = {(one.budget, one.by): found.metric[i] for i, one in enumerate(found.attempts) if one.amount in (0.6, 2)}
    for key, asked in {("bounded", "from half"): (0.3, 0.6, 0.6, 4), ("free", "from zero"): (0.0, 1.0, 0.5, 2)}.items():
        theirs = torch.tensor([naive_ascent(lm, task, others, *asked)], dtype=torch.float64)
        agree(at[key], theirs, lm.measure(task).gap)
        assert abs(float(theirs - found.metric[0])) > 1e-3


def test_a_radius_is_narrowed_in_all_orders_together():
    """The least of three orders that break it from 30, 21 and 24 on; one that another one beat is given up."""
    ran = []

    def order(breaks_from):
        def run(amounts):
            ran.append((breaks_from, *amounts))
            return [0.4 if amount >= breaks_from else 0.8 for amount in amounts]

        return run

    tried = []
    together = Together([order(30), order(21), order(24)])

    def breaks(amount):
        tried.append((amount, together(amount)))
        return tried[-1][1]

    narrow(10, 30, breaks, whole=True)
    assert tried == [(17, False), (23, True), (20, False), (21, True)]
    assert ran == [
        (30, 17), (21, 17), (24, 17), (30, 23), (21, 23), (21, 20), (24, 20), (21, 21)
    ]  # fmt: skip


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample"])
def test_the_ends_are_the_circuit_and_the_model(tiny, task_of, agree, ablation):
    lm, task = tiny("llama"), task_of(6, n=3)
    circuit = vc.Circuit.of_nodes(lm, ["input", "a0.h1", "m1"])
    own = vc.faithfulness(lm, task, circuit, ablation=ablation, show_progress=False)
    with field_of(lm, task, circuit.mask, ablation=ablation) as field:
        agree(field.metric(field.zeros()), own.metric, own.measured.gap)
        agree(field.restored(np.array([], dtype=int)), own.metric, own.measured.gap)
        agree(field.metric(field.zeros() + 1), own.measured.clean, own.measured.gap)
        agree(field.restored(np.arange(len(field.others))), own.measured.clean, own.measured.gap)
        agree(field.recorded.measured.corrupted, own.measured.corrupted, own.measured.gap)


def test_a_circuit_of_nodes_ablates_all_others(tiny, task_of, agree):
    """All heads of one layer but one, by plain hooks that put the corrupted run's values in the place of the others."""
    lm, task = tiny("llama"), task_of(6, n=1)
    names = [name for name in lm.graph.writer_names if not name.startswith("a1.") or name == "a1.h2"]
    circuit = vc.Circuit.of_nodes(lm, [*names, "logits"])
    out, kept = lm.hf.model.layers[1].self_attn.o_proj, slice(2 * 8, 3 * 8)

    def keep(_, args):
        values.append(args[0].detach())

    def put(_, args):
        mixed = values[0].clone()
        mixed[..., kept] = args[0][..., kept]
        return (mixed,)

    values = []
    with torch.no_grad():
        for prompt, hook in ((task.corrupted[0], keep), (task.clean[0], put)):
            handle = out.register_forward_pre_hook(hook)
            logits = lm.hf(torch.tensor([prompt])).logits[0, -1]
            handle.remove()
    theirs = logits[task.correct[0][0]] - logits[task.incorrect[0][0]]
    found = vc.faithfulness(lm, task, circuit, show_progress=False)
    agree(found.metric, theirs[None], found.measured.gap)
    assert Others.of(lm.graph, circuit.mask, "nodes").names == ["a1.h0", "a1.h1", "a1.h3"]


def test_what_is_no_circuit_of_nodes(tiny):
    lm = tiny("llama")
    with pytest.raises(CircuitError, match=r"some edges out of .* Circuit.of_nodes"):
        Others.of(lm.graph, some_mask(lm), "nodes")
    with pytest.raises(CircuitError, match=r"'a9\.h9' is no node"):
        vc.Circuit.of_nodes(lm, ["input", "a9.h9"])
    assert len(vc.Circuit.of_nodes(lm, ["logits"])) == 0


def test_nodes_without_the_input_read_what_ablates_it_and_the_circuit_says_so(tiny, task_of):
    """f is 0 to rounding, and `nodes` names what is ablated, too, until dead ends are dropped."""
    lm, task = tiny("llama"), task_of(6, n=2)
    all_but_input = vc.Circuit.of_nodes(lm, lm.graph.writer_names[1:])
    assert vc.faithfulness(lm, task, all_but_input, show_progress=False).f == pytest.approx(0, abs=1e-12)
    assert "the input is not among its nodes" in all_but_input.notes[0] and not len(all_but_input.prune())
    some = vc.Circuit.of_nodes(lm, ["input", "a0.h1"])
    assert not some.notes and "m1" in some.nodes and some.prune().nodes == ["input", "a0.h1", "logits"]


def test_a_random_circuit_has_the_profile(tiny):
    lm, draw = tiny("llama"), np.random.default_rng(0)
    graph, mask = lm.graph, some_mask(lm, 0.4)
    found = profiled(graph, mask, draw)

    def profile(one):
        reader, writer = np.nonzero(one)
        return sorted(zip(graph.writer_layer[writer].tolist(), graph.reader_layer[reader].tolist(), strict=True))

    assert profile(found) == profile(mask) and (found != mask).any() and not (found & ~all_edges_mask(graph)).any()
    nodes = profiled(graph, some_nodes(lm), draw, "nodes")
    layers = [graph.writer_layer[one.any(0)].tolist() for one in (nodes, some_nodes(lm))]
    assert layers[0] == layers[1] and Others.of(graph, nodes, "nodes").parts == "nodes"
