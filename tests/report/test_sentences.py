"""What stands under the figures, from numbers that tell its parts apart."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_up import agreement, heads, scores

from veracausa.report.words import (
    chosen_sentence,
    cost_sentence,
    difference_sentence,
    jaccard_sentence,
    map_sentence,
    scatter_sentence,
)

NAMES = ("a1.h2", "a3.h4", "a5.h6")
EXACT = np.array([-0.31, 0.12, 0.02])
ATP = agreement("atp", names=NAMES, exact=EXACT, estimate=np.array([-0.26, -0.08, 0.5]), r=0.61, slope=0.53, bias=0.1,
                sd=0.1, proportional_bias=-0.42, proportional_p=0.0004)  # fmt: skip
IG = agreement("ig", names=NAMES, exact=EXACT, estimate=np.array([-0.30, 0.11, 0.02]), r=0.97, slope=1.02, bias=0.02,
               sd=0.3, proportional_bias=0.05, proportional_p=0.37)  # fmt: skip
MASK = agreement("mask", names=NAMES, exact=EXACT, estimate=EXACT, signed=False, r=0.33, bias=0.0, sd=1.0,
                 proportional_bias=float("nan"), proportional_p=float("nan"))  # fmt: skip


def test_maps():
    said = map_sentence(
        "heads", NAMES, EXACT, {"atp": np.array([-0.26, 0.9, -0.4]), "ig": np.array([-0.29, 0.1, 0.0])}, 0.31
    )
    assert said == (
        "Replacing a1.h2 changes the metric most, by −0.310 of the gap; atp gives it −0.260 and ig gives it −0.290. "
        "The "
        "scale ends at the largest exact effect; heads beyond it have the end colour: atp (2)."
    )


def test_scatters():
    assert scatter_sentence("heads", [MASK, ATP, IG], 3) == (
        "On the dashed diagonal a method would be right: ig r 0.970, slope 1.02; atp r 0.610, slope 0.53; mask r "
        "0.330. "
    )
    assert scatter_sentence("heads", [ATP, IG], 2) == (
        "On the dashed diagonal a method would be right: ig r 0.970, slope 1.02; atp r 0.610, slope 0.53. Ringed heads "
        "lie outside bias ± 1.96 SD; for atp farthest off are a5.h6 and a3.h4. Of 3 heads 2 are drawn: all extreme "
        "ones; "
        "the weak middle is thinned."
    )


def test_differences():
    assert difference_sentence("heads", [ATP, IG, MASK]) == (
        "Outside bias ± 1.96 SD, of 3 heads: atp 2 (−0.096 to +0.296), ig 0 (−0.568 to +0.608) and mask 0 (−1.960 to "
        "+1.960). The difference depends on the size of the effect (dotted line): atp (−0.42 per unit of effect, p < "
        "0.001); not for ig (p = 0.370) and mask (no p value)."
    )


def test_overlap():
    many = tuple(f"a{i}.h0" for i in range(12))
    exact = np.linspace(1, 2, 12)
    one = agreement("atp", names=many, exact=exact, estimate=exact[::-1])
    assert jaccard_sentence("heads", [one, agreement("ig", names=many, exact=exact, estimate=exact)]) == (
        "Overlap of the 10 strongest heads by each method with the 10 strongest by exact effect: atp 0.67 and ig 1.00 "
        "(1 "
        "= the same heads). At k = 12 all are chosen and every method reaches 1."
    )


@pytest.mark.parametrize(
    ("cost", "ratio"),
    [
        (20, "40 times less than"),
        (500, "1.6 times less than"),  # was "2 times less"
        (800, "about as much as"),
        (2000, "2.5 times as much as"),
    ],
)
def test_prices(cost, ratio):
    rows = [
        {"kind": "heads", "method": "atp", "cost": 7, "r": 0.5, "units": 270},
        {"kind": "heads", "method": "ig", "cost": cost, "r": 0.971, "units": 270},
        {"kind": "heads", "method": "exact", "cost": 800, "r": 1.0, "units": 270},
        {"kind": "mlps", "method": "exact", "cost": 9, "r": 1.0, "units": 30},
        {"kind": "neurons", "method": "atp", "cost": 30, "r": 0.25, "units": 46080},
        {"kind": "neurons", "method": "exact", "cost": 90_000, "r": 1.0, "units": 450},
    ]
    assert cost_sentence(rows) == (
        f"For heads ig comes closest (r 0.971) at {cost:,} token-layers, {ratio} the exact effects of 270; for neurons "
        "atp comes closest (r 0.250) at 30 token-layers, 3,000 times less than the exact effects of 450."
    )


def test_how_units_were_chosen():
    units = heads(*(f"a{i}.h0" for i in range(9)))
    order = list(range(9))
    named = SimpleNamespace(units=units, ranking=lambda: order)
    truth = scores("exact", units.names[:7], [0.1] * 7)
    panel = SimpleNamespace(kind="heads", exact=truth, sampled=3, estimates=(named,), labels=("atp",))
    assert chosen_sentence(panel) == (
        "Exact effects of 7 heads: the 4 strongest by atp, and 3 drawn at random from the others. The strongest were "
        "picked by an estimate, so agreement over all of them says little about the rest; the random draw does."
    )
    panel.sampled = 0
    assert chosen_sentence(panel) == "Exact effects of all 7 heads."
