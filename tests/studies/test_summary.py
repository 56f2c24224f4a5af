"""What a comparison says in words, from numbers that tell its parts apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import agreement, scores, task

from veracausa.cost import Cost
from veracausa.studies.frontier import advice
from veracausa.studies.summary import _estimate, _panel, _verdict, summarise


def panel(agreements, costs, *, exact_cost=1000, units=270, sampled=0, kind="heads"):
    """A panel of these agreements; what each estimate costs, and the exact effects."""
    truth = scores("exact", [f"a{i}.h0" for i in range(units)], [-0.514, *[0.0] * (units - 1)],
                   cost=Cost(forward=exact_cost, full=20))  # fmt: skip
    estimates = tuple(SimpleNamespace(cost=Cost(forward=cost, full=20)) for cost in costs)
    return SimpleNamespace(
        kind=kind, exact=truth, sampled=sampled, agreements=agreements, estimates=estimates,
        labels=[one.method for one in agreements],
    )  # fmt: skip


def section(*panels, n=7, name="ioi"):
    measured = SimpleNamespace(clean=torch.tensor([5.25]), corrupted=torch.tensor([-3.5]))
    return SimpleNamespace(task=task(n, name), panels=panels, measured=measured, findings=())


ATP = agreement("atp", r=0.975, names=("a20.h0", "a17.h4"), exact=np.array([-0.2, 0.1]), estimate=np.array([0.4, 0.1]),
                bias=0.0, sd=0.1)  # fmt: skip
IG = agreement("ig", r=0.981, bias=0.0, sd=1.0)


@pytest.mark.parametrize(
    ("agreements", "costs", "said"),
    [
        (  # the price is that of the better method, and no reader may take it for the other's
            (ATP, IG),
            (30, 760),
            "For heads of 7 pairs of ioi, atp agrees with the exact effects at r = 0.975. ig comes closer, at r = "
            "0.981, "
            "for 76% of what computing every head exactly costs (atp: 3%). If you use atp for its price, check these "
            "exactly: a20.h0.",
        ),
        (
            (ATP, IG),
            (30, 2400),
            "For heads of 7 pairs of ioi, atp agrees with the exact effects at r = 0.975. ig comes closer, at r = "
            "0.981, "
            "but ig costs 2.4 times as much as computing every head exactly, so take the exact effects. If you use atp "
            "for its price, check these exactly: a20.h0.",
        ),
        (
            (ATP, agreement("ig", r=0.9)),
            (30, 760),
            "For heads of 7 pairs of ioi, atp comes closest to the exact effects (r = 0.975), for 3% of what computing "
            "every head exactly costs. If you use atp for its price, check these exactly: a20.h0.",
        ),
        (  # an undefined r is never the best
            (agreement("atp", r=0.5, sd=1.0), agreement("ig", r=float("nan"))),
            (45, 760),
            "For heads of 7 pairs of ioi, atp comes closest to the exact effects (r = 0.500), for 4% of what computing "
            "every head exactly costs.",
        ),
    ],
)
def test_the_verdict(agreements, costs, said):
    first = section(panel((IG,), (1,)), n=3, name="other")
    assert _verdict([first, section(panel(agreements, costs))]) == said


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (
            agreement("atp", r=0.912, intervals={"r": (0.871, 0.943)}, n=16, sd=0.02),
            "atp agrees with r = 0.912 (95% 0.871 to 0.943 over 16 pairs), 1 wrong sign (a3.h4), farthest off on "
            "a3.h4: "
            "-0.080 for +0.120",
        ),
        (
            agreement("ig", r=0.5, sign_errors=0, estimate=np.array([-0.3, 0.1]), sd=1.0),
            "ig agrees with r = 0.500, no wrong signs",
        ),
        (agreement("mask", r=0.25, signed=False, sd=1.0), "mask agrees with r = 0.250"),
    ],
)
def test_what_is_said_of_an_estimate(one, said):
    assert _estimate(one) == said


def test_a_panel_in_words():
    right = {"sign_errors": 0, "estimate": np.array([-0.3, 0.1])}
    agreements = (agreement("atp", r=0.9, sd=1.0, strong=43), agreement("ig", r=0.95, sd=1.0, strong=44, **right))
    start = "Heads: a0.h0 matters most (-0.514 of the gap), and 43 of "
    both = "atp agrees with r = 0.900, 1 wrong sign (a3.h4); ig agrees with r = 0.950, no wrong signs."
    assert _panel(panel(agreements, (1, 2))) == f"{start}270 carry more than 1%. {both}"
    drawn = _panel(panel(agreements, (1, 2), units=450, sampled=150))
    assert drawn == f"{start}450 carry more than 1%. {both} (Compared: 300 chosen by atp, 150 drawn at random.)"


def test_a_summary_says_whose_metric_it_is():
    lm = SimpleNamespace(name="made-up")
    several = summarise(lm, [section(panel((ATP,), (30,)))])
    assert (
        several[1]
        == "On 7 pairs of ioi, made-up has a mean logit difference of +5.25 clean and −3.50 corrupted, a gap of 8.75."
    )
    assert summarise(lm, [section(panel((ATP,), (30,)), n=1, name="ioi-published")])[1].startswith(
        "On the published pair, made-up has a logit difference of +5.25"
    )


def test_advice_has_each_methods_own_price():
    agreements = (agreement("atp", r=0.9), agreement("relp", r=0.7), agreement("ig", r=0.98))
    found = advice(
        [section(panel(agreements, (40, 120, 500))), section(panel(agreements, (40, 120, 1500), units=30, sampled=9))]
    )
    assert found == (
        "Heads of 7 pairs of ioi: take atp from 2.0 forward passes a pair (r = 0.900); ig from 25.0 forward passes a "
        "pair (r = 0.980); exact effects of all 270 take 50.0.",
        "Heads of 7 pairs of ioi: take atp from 2.0 forward passes a pair (r = 0.900); ig from 75.0 forward passes a "
        "pair (r = 0.980); exact effects of the 30 compared units take 50.0.",
    )
