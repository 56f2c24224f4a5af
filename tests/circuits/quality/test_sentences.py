"""What is said of circuits in words, from numbers that tell its parts apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import about, agreement, task

from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.circuits.quality.hypotheses import _minimality, _random
from veracausa.circuits.quality.minimality import Minimality
from veracausa.cost import Cost
from veracausa.discovery.evaluation import Evaluation
from veracausa.ground_truth.criteria import Criteria
from veracausa.ground_truth.recovered import Recovery
from veracausa.report.charts.circuits import circuit_sentence
from veracausa.report.charts.faithfulness import curves_sentence
from veracausa.report.pages.discovery import selected, summary, trusted
from veracausa.tasks.measurement import Measurement

#: Two pairs with gaps 10 and 6: a mean of 8, and f is a ratio of means.
MEASURED = Measurement(torch.tensor([6.0, 4.0]), torch.tensor([-4.0, -2.0]))


def ran(f, *, edges=60, pairs=2, kl=0.25):
    """A circuit's run that brings back this share of each pair's gap."""
    measured = Measurement(MEASURED.clean[:pairs], MEASURED.corrupted[:pairs])
    return Faithfulness(
        edges, edges / 400, measured.corrupted + f * measured.gap, torch.full((pairs,), kl), measured, Cost(),
        **about(pairs),
    )  # fmt: skip


def test_a_run_in_words():
    made = Faithfulness(60, 0.15, torch.tensor([3.0, 3.4]), torch.tensor([0.2, 0.3]), MEASURED, Cost(), **about(2))
    # f = (7 + 5.4) / 2 / 8; per pair .7 and .9; NDF the same
    assert made.describe().splitlines() == [
        "circuit of 60 edges (15.00%) · 2 pairs · counterfactual ablation",
        "faithfulness f = 0.775   per pair 0.720 … 0.800 … 0.880 (10%, median, 90%)",
        "KL 0.2500   NDF 0.800   M +3.200, full +5.000, none -3.000",
        "caution the mean gap, +8.00, is not told apart from 0 by 2 pairs (95% -17.41 to +33.41), so shares of it "
        "have no error",
    ]


SIGNED, ABSOLUTE = (0.26, 0.95, 1.02), (0.5, 0.75, 1.4)


def curve(pairs=2, method="eap", less=0.0):
    found = [tuple(ran(f - less, pairs=pairs) for f in values) for values in (SIGNED, ABSOLUTE)]
    return Curve(method, (0.01, 0.1, 1.0), *found, {"signed": (1, 2, 3), "abs": (4, 5, 6)})


def test_a_curve_in_words():
    """Trapezoids by hand, over x and over log x (steps of equal length)."""
    cpr = 0.09 * (0.26 + 0.95) / 2 + 0.9 * (0.95 + 1.02) / 2
    cmd = 0.09 * (0.5 + 0.25) / 2 + 0.9 * (0.25 + 0.4) / 2
    cpr_log, cmd_log = (0.605 + 0.985) / 2, (0.375 + 0.325) / 2
    one = repr(curve(pairs=1)).splitlines()[0]  # no errors of a single pair
    assert one == (
        f"eap: CPR {cpr:.3f} (log axis {cpr_log:.3f}), CMD {cmd:.3f} (log axis {cmd_log:.3f}) · 1 pair · "
        f"counterfactual "
        "ablation"
    )
    made = curve()
    assert repr(made).splitlines()[0] == (
        f"eap: CPR {cpr:.3f} (log axis {cpr_log:.3f}), CMD {cmd:.3f} "
        f"(log axis {cmd_log:.3f}) · 2 pairs · counterfactual ablation"
    )
    assert curves_sentence([made]) == (
        "The circuit's metric stays within a tenth of the gap of the model's: eap by signed importance from 10% of "
        "the edges "
        "on and eap by |score| at no size; it overshoots to 1.40."
    )


def test_minimality_in_words():
    share = torch.tensor([0.2, 0.02, 0.0005, -0.0004, -0.03, 0.004])
    made = Minimality(
        "edges", tuple("abcdef"), 50, 8 * share.expand(2, 6), MEASURED.clean, MEASURED, Cost(), **about(2)
    )
    assert made.describe().splitlines() == [
        "minimality: 6 edges (of 50, drawn at random) removed one at a time · 2 pairs · counterfactual ablation",
        "removing it costs over 1% of the gap: 2; changes less than 0.1%: 2; brings over 0.1%: 1",
    ]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (0, "held out: the selection saw none of these pairs"),
        (3, "not all held out: the selection saw 3 of these 7 pairs"),
        (7, "not held out: the circuit was selected on these very pairs"),
    ],
)
def test_held_out_in_words(seen, said):
    assert Evaluation("x", task(7), seen, ran(0.8), curve(), ran(0.1), curve()).held_out == said


def test_recovery_in_words():
    made = Recovery("edges", 7, 46, 9, 0.66, 0.86, 0.75, 0.975, 0.812, (), (), **about(7))
    assert str(made) == (
        "7 true of 46 edges: AUROC 0.975, average precision 0.812; 9 taken, precision 0.66, recall 0.86, F1 0.75"
    )


def test_criteria_in_words():
    made = Criteria(0.997, {"e": 0.981, "f": 0.99}, {"n": 0.95, "m": 0.96}, {"a0.h1": 0.013, "m1": 0.007}, 0.021)
    assert str(made) == (
        "accuracy 0.997; interchange accuracy at least 0.950 of nodes, 0.981 of edges; largest leak 0.013 (a0.h1), "
        "all false "
        "edges at once 0.021"
    )


def test_tests_in_words():
    made = _minimality(np.array([3, 80, 95]), np.array([0.001, 1.0, 1.0]), 100, 0.9, 0.05)
    assert (made.meaning, made.seen) == (
        "1 of 3 edges do no more than edges that came in by chance",
        "the weakest edge beats 3 of 100 random ones, the median one 80; Bonferroni",
    )
    made = _random(0.15, np.array([0.1, 0.6, 0.7, 0.9]), 0.5, 0.05)
    assert made.seen == "distance 0.150 of the gap, closer than 3 of 4 (their median 0.650)"


class _Circuit(SimpleNamespace):
    def __len__(self):
        return len(self.names)


def circuit(count=170, **settings):
    names = tuple(f"e{i}" for i in range(count))
    importance = np.full(count, 0.1)
    importance[4], importance[7] = -2.25, 1.5
    known = {"asked": 200, "taken": 170, "how": "greedy", "by": "abs_mean"} | settings
    nodes = ["input", "a1.h2", "a3.h4", "a5.h6", "m1", "m2", "logits"]
    graph = SimpleNamespace(size=70651)
    return _Circuit(names=names, nodes=nodes, importance=importance, settings=known, method="eap-ig", graph=graph,
                    share=0.0024)  # fmt: skip


def test_a_drawing_in_words():
    assert circuit_sentence(circuit()) == (
        "170 edges between 3 heads and 2 MLPs, input and logits; the strongest is e4, −2.250; 1 works against the "
        "behaviour."
    )


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (circuit(), "200 edges asked for, 170 taken, {}, all of which lie on"),
        (circuit(150), "200 edges asked for, 170 taken, {}, 150 of which lie on"),
        (circuit(150, taken=200), "200 edges asked for and taken, {}, 150 of which lie on"),
        (circuit(200, taken=200), "200 edges asked for and taken, {}, all of which lie on"),
    ],
)
def test_how_edges_were_chosen(made, said):
    """Fewer may be taken than were asked for, and pruning may leave fewer still."""
    chosen = "chosen from the logits backwards by |score|"
    assert selected(SimpleNamespace(circuit=made)).startswith(f"Scored by eap-ig; {said.format(chosen)} a way from")


def discovery(**over):
    class Receipt(SimpleNamespace):
        def __len__(self):
            return 150

    sentence = "150 of 70,651 units checked exactly, r +0.987; with 95% confidence at most 44 of the others are strong"
    receipt = Receipt(agreement=agreement("eap-ig", r=0.987), sentence=sentence)
    evaluation = Evaluation("held-out", task(7), 0, ran(0.85), curve(), ran(0.125), curve(less=0.5))
    known = {"circuit": circuit(), "evaluation": evaluation, "receipt": receipt, "checked": 88, "pairs": task(9),
             "scores": SimpleNamespace(method="eap-ig"), "stability": SimpleNamespace(jaccard=0.63)}  # fmt: skip
    return SimpleNamespace(**(known | over))


def test_a_discovery_in_words():
    made = discovery()
    both = "CPR 0.941 and CMD 0.326"
    assert summary(made) == [
        "170 of 70,651 edges (0.24%; 3 heads, 2 MLPs) bring back f = 0.850 of the model's gap on 7 held-out pairs.",
        "KL from the model's prediction 0.250; a random ranking of the edges, selected in the same way, brings back f "
        "= "
        "0.125.",
        f"Over 3 sizes eap-ig has {both} (random 0.446 and 0.461).",
        "Exact effects verified 150 of the scores (r 0.987), among them those of 88 of the circuit's 170 edges; with "
        "95% "
        "confidence at most 44 of the others are strong.",
        "Drawing the 9 selected pairs anew gives circuits that share 0.63 of their edges (mean Jaccard).",
    ]
    assert trusted(discovery(receipt=None)) == "The edges' scores are not verified: no exact effect was taken."
