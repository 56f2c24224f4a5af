"""What stands under the figures, from numbers that tell its parts apart."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up import agreement, heads, scores

from veracausa.causes.results import Disagreement
from veracausa.cost import Cost
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.report.chapters.causes import figures as figures_of_causes
from veracausa.report.chapters.counterfactuals import figures as figures_of_counterfactuals
from veracausa.report.chapters.location import _kinds as kinds_of_location
from veracausa.report.chapters.search import figures as figures_of_search
from veracausa.report.pages.panels import PanelView
from veracausa.report.sentences import (
    chosen_sentence,
    cost_sentence,
    difference_sentence,
    jaccard_sentence,
    map_sentence,
    scatter_sentence,
)
from veracausa.statistics.ratios import Share

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
    assert chosen_sentence(panel).startswith(
        "Exact effects of 7 of 9 heads, the strongest by atp, so agreement over them"
    )
    panel.estimates = (SimpleNamespace(units=heads(*truth.units.names), ranking=lambda: order[:7]),)
    assert chosen_sentence(panel) == "Exact effects of all 7 heads."


# ---- figures of further findings -------------------------------------------------------------------------------------


def test_panel_leads():
    lead = PanelView._lead
    view = SimpleNamespace(
        panel=SimpleNamespace(kind="heads", exact=range(7), sampled=0, estimates=()), agreements=[ATP, IG], drawn=[]
    )
    assert lead(view) == "Exact effects of all 7 heads. Correlation with them: atp 0.610 and ig 0.970."
    view.drawn = [agreement("atp", r=0.44), agreement("ig", r=-0.05)]
    assert lead(view).endswith(" Over the random draw alone: atp 0.440 and ig −0.050.")


def test_counterfactual_figures():
    """Three corruptions; under each another head is strongest, and two agree by ranks."""
    names = ("a1.h2", "a3.h4", "a5.h6", "a7.h8")
    spread = 0.01 * np.where(np.arange(8) % 2, 1.0, -1.0)[:, None]
    means = {
        "swap": [-0.40, 0.001, -0.20, 0.04],
        "order": [-0.003, -0.62, -0.36, 0.05],
        "abc": [-0.39, 0.1, -0.30, 0.02],
    }
    made = {name: scores("exact", names, np.array(mean) + spread, gap=8.0) for name, mean in means.items()}
    found = CounterfactualComparison(made, top=2, least=0.05)
    effects, ranks, agreed = figures_of_counterfactuals(found, "x")
    assert effects.sentence == (
        "Which heads have an effect depends on what the counterfactual changes. Shown by one and not by another: a3.h4 "
        "(order −0.62, swap 0.00 and abc +0.10) and a1.h2 (swap −0.40 and order 0.00). n = 8 clean prompts, the same "
        "in every "
        "column."
    )
    assert ranks.sentence == (
        "Of these 4 heads, a3.h4 moves most: its rank among 4 is 4 by swap, 1 by order and 3 by abc (n = 8)."
    )
    assert agreed.sentence == (
        "swap and abc find the most alike tops (Jaccard 1.00), swap and order the least (0.33); 4 heads, n = 8."
    )


def test_search_figures():
    rows = [("third", 2.05, 0.73, 9), ("swap", 1.25, 0.5, 12), ("words", 0.11, 0.02, 7)]
    frame = pd.DataFrame([{"how": how, "|effect|": size, "stderr": error, "n": n} for how, size, error, n in rows])
    result = SimpleNamespace(names=("a1.h2",), kinds=lambda unit: frame, pool=SimpleNamespace(metric="logit_diff"))
    [figure] = figures_of_search(result, "x")
    assert figure.parts[0].subtitle.endswith("7 to 12 prompts")
    assert figure.sentence == (
        "What shows a unit, and what does not, in units of logit_diff. a1.h2: third 2.05 ± 0.73 (n = 9), words 0.11 ± "
        "0.02 "
        "(n = 7)."
    )


def test_disagreement_figures():
    names = ("a0.h1", "a0.h2", "a1.h0")
    figures = {
        "exact": [-0.12, -0.30, 0.004], "atp": [-0.11, -0.22, 0.003], "ig": [-0.19, -0.31, 0.005],
        "last-in": [-0.23, -0.26, 0.009], "direct": [-0.29, -0.05, 0.002],
    }  # fmt: skip
    found = Disagreement({name: scores(name, names, values) for name, values in figures.items()}, Cost())
    methods, differences = figures_of_causes(found, "x")
    assert methods.sentence.startswith(
        "a0.h2: exact −0.300, atp −0.220, ig −0.310, last-in −0.260 and direct −0.050 (n = 1 pair). "
    )
    assert differences.sentence == (
        "Largest of each: curvature −0.080 (a0.h2), interaction −0.070 (a0.h1) and downstream −0.250 (a0.h2); shares "
        "of the "
        "gap of one pair, so that no error is known."
    )


def test_locations_figures():
    def one(unit, curvature, cause, **kinds):
        shares = {kind: Share(value, 0.001) for kind, value in kinds.items()}
        return SimpleNamespace(unit=unit, curvature=Share(curvature, 0.02), cause=cause, kinds=shares)

    shown = [
        one("a20.h0", -0.19, "MLP", softmax=-0.03, norm=0.002, MLP=-0.162),
        one("a17.h4", -0.14, "softmax", softmax=-0.12, norm=0.0, MLP=-0.02),
        one("a3.h4", -0.05, "MLP", softmax=0.0, norm=0.0, MLP=-0.05),
    ]
    found = SimpleNamespace(n=16, units=SimpleNamespace(kind="heads"), kinds=("softmax", "norm", "MLP"))
    assert kinds_of_location(found, shown, "x").sentence == (
        "Bars sum to exact − AtP (black tick), whiskers are ± 1 standard error (16 pairs). Of 3 heads the cause is "
        "the MLPs' "
        "activations for 2 and the attention's softmax for 1. Farthest off is a20.h0 (−0.190 ± 0.020): softmax −0.030 "
        "± "
        "0.001, norms +0.002 ± 0.001 and MLPs −0.162 ± 0.001."
    )
