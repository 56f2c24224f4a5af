"""Gates, what holds them, losses and the loop: every part against its definition, written naively here."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.estimates.learned.gates import GATES, competing
from veracausa.estimates.learned.holds import Hold, drawn_size
from veracausa.estimates.learned.learner import LEARNERS, Learner
from veracausa.estimates.learned.losses import JUDGES, Ends, judged


def naive(name, score, u, t):
    """One gate, by its formula."""
    noise, p = math.log(u) - math.log(1 - u), 1 / (1 + math.exp(-score))
    if name == "uniform":
        return min(1.0, max(0.0, (p - u) / (t * p * (1 - p)) + 0.5))
    if name == "noise":
        return p + (1 - p) * NormalDist().inv_cdf(u)
    soft = 1 / (1 + math.exp(-(score + (0 if name == "sigmoid" else noise)) / t))
    if name == "straight-through":
        return float(soft > 0.5)
    return soft if name == "sigmoid" else min(1.0, max(0.0, 1.2 * soft - 0.1))


@pytest.mark.parametrize("name", list(GATES))
def test_gates_and_their_slopes_are_those_of_the_formula(name):
    """1e-5: central differences of step 1e-6. A straight-through gate has the slope of its sigmoid."""
    generator, t, h = torch.Generator().manual_seed(0), 0.8, 1e-6
    scores = torch.randn(30, dtype=torch.float64, generator=generator).requires_grad_()
    u = torch.rand(3, 30, dtype=torch.float64, generator=generator).clamp(0.01, 0.99)
    gates = GATES[name].draw(scores, u, t)
    slope = torch.autograd.grad(gates.sum(), scores)[0]
    soft = "sigmoid with noise" if name == "straight-through" else name
    for unit in range(30):
        s, column = scores[unit].item(), u[:, unit].tolist()
        assert gates[:, unit].tolist() == pytest.approx([naive(name, s, one, t) for one in column], abs=1e-12)

        def value(at, one, soft=soft):
            if soft == "sigmoid with noise":
                return 1 / (1 + math.exp(-(at + math.log(one) - math.log(1 - one)) / t))
            return naive(soft, at, one, t)

        wanted = sum(value(s + h, one) - value(s - h, one) for one in column) / (2 * h)
        assert float(slope[unit]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("uniform", "mean"), ("straight-through", "mean"), ("sigmoid", "mean")])
def test_the_open_share_is_the_gates_mean(name, expected):
    """Of 40,000 draws, 0.01 is four standard errors of a fair coin's mean; hard-concrete ones are in test_masks."""
    scores = torch.linspace(-3, 3, 13, dtype=torch.float64)
    u = torch.rand(40_000, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = GATES[name].draw(scores, u.clamp(1e-6, 1 - 1e-6), 1.0).mean(0)
    assert found.tolist() == pytest.approx(GATES[name].open(scores, 1.0).tolist(), abs=0.01)


def test_noise_is_priced_by_what_it_tells():
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1) − ln σ, with μ = p and σ = 1 − p: what a gate lets through, in nats."""
    scores = torch.tensor([-9.0, -2.0, 0.0, 3.0, 9.0], dtype=torch.float64)
    p = [1 / (1 + math.exp(-s)) for s in scores.tolist()]
    told = [(one**2 + (1 - one) ** 2 - 1) / 2 - math.log(1 - one) for one in p]
    assert GATES["noise"].priced(scores, 1.0).tolist() == pytest.approx(told, abs=1e-9)
    with pytest.raises(MethodError, match="nats"):
        Learner(gates="noise", hold="share")


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("name", ["hard-concrete", "sigmoid"])
@pytest.mark.parametrize("size", [1.0, 7.5, 30.0])
def test_competing_gates_sum_to_their_number(name, size, rows):
    """To 1e-9; their slopes with the threshold moving along: 1e-6, central differences of step 1e-6."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, dtype=torch.float64, generator=generator).requires_grad_()
    shape = (40,) if rows is None else (rows, 40)
    u, upstream = (torch.rand(shape, dtype=torch.float64, generator=generator) for _ in range(2))

    def gates(at):
        return competing(lambda moved: GATES[name].draw(moved, u, 0.7), at, size)

    found = gates(scores)
    assert found.sum(-1).flatten().tolist() == pytest.approx([size] * (rows or 1), abs=1e-9)
    slope = torch.autograd.grad((found * upstream).sum(), scores)[0]
    for unit in range(0, 40, 5):
        step = torch.zeros_like(scores)
        step[unit] = 1e-6
        ends = [float((gates(scores.detach() + sign * step) * upstream).sum()) for sign in (1, -1)]
        assert float(slope[unit]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_losses_are_those_of_the_table():
    m, ends = (
        torch.tensor([3.0, -1.0, 9.0]).double(),
        Ends(torch.tensor([4.0, 2.0, 5.0]), torch.tensor([-1.0, -2.0, 1.0]), 4.0),
    )
    sigma = [1 / (1 + math.exp(-x)) for x in m.tolist()]
    f = [(3 + 1) / 4, (-1 + 2) / 4, (9 - 1) / 4]
    table = {
        "metric": ([-3 / 4, 1 / 4, -9 / 4], [3 / 4, -1 / 4, 9 / 4]),
        "bounded": ([-min(f[0], 5 / 4), -min(f[1], 1), -min(f[2], 1)], [max(one, 0) for one in f]),
        "margin": ([1 - s for s in sigma], sigma),
        "answers": ([-math.log(s) for s in sigma], [-(math.log(s) + math.log(1 - s)) / 2 for s in sigma]),
    }
    assert set(table) == set(JUDGES)
    for loss, wanted in table.items():
        for cause in (False, True):
            assert judged(loss, cause, lambda: m, lambda: m, ends).tolist() == pytest.approx(wanted[cause], rel=1e-6)


def test_a_lagrangian_climbs_and_a_price_grows():
    """Against its definition: λ₁ (p − w_t) + λ₂ (p − w_t)², its slope in p, and ∂/∂λ."""
    hold, first, second = Hold(Learner(hold="lagrangian", rise=0.5, warm_up=0.5), 0.2, 10, 1.0), 0.0, 0.0
    for step, share in enumerate([1.0, 0.9, 0.7, 0.3, 0.1, 0.1]):
        wanted = 1 - 0.8 * min(1, step / 5)
        assert hold._weight(step, share) == pytest.approx(first + 2 * second * (share - wanted))
        first, second = first + 0.5 * (share - wanted), second + 0.5 * (share - wanted) ** 2
        assert hold.multipliers == pytest.approx([first, second])
    price = Hold(Learner(hold="price", price=1.0, last_price=1000.0), 0.2, 4, 1.0)
    assert [price._weight(step, 0.5) for step in range(4)] == pytest.approx([1, 10, 100, 1000])


def test_sizes_are_drawn_as_said():
    """4,000 draws: a share of steps under a tenth has a standard error of 0.8%."""
    under = {}
    for sizes in ("fixed", "log", "mixed"):
        learner = Learner(hold="budget", sizes=sizes, smallest=0.01)
        found = np.array([drawn_size(learner, 7, 100, np.random.default_rng([0, i])) for i in range(4000)])
        assert found.min() >= 1 and found.max() <= 100
        under[sizes] = (found < 10).mean()
    assert under == {
        "fixed": 1,
        "log": pytest.approx(0.5, abs=0.03),
        "mixed": pytest.approx(0.25 + 0.5 * 0.09 / 0.99, abs=0.03),
    }


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"aim": "cause"}, "loss='kl'"),
        ({"nodes": True, "hold": "budget"}, "nodes=True"),
        ({"adversary": -1}, "adversary=-1"),
        ({"adversary": 2, "aim": "both", "loss": "bounded"}, "adversary=2"),
        ({"gates": "uniform", "temperature": 3.0}, "at most 2"),
        ({"smallest": 1.0}, "smallest=1.0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"gates": "soft"}, "soft"),
    ],
)
def test_parts_that_mean_nothing_are_refused(parts, word):
    with pytest.raises(MethodError, match=word):
        Learner(**parts)


# ---- the loop, on nodes and on edges --------------------------------------------------------------------------------


VERBS = {"nodes": vc.estimates.learn_mask, "edges": vc.circuits.learn}


def learn(what, lm, task, **options):
    return VERBS[what](lm, task, **({"steps": 6, "keep": 0.3, "batch": 2, "show_progress": False} | options))


@pytest.mark.parametrize("what", list(VERBS))
@pytest.mark.parametrize("how", ["share", "matryoshka"])
def test_an_interrupted_run_goes_on_where_it_was(tiny, task_of, tmp_path, monkeypatch, what, how):
    """Bit for bit what it gives in one go, in two seeds, the second of which is interrupted."""
    from veracausa.estimates.learned.descent import Descent

    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    whole, step, done = learn(what, lm, task, how=how, seeds=2), Descent._step, []

    def failing(self, *args):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(step(self, *args))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Descent, "_step", failing)
        learn(what, lm, task, how=how, seeds=2, out=tmp_path)
    counted = []
    monkeypatch.setattr(Descent, "_step", lambda self, *args: counted.append(step(self, *args)))
    again = learn(what, lm, task, how=how, seeds=2, out=tmp_path)
    assert torch.equal(again.values, whole.values) and torch.equal(again.draw_stderr, whole.draw_stderr)
    assert again.notes == whole.notes and len(counted) == 3


@pytest.mark.parametrize("what", list(VERBS))
def test_seeds_are_averaged_and_compared(tiny, task_of, what):
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    found = learn(what, lm, task, seeds=2, seed=5)
    one, other = (learn(what, lm, task, seed=seed).values.double() for seed in (5, 6))
    torch.testing.assert_close(found.values.double(), (one + other) / 2)
    torch.testing.assert_close(found.draw_stderr.double(), (one - other).abs() / 2)
    assert "2 seeds: mean Spearman" in found.notes[1] and "one seed" not in found.notes[0]


def test_the_spread_of_three_seeds_is_that_of_three_runs(tiny, task_of):
    """Ranks by counting, for every two runs; one run says that it does not know."""
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    found, runs = (learn("edges", lm, task, seeds=3), [learn("edges", lm, task, seed=seed) for seed in range(3)])
    every = [run.values[0].double().numpy() for run in runs]
    kept = [{*np.argsort(-one, kind="stable")[: found.settings["keep"]].tolist()} for one in every]
    order = [np.array([(one < at).sum() + ((one == at).sum() + 1) / 2 for at in one]) for one in every]
    among = [(0, 1), (0, 2), (1, 2)]
    rho = np.mean([np.corrcoef(order[i], order[j])[0, 1] for i, j in among])
    same = np.mean([len(kept[i] & kept[j]) / len(kept[i] | kept[j]) for i, j in among])
    assert f"3 seeds: mean Spearman between two {rho:.2f}" in found.notes[1] and f"{same:.2f}" in found.notes[1]
    assert found.draw_stderr[0].numpy() == pytest.approx(np.std(every, axis=0, ddof=1) / 3**0.5)
    assert all("seeds=3 tells" in run.notes[0] for run in runs)


def test_equal_scores_at_the_cut_are_told(tiny, task_of):
    """After two steps every one of Edge Pruning's gates is as open as the next, and what is kept is chance."""
    lm, task = tiny("llama"), task_of((5, 6), n=3, seed=4)
    found = learn("edges", lm, task, how="edge-pruning", steps=2, seeds=2)
    assert found.notes[1].endswith("highest 1.00, equal scores at the cut as they stand")
    assert "let through" in learn("edges", lm, task, how="bottleneck", steps=2).notes[0]


def test_every_preset_is_a_way_of_both_or_refused():
    assert {name for name, one in LEARNERS.items() if one.nodes or one.ablation != "counterfactual"} == {
        "discogp",
        "edge-pruning",
        "ugs",
    }
