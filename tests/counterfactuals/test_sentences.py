"""What comparisons of counterfactuals and baselines say in words, from numbers that tell their parts apart."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_up import MODEL, heads, scores, task_header

from veracausa.cost import Cost
from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.counterfactuals.roles import ROLES, HeadRoles
from veracausa.counterfactuals.searches import Check, Search
from veracausa.words import share

NAMES = ("a1.h2", "a3.h4", "a5.h6", "a7.h8")


def over_pairs(means, spread, n=8):
    """[n, units] with these means; deviations are ± the unit's spread, half of the pairs each."""
    return np.asarray(means) + np.asarray(spread) * np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]


def test_counterfactuals_compared():
    """Standard errors: spread · √(8 / 7) / √8."""
    swap = scores("exact", NAMES, over_pairs([-0.40, 0.001, -0.20, 0.1], [0.08, 0.001, 0.01, 0.01]), gap=8.0)
    order = scores("exact", NAMES, over_pairs([-0.003, -0.62, -0.36, 0.05], [0.004, 0.02, 0.01, 0.02]), gap=5.0)
    found = CounterfactualComparison({"swap": swap, "order": order}, top=2, least=0.05)
    assert found.sentences == (
        "On the same 8 clean prompts the mean gap is swap +8.00 and order +5.00; effects are shares of the largest, "
        "that "
        "of swap.",
        "The ranking of 4 heads depends on the counterfactual: of the 2 strongest, swap and order share 1 (Spearman of "
        "all −0.80).",
        "a1.h2: shown by swap −0.400 ± 0.030; order −0.002 ± 0.001 does not show it (n = 8, Holm at 0.05).",
        "a3.h4: shown by order −0.388 ± 0.005; swap +0.001 ± 0.000 does not show it (n = 8, Holm at 0.05).",
    )


def test_general_purpose_units():
    by_mean = over_pairs([-0.157, -0.31, 0.08, 0.001], [0.03, 0.02, 0.01, 0.001])
    by_counterfactual = over_pairs([-0.001, -0.25, 0.004, 0.0], [0.002, 0.03, 0.001, 0.001])
    after = scores("exact", NAMES[:1], over_pairs([0.106], [0.04]), settings={"ablation": "mean"})
    mean = scores("exact", NAMES, by_mean, settings={"ablation": "mean"})
    found = GeneralPurpose(scores("exact", NAMES, by_counterfactual), mean, after, 0.05, 0.02)
    rule = "mean ablation over 5% of the gap, counterfactual effect under 2%"
    assert found.sentences == (
        f"2 of 4 heads are of general purpose ({rule}; tested over 8 pairs, false discovery rate 0.05); of 2 the means "
        "lie there.",
        "a1.h2: mean ablation changes the metric by −0.157 ± 0.011 of the gap, and in the corrupted run by +0.106 ± "
        "0.015; its value in the corrupted run by −0.001 ± 0.001 only.",
        "a5.h6: mean ablation changes the metric by +0.080 ± 0.004 of the gap; its value in the corrupted run by "
        "+0.004 "
        "± 0.000 only.",
    )
    alone = scores("exact", NAMES, by_mean[:1], settings={"ablation": "mean"})
    one = GeneralPurpose(scores("exact", NAMES, by_counterfactual[:1]), alone, None, 0.05, 0.02)
    assert one.sentences == (f"2 of 4 heads have {rule}; one pair, so nothing is tested.",)
    assert "n       1 pair\n" in one.describe()


def test_roles():
    attention = np.full((len(ROLES), 4), 0.01)
    attention[0] = [0.77, 0.35, 0.02, 0.03]
    attention[2, 2] = 0.41
    attention[4] = np.nan
    counts = (64, 63, 62, 61, 0)
    assert HeadRoles(attention, attention, counts, heads(*NAMES), MODEL, task_header(1), Cost()).sentences == (
        "2 heads are previous token by attention (at least 0.3, n = 64); clearest: a1.h2 with 0.77.",
        "No head is duplicate token by attention (at least 0.3, n = 63).",
        "1 head is induction by attention (at least 0.3, n = 62); clearest: a5.h6 with 0.41.",
        "No head is S-inhibition-like by attention (at least 0.3, n = 61).",
        "No prompt has the places that tell name-mover-like heads.",
    )


def test_a_search(monkeypatch):
    """Four prompts, two pairs of each, the task's own and another; the last prompt is held out."""

    class Pool(SimpleNamespace):
        def __len__(self):
            return 8

    info = [{"pair": i // 2, "how": ("swap", "third")[i % 2], "own": i % 2 == 0} for i in range(8)]
    pool = Pool(
        info=info, tokens=lambda i: ((" Mary", " gave", " it"), (" Ann", " gave", f" {i}")), metric="logit_diff"
    )
    values = np.array([[0.1, -0.2, -0.3, -4.57, 0.5, -0.6, 0.7, 0.8], [0.2, 0.1, -1.5, 3.1, 0.0, -2.9, 0.4, 0.9]]).T
    made = scores("exact", ("a1.h2", "a1.h3"), values / 10)
    found = Search(made, pool, ("a1.h2",), np.arange(8) < 6)
    check = Check(9, (2.05, 0.73), (0.11, 0.02), (1.94, 0.34), 0.02)
    monkeypatch.setattr(Search, "check", lambda self, unit, by: check)
    held = (
        "On 9 held-out prompts with other words its {} by that kind is +2.05 ± 0.73, by the task's own +0.11 ± 0.02: "
        "difference +1.94 ± 0.34."
    )
    assert found.sentences == (
        "a1.h2: over 6 pairs of 3 prompts its effect is largest by third: −4.57 (Mary → Ann, it → 3), against −0.30 "
        "under "
        f"the task's own corruption of that prompt. {held.format('|effect|')}",
        "a1.h2: over 6 pairs of 3 prompts its effect stands out most from its site by third: −4.57 (Mary → Ann, it → "
        "3), "
        f"against −0.30 under the task's own corruption of that prompt. {held.format('lead over its site')}",
    )


def test_baselines_compared():
    generator = np.random.default_rng(0)
    names = tuple(f"a{i}.h0" for i in range(12))
    base = generator.normal(size=12)
    drawn = {
        key: base + size * generator.normal(size=12)
        for key, size in {
            ("exact", "counterfactual"): 0.0,
            ("exact", "zero"): 2.0,
            ("exact", "mean"): 0.5,
            ("IG", "counterfactual"): 0.1,
            ("IG", "zero"): 3.0,
        }.items()
    }
    found = Baselines({key: scores(key[0], names, values / 10) for key, values in drawn.items()}, top=3)

    def r(a, b):
        return f"{np.corrcoef(drawn[a], drawn[b])[0, 1]:.2f}".replace("-", "−")

    def jaccard(a, b):
        tops = [set(np.argsort(-np.abs(drawn[key]))[:3].tolist()) for key in (a, b)]
        return f"{len(tops[0] & tops[1]) / len(tops[0] | tops[1]):.2f}"

    first, zero, mean = (("exact", key) for key in ("counterfactual", "zero", "mean"))
    rated = {
        pair: np.corrcoef(drawn[pair[0]], drawn[pair[1]])[0, 1] for pair in [(first, zero), (first, mean), (zero, mean)]
    }
    near, far = max(rated, key=rated.get), min(rated, key=rated.get)
    called = [" and ".join(ablation for _, ablation in pair) for pair in (near, far)]
    assert found.sentences == (
        f"Over 12 heads and 1 pair the exact effects that agree best are those of {called[0]} (r = {r(*near)}), worst "
        f"those "
        f"of {called[1]} (r = {r(*far)}).",
        f"Jaccard of the 3 strongest with those of the counterfactual ablation: zero {jaccard(zero, first)} and mean "
        f"{jaccard(mean, first)}.",
        "IG to a baseline against the exact effect of the same ablation, r: counterfactual "
        f"{r(('IG', 'counterfactual'), first)} and zero {r(('IG', 'zero'), zero)}.",
        f"Against the counterfactual effects, r: zero {r(('IG', 'zero'), first)}.",
        "Not compared: resample and optimal.",
    )


@pytest.mark.parametrize(
    ("mean", "error", "text"), [(-0.2571, 0.0124, "−0.257 ± 0.012"), (0.5, float("nan"), "+0.500")]
)
def test_a_share(mean, error, text):
    assert share(mean, error) == text
