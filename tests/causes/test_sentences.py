"""What is said of disagreements and of where they arise, from numbers that tell its parts apart."""

import numpy as np
import pytest
import torch
from made_up import scores

from veracausa.causes.locations import Location
from veracausa.causes.results import Disagreement
from veracausa.causes.saturation import Saturation
from veracausa.cost import Cost
from veracausa.statistics.ratios import Share


def disagreement(n=1, *, noise=0.0, permutations=None, **shares):
    """A disagreement about a0.h1 (and a0.h2, which has no effect) from its scores as shares of the gap."""
    known = {"exact": 0.0, "atp": 0.0, "ig": 0.0, "last-in": 0.0, "direct": 0.0} | shares
    spread = noise * np.linspace(-1, 1, n)[:, None] if n > 1 else 0.0
    made = {}
    for i, (name, value) in enumerate(known.items()):
        settings = {"permutations": permutations} if name == "shapley" else {"nodes": 5}
        made[name] = scores(
            name, ("a0.h1", "a0.h2"), np.array([[value, 0.0]] * n) + spread * (i + 1), settings=settings
        )
    return Disagreement(made, Cost())


@pytest.mark.parametrize(
    ("method", "shares", "cause", "said"),
    [
        (
            "atp",
            {"exact": -0.25, "atp": -0.07, "direct": -0.11},
            "curvature",
            "Attribution patching gives a0.h1 −0.070 of the gap; replacing it changes the metric by −0.250 (one pair: "
            "no "
            "error known). The slope at the clean run shows 28% of it: the response is flat around the clean run and "
            "steep "
            "further on (saturation) (curvature −0.180).",
        ),
        (
            "atp",
            {"exact": -0.25, "atp": 0.07, "direct": -0.11},
            "curvature",
            "Attribution patching gives a0.h1 +0.070 of the gap; replacing it changes the metric by −0.250 (one pair: "
            "no "
            "error known). The slope at the clean run points the other way: the response turns round on the way to the "
            "replacement (curvature −0.320).",
        ),
        (
            "atp",
            {"exact": -0.04, "atp": -0.18, "direct": -0.19},
            "curvature",
            "Attribution patching gives a0.h1 −0.180 of the gap; replacing it changes the metric by −0.040 (one pair: "
            "no "
            "error known). The slope at the clean run promises 4.5 times as much: the response is steep around the "
            "clean "
            "run and levels off or comes back (curvature +0.140). The slope sees little more than the direct effect, "
            "−0.190; later units work against it by +0.150 once the unit is gone, and not before: a backup.",
        ),
        (
            "ig",
            {"exact": -0.12, "ig": -0.17, "last-in": -0.23},
            "redundancy",
            "Integrated gradients gives a0.h1 −0.170 of the gap; replacing it changes the metric by −0.120 (one pair: "
            "no "
            "error known). With the rest of its layer replaced already, it is worth −0.230, more than alone: other "
            "heads "
            "of its layer cover for a part of it (redundancy; IG − E −0.050). ½ (F − E) is −0.055: interactions of two "
            "units at a time make 110% of the difference.",
        ),
        (
            "ig",
            {"exact": -0.12, "ig": -0.10, "last-in": -0.04},
            "synergy",
            "Integrated gradients gives a0.h1 −0.100 of the gap; replacing it changes the metric by −0.120 (one pair: "
            "no "
            "error known). With the rest of its layer replaced already, it is worth −0.040, less than alone: a part of "
            "what it does needs the others of its layer (synergy; IG − E +0.020). ½ (F − E) is +0.040: but "
            "interactions "
            "of two units at a time would make 200% of the difference, so three or more are involved.",
        ),
        (
            "ig-zero",
            {"exact": -0.12, "ig": -0.13, "ig-zero": -0.32, "last-in": -0.2},
            "baseline",
            "Integrated gradients from zero gives a0.h1 −0.320 of the gap; replacing it changes the metric by −0.120 "
            "(one "
            "pair: no error known). The same integral towards the corrupted run gives −0.130: 95% of the difference "
            "comes "
            "from the baseline. Zero asks what the unit's presence does, the corrupted prompt what its content does.",
        ),
        (
            "ig-zero",
            {"exact": -0.12, "ig": 0.28, "ig-zero": 0.08, "last-in": -0.2},
            "several",
            "Integrated gradients from zero gives a0.h1 +0.080 of the gap; replacing it changes the metric by −0.120 "
            "(one "
            "pair: no error known). Of the difference, +0.200, the baseline makes −0.200 and interaction within its "
            "layer "
            "+0.400: neither alone explains it.",
        ),
        (
            "direct",
            {"exact": -0.12, "direct": -0.3},
            "backup",
            "The direct effect gives a0.h1 −0.300 of the gap; replacing it changes the metric by −0.120 (one pair: no "
            "error known). Later units work against its direct effect by +0.180, 60% of it: they make up for the unit "
            "when it is gone (downstream backup).",
        ),
        (
            "direct",
            {"exact": -0.35, "direct": -0.03},
            "mediation",
            "The direct effect gives a0.h1 −0.030 of the gap; replacing it changes the metric by −0.350 (one pair: no "
            "error known). Later units that read it carry −0.320 more: its effect is mostly what they make of it.",
        ),
    ],
)
def test_a_cause_in_words(method, shares, cause, said):
    found = disagreement(**shares).cause("a0.h1", method)
    assert (found.cause, " ".join(found.sentences)) == (cause, said)


def test_several_pairs_have_an_error():
    found = disagreement(4, noise=0.04, exact=-0.25, atp=-0.24).cause("a0.h1", "atp")
    assert found.sentences == (
        "Attribution patching gives a0.h1 −0.240 ± 0.034 of the gap; replacing it changes the metric by −0.250 ± 0.017 "
        "(n = 4 pairs).",
        "The difference, −0.010 ± 0.017, is within twice its standard error: more pairs are needed.",
    )


def test_all_units_in_words():
    """Three heads; of each figure one is the largest, and it is named with its own numbers."""
    names = ("a0.h1", "a0.h2", "a1.h0")
    figures = {
        "exact": [-0.12, -0.30, 0.004],
        "atp": [-0.11, -0.28, 0.003],
        "ig": [-0.17, -0.31, 0.005],
        "last-in": [-0.23, -0.26, 0.009],
        "direct": [-0.29, -0.05, 0.002],
        "ig-zero": [-0.19, -0.52, 0.006],
        "shapley": [-0.175, -0.28, 0.0065],
    }
    made = {name: scores(name, names, values, settings={"permutations": 24}) for name, values in figures.items()}
    assert Disagreement(made, Cost()).sentences[1:] == (
        "Of 2 heads worth over 1% of the gap, alone or last-in, 1 is clearly redundant within the layer and 1 "
        "synergetic; "
        "a0.h1 is worth −0.120 alone and −0.230 when the rest of its layer is gone. IG − E follows ½ (F − E), what "
        "pairs "
        "of units would give, with r = 0.91, slope 0.62.",
        "Of 2 heads with a direct effect over 1% of the gap, later units clearly work against 1, most for a0.h1 "
        "(direct "
        "−0.290, exact −0.120).",
        "Zero in place of the corrupted prompt moves integrated gradients most for a0.h2: −0.520 instead of −0.310.",
        "Mean distance from the Shapley values (24 permutations a pair), as a share of the gap: ½ (E + F) 0.0000, ig "
        "0.0122, exact 0.0258 and last-in 0.0258.",
        "One pair: no standard error is known, so that every cause is named for this pair alone.",
    )


def test_outliers_and_their_causes_are_counted():
    names = tuple(f"a0.h{i}" for i in range(40))
    exact = np.full(40, -0.05)
    atp, ig = exact.copy(), exact.copy()
    atp[3] = 0.3
    made = {"exact": exact, "atp": atp, "ig": ig, "last-in": exact, "direct": exact}
    found = Disagreement({name: scores(name, names, values) for name, values in made.items()}, Cost())
    assert found.sentences[0] == (
        "Causes of the units that a method gets most wrong (40 heads, n = 1 pair): atp has 1 outlier: curvature (1); "
        "ig "
        "has no outliers; direct has no outliers."
    )


def location(kinds, *, atp=-0.07, exact=-0.26, n=16, saturation=None):
    return Location(
        "a20.h0", n, Share(atp, 0.01), Share(exact, 0.02), Share(exact - atp, 0.03),
        {kind: Share(*share) for kind, share in kinds.items()},
        {"a21": Share(-0.02, 0.004), "m20": Share(-0.11, 0.005), "m21": Share(0, 0.001), "a22": Share(0.03, 0.006)},
        {"a21.h3": Share(-0.01, 0.007), "a22.h1": Share(0.04, 0.008)},
        saturation,
    )  # fmt: skip


def test_where_it_arises_in_words():
    one = location({"softmax": (-0.03, 0.011), "norm": (0.002, 0.012), "MLP": (-0.162, 0.013)})
    assert one.cause == "MLP"
    assert one.sentence == (
        "For a20.h0 attribution patching says −0.070 ± 0.010 of the gap, the exact effect is −0.260 ± 0.020 (16 "
        "pairs). Of "
        "the curvature −0.190 ± 0.030, −0.162 ± 0.013 comes from the MLPs' activations, −0.030 ± 0.011 comes from the "
        "attention's softmax, +0.002 ± 0.012 comes from the norms. It arises most in m20 (−0.110 ± 0.005) and a22 "
        "(+0.030 "
        "± 0.006, a22.h1 +0.040 ± 0.008)."
    )


def watched(texts):
    n = len(texts)
    return Saturation(
        "a22.h1",
        (0.5, 1.0),
        torch.tensor([[0.5, 0.9, 0.7, 1.1]] * n),
        torch.tensor([[0.91, 0.62, 0.83, 0.44]] * n),
        torch.zeros(n, 4, dtype=torch.long),
        torch.zeros(n, dtype=torch.long),
        torch.full((n,), 8),
        tuple(texts),
    )


def test_attention_in_words():
    """Clean 0.91, corrupted 0.62, replaced 0.44 (not the 0.83 on the way); ln 8 = 2.079 nats is an even spread."""
    texts = [(" to", " Mary", " John")] * 2 + [(" to", " Ann", " Bob")]
    said = (
        "a22.h1 puts 0.91 on one token (' Mary') in the clean run (entropy 0.50 nats, 24% of an even spread) and 0.44 "
        "(' John') with the unit replaced (1.10 nats, 53%); the corrupted run has 0.62."
    )
    assert watched(texts).sentence == f"At ' to' (in 3 of 3 pairs) {said}"
    assert watched(texts[:1]).sentence == f"At ' to' {said}"
    one = location(
        {"softmax": (-0.162, 0.011), "norm": (0.002, 0.012), "MLP": (-0.03, 0.01)}, saturation=watched(texts)
    )
    assert one.sentence.endswith(f"At ' to' (in 3 of 3 pairs) {said}")
