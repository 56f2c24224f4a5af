"""The loop against a naive one on a loss that is known, and constants that are learned along with gates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.ablations import Ablating, mean_writes
from veracausa.circuits.runs.recorded import LearnedWrites, record
from veracausa.circuits.runs.tapes import step_groups
from veracausa.circuits.selection.gated_edges import gated_edges
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, borrowed
from veracausa.estimates.learned.descent import Descent
from veracausa.estimates.learned.learner import LEARNERS, Learner
from veracausa.estimates.learned.training import Training
from veracausa.units.every_unit import all_edges

UNITS, PAIRS = 7, 4
WRITERS = torch.tensor([0, 0, 1, 1, 1, 2, 2])
GENERATOR = torch.Generator().manual_seed(3)
A = torch.randn(PAIRS, 5, UNITS, dtype=torch.float64, generator=GENERATOR)
B = torch.randn(PAIRS, 5, dtype=torch.float64, generator=GENERATOR)


def loss_of(pair, gates, cause):
    """Any smooth function of a pair's gates."""
    return ((A[pair] @ gates - B[pair]) ** 2).sum() * (0.3 if cause else 1) + gates.sum() * cause


class Runs:
    """Two groups of two pairs."""

    along: list = []  # noqa: RUF012

    def tokens(self, group):
        return 1.0

    def pairs(self, group):
        return [2 * group, 2 * group + 1]

    def slope(self, group, gates, cause):
        leaf = gates.clone().requires_grad_()
        rows = leaf.expand(2, -1)
        total = sum(loss_of(pair, row, cause) for pair, row in zip(self.pairs(group), rows, strict=True))
        return float(total.detach()), torch.autograd.grad(total, leaf)[0]


def hard(scores, uniform):
    noise = torch.log(uniform) - torch.log(1 - uniform)
    return (torch.sigmoid((scores + noise) / (2 / 3)) * 1.2 - 0.1).clamp(0, 1)


def naive(learner, planned, seed, writers):
    """The same descent, all of a step as one differentiable number."""
    count = UNITS + (3 if writers is not None else 0)
    scores = torch.full((count,), learner.begin, dtype=torch.float64).requires_grad_()
    adam, first_order, second_order, start = torch.optim.Adam([scores], lr=learner.lr), 0.0, 0.0, None
    for step, groups in enumerate(planned):
        coin = np.random.default_rng([seed, step]).random()
        total = torch.zeros((), dtype=torch.float64)
        for pair in [pair for group in groups for pair in (2 * group, 2 * group + 1)]:
            key = pair if learner.each else 0
            draws = np.random.default_rng([seed, step, key]).random(count).clip(1e-6, 1 - 1e-6)
            gates = hard(scores, torch.from_numpy(draws))
            if writers is not None:
                gates = gates[:UNITS] * gates[UNITS:][writers]
            ablated = learner.aim == "cause" or (learner.aim == "both" and coin < 0.5)
            total = total + loss_of(pair, 1 - gates if ablated else gates, ablated) / (2 * len(groups))
            if learner.aim == "complete":
                total = total + learner.completeness * loss_of(pair, 1 - gates, True) / (2 * len(groups))
        share = torch.sigmoid(scores[:UNITS] - 2 / 3 * math.log(0.1 / 1.1)).mean()
        start = float(share.detach()) if start is None else start
        error = share - (start + (0.5 - start) * min(1, step / (learner.warm_up * len(planned))))
        adam.zero_grad()
        (total + first_order * error + second_order * error**2).backward()
        adam.step()
        first_order += learner.rise * float(error.detach())
        second_order += learner.rise * float(error.detach()) ** 2
        with torch.no_grad():
            scores.clamp_(-learner.bound, learner.bound)
    return scores.detach()


def descended(learner, writers=None, seed=2):
    training = Training([0] * UNITS, learner, round(UNITS / 2), 4, None, seed)
    planned = [[0, 1], [1], [0], [1, 0]]
    begin = torch.full((UNITS,), learner.begin, dtype=torch.float64)
    descent = Descent(Runs(), training, seed, begin, writers)
    descent.holds[0].wanted = 0.5
    descent.run(planned, lambda _: None, lambda: None)
    return descent, planned


@pytest.mark.parametrize(
    ("parts", "nodes"),
    [
        ({}, False), ({"each": True}, False), ({"each": True}, True), ({"aim": "complete", "loss": "answers"}, False),
        ({"aim": "cause", "loss": "bounded"}, False), ({"aim": "both", "loss": "bounded", "each": True}, False),
    ],
)  # fmt: skip
def test_a_step_is_that_of_its_definition(parts, nodes):
    """Edge Pruning's gates on edges and nodes, draws for all pairs and for each, DiscoGP's two terms, and matryoshka's
    two directions: what is open is what is left, or what is ablated; 1e-9."""
    learner = Learner(hold="lagrangian", steps=4, lr=0.2, begin=1.0, nodes=nodes, completeness=0.7, **parts)
    writers = WRITERS if nodes else None
    found, planned = descended(learner, writers)
    torch.testing.assert_close(found.scores.detach(), naive(learner, planned, 2, writers), rtol=0, atol=1e-9)
    gates = torch.sigmoid(found.scores.detach() - 2 / 3 * math.log(0.1 / 1.1))
    wanted = gates[:UNITS] * gates[UNITS:][WRITERS] if nodes else gates
    torch.testing.assert_close(found.values(), wanted)


def test_an_adversary_sets_what_is_closed():
    """Its steps and the gradient where it ends, against the definition, with r held: 1e-6, central differences."""
    descent, _ = descended(Learner(adversary=2, steps=4))
    gates = torch.linspace(0.05, 0.9, UNITS, dtype=torch.float64)
    loss, slope = descent._attacked(0, gates)
    r = torch.zeros(UNITS, dtype=torch.float64)

    def value(at, r):
        return sum(float(loss_of(pair, at + (1 - at) * r, False)) for pair in (0, 1))

    h = torch.eye(UNITS, dtype=torch.float64) * 1e-6
    for t in (1, 2):
        rise = torch.tensor([value(gates, r + one) - value(gates, r - one) for one in h])
        r = (r + 0.5 / math.sqrt(t) * rise.sign()).clamp(0, 1)
    assert loss == pytest.approx(value(gates, r)) and loss > value(gates, torch.zeros_like(r))
    wanted = [(value(gates + one, r) - value(gates - one, r)) / 2e-6 for one in h]
    assert slope.tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_constants_that_are_learned_along_have_their_gradient(tiny, task_of, family):
    """1e-6 of the largest: central differences of step 1e-5, with every pair's gates its own."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    edges, generator, groups = all_edges(lm), torch.Generator().manual_seed(1), step_groups(lm, task, False, 2, pairs=2)
    how = Ablating.of(lm, task, "zero", None, 0, None)
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        means = LearnedWrites.of_means(lm, mean_writes(lm, task, (), Cost()))
        runs = gated_edges(record(lm, task, Cost(), most=2, how=how), edges, "kl", groups).along_with(means)
        gates = torch.rand(len(runs.pairs(0)), len(edges), dtype=torch.float64, generator=generator)
        runs.slope(0, gates, False)
        found = runs.along[0].grad.clone()
        for writer in found.abs().amax((1, 2)).argsort(descending=True)[:3].tolist():
            at = (writer, 0, int(found[writer, 0].abs().argmax()))
            ends = []
            for sign in (1, -1):
                runs.along[0].data[at] += sign * 1e-5
                ends.append(runs.slope(0, gates, False)[0])
                runs.along[0].data[at] -= sign * 1e-5
            assert float(found[at]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6 * float(found.abs().max()))


@pytest.mark.parametrize("how", ["matryoshka", "ugs"])
def test_the_same_scores_however_little_fits(tiny, task_of, monkeypatch, how):
    """Pairs are recorded one by one, but stepped in the same groups: 1e-8."""
    lm, task = tiny("gpt2"), task_of((5, 6), n=4)
    asked = {"how": how, "steps": 2, "keep": 0.2, "show_progress": False}
    whole = vc.circuits.learn(lm, task, **asked)
    monkeypatch.setattr("veracausa.circuits.runs.tapes.examples_per_batch", lambda *_: 1)
    assert len(vc.circuits.learn.work(lm, task, **asked).groups()) == 4
    torch.testing.assert_close(vc.circuits.learn(lm, task, **asked).values, whole.values, rtol=0, atol=1e-8)


@pytest.mark.parametrize("how", ["ugs", "adversarial", "edge-pruning"])
def test_what_it_costs_is_foretold(tiny, task_of, how):
    """But for the two runs of the circuit that is found, which are counted as the whole graph's."""
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    asked = {"how": how, "steps": 3, "seeds": 2}
    found = vc.circuits.learn(lm, task, **asked, show_progress=False).cost.token_layers
    assert found <= vc.circuits.learn.work(lm, task, **asked).tokens() <= found + 2 * lm.layers * sum(task.lengths)


class Linear(Runs):
    """A metric that is linear in what is kept: what a unit does alone is what it does among any others."""

    effects = torch.tensor([0.3, 0.9, 0.1, 0.7, 0.02, 0.5, 0.2], dtype=torch.float64)

    def slope(self, group, gates, cause):
        sign, each = 1.0 if cause else -1.0, gates.ndim > 1
        rows = gates if each else gates.expand(2, -1)
        slope = sign * self.effects.expand_as(rows)
        return float((slope * rows).sum()), slope if each else slope.sum(0)


@pytest.mark.cases(1)
@pytest.mark.parametrize(("how", "steps"), [("matryoshka", 200), ("top-k", 600), ("bottleneck", 600)])
def test_where_the_metric_is_linear_the_order_is_that_of_exact_effects(how, steps):
    """Of the ways that order all units; gates that are held to one size are open or closed, and equal among themselves.

    Noisy gates take more steps; a nat of noise is priced so that no gate closes.
    """
    learner = replace(LEARNERS[how], steps=steps, price=0.4 * UNITS, last_price=0.4 * UNITS)
    training = Training([0] * UNITS, learner, 3, 4, None, 2)
    descent = Descent(Linear(), training, 2, torch.full((UNITS,), learner.begin, dtype=torch.float64))
    descent.run([[0, 1]] * steps, lambda _: None, lambda: None)
    assert torch.equal(descent.values().argsort(), Linear.effects.argsort())


@pytest.mark.parametrize(
    ("how", "exactly"), [("share", True), ("adversarial", True), ("node-pruning", False), ("subnetwork-probing", False)]
)
def test_gates_of_one_size_are_open_or_closed_and_the_open_ones_are_the_strongest(how, exactly):
    """Where the metric is linear: what is open are the largest effects, as many as are wanted, in no order.

    A Lagrangian may be one off where it ends; how many a price keeps is not chosen.
    """
    learner = replace(LEARNERS[how], price=0.4 * UNITS, last_price=0.4 * UNITS)
    training = Training([0] * UNITS, learner, 3, 4, None, 2)
    descent = Descent(Linear(), training, 2, torch.full((UNITS,), learner.begin, dtype=torch.float64))
    descent.run([[0, 1]] * learner.steps, lambda _: None, lambda: None)
    opened = descent.open().detach()
    count = int((opened > 0.5).sum())
    assert count == 3 if exactly else 2 <= count < UNITS
    order = Linear.effects.argsort(descending=True)
    assert set(opened.argsort(descending=True)[:count].tolist()) == set(order[:count].tolist())
    assert opened[order[:count]].min() > 0.9 and opened[order[count:]].max() < 0.1


def test_between_open_and_closed_a_gate_has_no_best_place():
    """P(g > 0) and E g are means of shifted sigmoids, so (E g)′ / P(g > 0)′ rises with the score.

    So effect · E g − price · P(g > 0) is least where its slope is 0, and largest at an end: no price gives an order.
    """
    scores, at = torch.linspace(-8, 8, 65, dtype=torch.float64), (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    leaf = scores.clone().requires_grad_()
    mean = hard(leaf[:, None], at).mean(1)  # over the noise's quantiles: E g
    shift = 2 / 3 * torch.log((at + 0.1) / (1.1 - at))
    assert mean.tolist() == pytest.approx(torch.sigmoid(scores[:, None] - shift).mean(1).tolist(), abs=1e-3)
    rise = torch.autograd.grad(torch.sigmoid(leaf[:, None] - shift).mean(1).sum(), leaf)[0]
    opened = torch.sigmoid(scores - 2 / 3 * math.log(0.1 / 1.1))
    assert ((rise / (opened * (1 - opened))).diff() > 0).all()
