"""What an ablation study says in words, from numbers that tell its parts apart."""

from types import SimpleNamespace

import numpy as np
from made_up import about

from veracausa.behaviour.chosen import Condition
from veracausa.behaviour.foretold import Against, Forecast
from veracausa.behaviour.results import Outcome
from veracausa.behaviour.sentences import study_sentences
from veracausa.report.chapters.ablation import metric_sentence


def outcome(units, ablation, right, lost, gained, *, change=0.0, stderr=1.0, p_holm=1.0, low=0.5, high=0.6):
    return Outcome(
        Condition(tuple(units), ablation), 200, 4.5, change, stderr, right, low, high, lost, gained, 0.5, p_holm
    )


BASE = Outcome(Condition((), ""), 200, 4.759, 0.0, float("nan"), 150, 0.685, 0.805, 0, 0, float("nan"), float("nan"))
WORST = outcome(["a1.h2"], "zero", 60, 100, 10, change=-0.5, stderr=0.1, p_holm=0.0004, low=0.241, high=0.367)
BEST = outcome(["a3.h4"], "zero", 168, 2, 20, change=-1.25, stderr=0.2, p_holm=0.031, low=0.781, high=0.886)
SILENT = outcome(["a5.h6"], "zero", 149, 5, 4, change=0.75, stderr=0.3, p_holm=0.7)
BOTH = outcome(["a1.h2", "a3.h4", "a5.h6"], "zero", 40, 130, 20, p_holm=0.002, low=0.15, high=0.26)


def study(*outcomes):
    significant = sorted((one for one in outcomes if one.p_holm <= 0.05), key=lambda one: -abs(one.accuracy_change))
    return SimpleNamespace(unablated=BASE, outcomes=outcomes, alpha=0.05, n=200, task={"metric": "logit_diff"},
                           significant=significant)  # fmt: skip


def test_a_study_in_words():
    assert study_sentences(study(WORST, BEST, SILENT, BOTH)) == (
        "Unablated, the model answers 75.0% of 200 prompts right (95% interval 68.5–80.5%); mean logit_diff +4.759.",
        "Of single units, zero ablation of a1.h2 costs most: accuracy 30.0% (24.1–36.7%), −45.0 points, 100 prompts "
        "lost and 10 gained, McNemar p < 0.001 after Holm over 4 tests.",
        "The model does better under zero ablation of a3.h4: accuracy 84.0% (78.1–88.6%), +9.0 points, 2 prompts lost "
        "and 20 gained, McNemar p = 0.031 after Holm over 4 tests.",
        "Zero ablation of all 3 units together: accuracy 20.0% (15.0–26.0%), −55.0 points, 130 prompts lost and 20 "
        "gained, McNemar p = 0.002 after Holm over 4 tests; one at a time their changes add up to −36.5 points.",
        "Zero ablation changes accuracy significantly for 2 of 3 units (McNemar, level 0.05 after Holm over 4 tests): "
        "a1.h2, a3.h4. a5.h6 moves the mean logit_diff by more than two standard errors without a change of accuracy "
        "that 200 prompts could show.",
    )


def test_several_ablations_keep_apart():
    other = outcome(["a1.h2"], "mean", 120, 40, 10, p_holm=0.2)
    said = study_sentences(study(WORST, other))
    assert said[-2:] == (
        "Zero ablation changes accuracy significantly for 1 of 1 unit (McNemar, level 0.05 after Holm over 2 tests): "
        "a1.h2.",
        "Mean ablation changes accuracy significantly for 0 of 1 unit (McNemar, level 0.05 after Holm over 2 tests).",
    )


def test_the_metric_in_words():
    assert metric_sentence(study(WORST, BEST, SILENT, BOTH)) == (
        "Largest changes of the mean logit_diff over 200 prompts: a3.h4 (zero) −1.250 ± 0.200, a5.h6 (zero) +0.750 ± "
        "0.300 and a1.h2 (zero) −0.500 ± 0.100. Metric and accuracy change in opposite directions for a3.h4 (zero): "
        "the correct answer gains on the incorrect one while a third word is said more often, or the reverse."
    )
    assert metric_sentence(study(WORST)).endswith(
        "Wherever accuracy changes significantly, it changes in the direction of the metric."
    )


def test_forecasts_in_words():
    def forecast(method, r, picked, hits, average):
        return Forecast(method, True, np.zeros(5), r, 0.1, picked, hits, 0.2, 0.3, average)

    made = Against(
        ("a", "b", "c", "d", "e"),
        "zero",
        np.zeros(5),
        np.zeros(5),
        np.array([True, True, False, False, False]),
        "|score| over 0.01 of the gap",
        200,
        0.05,
        (forecast("atp", 0.62, 4, 1, 0.71), forecast("ig", float("nan"), 0, 0, 0.83)),
        **about(200),
    )
    assert made.sentences == (
        "Zero ablation changes accuracy significantly for 2 of 5 units (200 prompts, McNemar at 0.05 after Holm); a "
        "random ranking would have an average precision of 0.40.",
        "atp: r +0.62 with the change of accuracy over 5 units; of the 4 units with |score| over 0.01 of the gap 1 "
        "changed it; 1 of the 2 that changed it were foretold; average precision 0.71.",
        "ig: too few units differ for a correlation; 0 of the 2 that changed it were foretold; average precision 0.83.",
    )
