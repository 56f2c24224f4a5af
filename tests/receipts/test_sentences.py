"""What receipts, responses, surfaces and constants say in words, from numbers that tell their parts apart."""

import numpy as np
import pytest
import torch
from made_up import MODEL, heads, scores, task_header

from veracausa.causes.curves.responses import Response
from veracausa.causes.curves.surfaces import Surface
from veracausa.cost import Cost
from veracausa.effects.learned_constants import OptimalConstants
from veracausa.effects.optimal_descent import Learning
from veracausa.receipts.receipts import Ceiling, Receipt
from veracausa.receipts.stages import Outcome, Until
from veracausa.statistics.ratios import Share


def receipt(**over):
    """20 heads; the 3 strongest and 4 drawn at random are checked, of which a3.h0 and one drawn one are strong."""
    names = tuple(f"a{i}.h0" for i in range(20))
    guess = np.zeros(20)
    guess[[3, 5, 7]] = [-0.31, 0.22, 0.15]
    rows = [2, 3, 5, 7, 9, 11, 13]
    exact = scores("exact", [names[i] for i in rows], [0.001, -0.4, 0.004, 0.003, 0.0015, -0.05, 0.0005],
                   cost=Cost(forward=1234, seconds=5.6))  # fmt: skip
    estimate = scores("atp", names, guess, settings={"path": "point"})
    known = {"estimate": estimate, "exact": exact, "top": np.array([3, 5, 7]), "drawn": np.array([11, 2, 9, 13])}
    known |= {"tau": 0.02, "seed": 8, "outcomes": (Outcome(**OUTCOME),), "whole": 9876.0}
    return Receipt(**(known | over))


OUTCOME = {"top": 3, "sample": 4, "found": 1, "strong": 2, "missed": 6, "alpha": 0.05}


def test_a_receipt_in_words():
    made = receipt()
    rounded = {label: text for label, text in made.lines() if label not in ("agree", "")}
    assert rounded == {
        "receipt": "atp · 20 heads · direction noising, path point",
        "model": "made up",
        "task": "ioi: 1 made-up pairs",
        "checked": "7 of 20 units exactly: the 3 strongest by |score| and 4 drawn at random from the other 17 (seed 8)",
        "missed": "with 95% confidence at most 6 of the 13 unchecked units have |E| over 2% of the gap. 2 of the "
        "checked "
        "units do, 1 of them outside the top: a11.h0",
        "tau": made._ceiling(made.ceiling),
        "cost": "1,234 token-layers, 12.49% of exact effects of all units; 5.6 s",
    }
    r = np.corrcoef(made.agreement.exact, made.agreement.estimate)[0, 1]
    assert made.sentence == (
        f"7 of 20 units checked exactly, r {r:+.3f}; with 95% confidence at most 6 of the 13 unchecked units have |E| "
        f"over "
        "2% of the gap"
    )


@pytest.mark.parametrize(
    ("ceiling", "said"),
    [
        (
            Ceiling(3, 0.25, 0.0152, 139),
            "with 95% confidence at most 25% of the 17 outside the top are unchecked and have |E| over 1.52% of the "
            "gap (the "
            "sample's largest; 1% would need 139 drawn units)",
        ),
        (
            Ceiling(3, 0.25, 0.0152),
            "with 95% confidence at most 1% of the 17 outside the top are unchecked and have |E| over 1.52% of the gap",
        ),
    ],
)
def test_the_ceiling(ceiling, said):
    assert receipt()._ceiling(ceiling) == said


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"budget": 0.3}, "after 1 stage, which spent the budget of 30% of all units' cost"),
        ({"budget": 0.3, "until": Until(missed=6)}, "after 1 stage: at most 6 missed is certified"),
        (
            {"budget": 0.3, "until": Until(missed=5), "outcomes": (Outcome(**OUTCOME), Outcome(**OUTCOME))},
            "after 2 stages: the budget of 30% ended before at most 5 missed could be certified",
        ),
    ],
)
def test_why_it_stopped(over, said):
    assert receipt(**over)._stopped() == said


def test_a_response_in_words():
    """A parabola with its trough at α = 0.25; slope, secant and trough are three different numbers."""
    alphas = np.linspace(-1, 2, 13)
    curve = 0.4 * (alphas - 0.25) ** 2 - 0.025
    one = Response("a20.h0", 9, alphas, curve, np.full(13, 0.013), Share(-0.2, 0.011), Share(0.2, 0.012))
    assert one.sentence == (
        "a20.h0: the slope at α = 0 promises −0.200 ± 0.011 of the gap, α = 1 gives +0.200 ± 0.012 (9 pairs); the "
        "curve "
        f"leaves its slope by 5% of the gap at α = {one.leaves:.2f}. Between α = −1 and 2 it has a trough of −0.025 ± "
        f"0.013 at "
        "α = 0.25."
    )
    assert 0.25 < one.leaves < 0.5  # 0.4 α² = 0.05 at α = 0.354, taken as linear between points


def surface(both):
    values = torch.zeros(2, 2, 1)
    values[1, 0], values[0, 1], values[1, 1] = -2.5, -1.2, both
    return Surface(("a1.h2", "a3.h4"), np.array([0.0, 1.0]), np.array([0.0, 1.0]), values, torch.tensor([6.0]),
                   torch.tensor([-4.0]), MODEL, task_header(1), Cost())  # fmt: skip


@pytest.mark.parametrize(
    ("both", "end"),
    [
        (
            -5.0,
            "replacing both by −0.500 (one pair: no error known). The interaction is −0.130: either matters more once "
            "the "
            "other is gone: a1.h2 and a3.h4 cover for each other.",
        ),
        (
            -2.9,
            "replacing both by −0.290 (one pair: no error known). The interaction is +0.080: either matters less once "
            "the "
            "other is gone: a1.h2 and a3.h4 work together.",
        ),
    ],
)
def test_a_surface_in_words(both, end):
    start = "Replacing a1.h2 changes the metric by −0.250 of the gap, replacing a3.h4 by −0.120, "
    assert surface(both).sentences == (start + end,)


def test_constants_in_words():
    made = OptimalConstants(
        heads("a1.h2", "a3.h4", "a5.h6"), torch.zeros(1, 1), torch.tensor([0.16, 0.10, 0.003]),
        torch.tensor([0.04, 0.02, 0.003]), np.array([True, True, False]), 0.01, Learning(steps=50, rate=0.02, batch=6),
        MODEL, task_header(48), Cost(),
    )  # fmt: skip
    assert made.sentences == (
        "Optimal constants of 2 of 3 heads were learned (Adam, 50 steps of 6 pairs, rate 0.02, loss KL): their mean "
        "KL over "
        "48 prompts fell from 0.1300 to 0.0300 nats.",
        "The other 1 keep their means; a better constant could lower the KL of none by more than 0.0030 nats.",
    )


def test_scores_say_what_they_are():
    made = scores("atp", ("a1.h2", "a3.h4"), [[0.1, 0.2]] * 3, cost=Cost(forward=30, backward=20, full=25, seconds=1.5))
    assert made.describe().splitlines() == [
        "atp · 2 heads · direction noising",
        "model   made up",
        "task    ioi: 3 made-up pairs",
        "sign    E = M(clean, unit replaced) − M(clean); negative: the unit supported the behaviour",
        "n       3 pairs; metric +6.000 clean, -4.000 corrupted",
        "cost    50 token-layers = 2.0 forward passes, 1.5 s",
        "trust   not verified",
    ]
