"""Sheaves: weights and edges alone against copies multiplied by hand, gates' gradients, what never changes a number."""

from dataclasses import replace

import naive_sheaf
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.ablations import Ablating
from veracausa.circuits.runs.recorded import record
from veracausa.circuits.runs.tapes import step_groups
from veracausa.circuits.selection.gated_edges import gated_edges
from veracausa.circuits.sheaves.finding import WEIGHTS
from veracausa.circuits.sheaves.gated import GatedSheaf
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.masked_weights import Weights, gates_of
from veracausa.errors import ArchitectureError, CircuitError, MethodError
from veracausa.estimates.learned.holds import price_at
from veracausa.estimates.learned.learner import LEARNERS
from veracausa.ground_truth import load_compiled
from veracausa.units.every_unit import all_edges

FAMILIES = ["llama", "gpt2", "gemma2"]


def find(lm, task, **options):
    return vc.circuits.sheaf(lm, task, **({"steps": 6, "batch": 2, "show_progress": False} | options))


@pytest.fixture(scope="module", params=FAMILIES)
def setting(request, tiny, task_of):
    lm = tiny(request.param)
    return lm, task_of((5, 6), n=3, seed=4)


@pytest.fixture(scope="module")
def found(setting):
    return find(*setting, how="joint", steps=25)


@pytest.mark.cases(1)
def test_it_runs_alone_as_a_copy_multiplied_by_hand(setting, found):
    """1e-9 of the largest M: float64 and two orders of sums."""
    (lm, task), mask = setting, found.circuit.mask
    assert 0 < found.open_weights < 1 and 0 < found.open_edges < 1
    left = {name: ~one for name, one in found.masks.items()}
    every = {name: torch.ones_like(one) for name, one in found.masks.items()}
    whole = all_edges_mask(lm.graph)
    asked = [(found.masks, mask), (left, whole & ~mask), (found.masks, whole), (every, mask)]
    for row, one in zip(found.metric, asked, strict=True):
        theirs = naive_sheaf.metric(lm, task, *one)
        torch.testing.assert_close(row, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))
    masked = found.masked(lm)
    torch.testing.assert_close(masked.measure(task).clean, found.metric[2], rtol=0, atol=1e-9)
    again = vc.circuits.run_sheaf(lm, task, found, show_progress=False)
    torch.testing.assert_close(again.metric, found.metric, rtol=0, atol=1e-9)


@pytest.mark.cases(2)
@pytest.mark.parametrize("learned", [("edges", "weights"), ("weights",), ("edges",)])
def test_the_gradient_is_the_slope_of_the_loss(setting, learned):
    """1e-6 of the largest slope: a central difference with step 1e-5; the loss by hooks on a copy, too."""
    (lm, task), edges, generator = setting, all_edges(setting[0]), torch.Generator().manual_seed(1)
    weights, groups = Weights.of(lm.decoder), step_groups(setting[0], setting[1], False, 2, pairs=2)
    counts = {"edges": len(edges), "weights": len(weights)}
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        recorded = record(lm, task, Cost(), most=2, how=Ablating.of(lm, task, "zero", None, 0, None))
        own = gated_edges(recorded, edges, "answers", groups).groups
        fixed = torch.rand(len(weights), dtype=torch.float64, generator=generator)
        runs = GatedSheaf(recorded, edges, weights, "answers", own, learned, None if "weights" in learned else fixed)
        total = sum(counts[name] for name in learned)
        gates = torch.rand(total, dtype=torch.float64, generator=generator)
        for cause in (False, True):
            value, found = runs.slope(0, gates, cause)
            for at in np.argsort(-found.abs().numpy())[[0, 3, 20]]:
                step = torch.zeros_like(gates)
                step[at] = 1e-5
                ends = [runs.slope(0, gates + sign * step, cause)[0] for sign in (1, -1)]
                assert float(found[at]) == pytest.approx(
                    (ends[0] - ends[1]) / 2e-5, abs=1e-6 * float(found.abs().max())
                )
    masks = weights.cut(gates[-len(weights) :] if "weights" in learned else fixed)
    mask = np.zeros((lm.graph.readers, lm.graph.writers))
    mask[edges.reader, edges.writer] = gates[: len(edges)] if "edges" in learned else 1
    m = naive_sheaf.metric(lm, task, masks, mask)[runs.pairs(0)]
    theirs = (torch.nn.functional.softplus(m) + torch.nn.functional.softplus(-m)) / 2  # the last was the cause's
    assert value == pytest.approx(float(theirs.sum()), rel=1e-9)


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", ["sequential", "joint"])
@pytest.mark.slow
def test_the_same_seed_gives_the_same_whatever_the_chunks_and_goes_on(tiny, task_of, tmp_path, monkeypatch, how):
    from veracausa.estimates.learned.descent import Descent

    lm, task = tiny("gpt2"), task_of((5, 6), n=3, seed=4)
    fast = {"weights": replace(WEIGHTS, lr=0.5), "edges": replace(LEARNERS["discogp"], lr=0.5)}
    one, other = find(lm, task, how=how, seed=1, **fast), find(lm, task, how=how, seed=2, **fast)
    with monkeypatch.context() as patched:
        patched.setattr("veracausa.circuits.runs.recorded.rows_per_chunk", lambda *_: 1)
        chunked = find(lm, task, how=how, seed=1, **fast)
    step, done = Descent._step, []

    def failing(self, *args):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(step(self, *args))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Descent, "_step", failing)
        find(lm, task, how=how, seed=1, out=tmp_path, **fast)
    again = find(lm, task, how=how, seed=1, out=tmp_path, **fast)
    for same in (chunked, again):
        assert same.circuit.names == one.circuit.names
        assert all(torch.equal(same.masks[name], mask) for name, mask in one.masks.items())
    assert again.notes == one.notes and torch.equal(again.metric, one.metric)
    assert any(not torch.equal(other.masks[name], mask) for name, mask in one.masks.items())


def test_the_model_is_as_it_was_and_what_it_costs_is_forecast(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    before = {name: one.clone() for name, one in lm.hf.state_dict().items()}
    work = vc.circuits.sheaf.work(lm, task, steps=6, batch=2)
    found = find(lm, task)
    assert all(torch.equal(one, before[name]) for name, one in lm.hf.state_dict().items())
    assert all(isinstance(one, torch.nn.Parameter) for one in lm.hf.parameters())
    assert found.cost.token_layers <= work.tokens() <= 1.2 * found.cost.token_layers


def test_prices_are_those_of_the_paper():
    """λ of DiscoGP's published runs: weights 1 → 1,000 over all epochs; edges 1 → 100 → .01 in a fifth each."""
    steps = 100
    assert [price_at(WEIGHTS, step, steps) for step in (0, 50)] == [1.0, 500.5]
    edges = [price_at(LEARNERS["discogp"], step, steps) for step in (0, 10, 20, 30, 40, 99)]
    assert edges == pytest.approx([1, 50.5, 100, 50.005, 0.01, 0.01])
    for one, t in ((WEIGHTS, 0.01), (LEARNERS["discogp"], 1.0)):
        assert (one.gates, one.t, one.loss, one.aim, one.completeness) == (
            "straight-through", t, "answers", "complete", 1.0,
        )  # fmt: skip
        assert (one.begin, one.lr, one.ablation) == (1.0, 0.1, "zero")


@pytest.mark.slow
def test_what_it_finds_on_a_compiled_program():
    """Its true edges are those of counterfactual ablation; with inputs at zero it needs more out of the input."""
    lm, program = load_compiled("pair_balance")
    own = {"price": 0.03, "peak": 0.3, "begin": 3.0}
    learners = {"weights": replace(WEIGHTS, temperature=1.0, **own), "edges": replace(LEARNERS["discogp"], **own)}
    found = find(lm, program.task(n=16), steps=150, batch=8, loss="metric", **learners)
    assert found.f > 0.9 and abs(found.complement) < 0.1 and found.open_weights < 0.05
    names = set(found.circuit.names)
    assert set(program.edges) <= names and len(names) < 2 * len(program.edges)
    assert all(name.startswith("input->") for name in names - set(program.edges))


@pytest.mark.parametrize(("options", "word"), [
    ({"how": "both"}, "sequential"),
    ({"batch": 0}, "batch"),
    ({"weights": vc.estimates.Learner(ablation="zero")}, "price"),
    ({"edges": replace(LEARNERS["discogp"], each=True)}, "one draw"),
    ({"how": "joint", "edges": replace(LEARNERS["discogp"], lr=0.5)}, "agree in lr"),
])  # fmt: skip
def test_what_means_nothing_is_refused(tiny, task_of, options, word):
    with pytest.raises(MethodError, match=word):
        find(tiny("llama"), task_of(6, n=2), **options)


def test_other_models_are_refused(tiny, task_of, found, setting):
    with pytest.raises(ArchitectureError, match="mixers"):
        find(tiny("mamba"), task_of(6, n=2))
    other = next(family for family in FAMILIES if family != setting[0].name)
    with pytest.raises(CircuitError):
        vc.circuits.run_sheaf(tiny(other), task_of(6, n=2), found)


def test_gates_by_name_and_in_a_row_are_the_same(tiny):
    weights = Weights.of(tiny("gpt2").decoder)
    row = (torch.rand(len(weights), generator=torch.Generator().manual_seed(0)) < 0.5).double()
    assert torch.equal(gates_of(weights.cut(row), weights), row)
    assert {name.rsplit(".", 1)[1] for name in weights.places} == {"weight", "bias"}
    assert not any("ln" in name or "wte" in name or "wpe" in name for name in weights.places)
