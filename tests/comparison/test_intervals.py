"""Bootstrap intervals of agreement: against a plain loop, and their coverage where the truth is known."""

import numpy as np
import pytest
from scipy import stats

import veracausa as vc
from veracausa.comparison.intervals import DRAWS, agreement_intervals

RANDOM = np.random.default_rng(3)


def _scores(pairs=12, units=30, noise=0.3):
    truth = RANDOM.normal(size=units)
    exact = truth + noise * RANDOM.normal(size=(pairs, units))
    estimate = 0.8 * exact + noise * RANDOM.normal(size=(pairs, units))
    return exact, estimate, RANDOM.uniform(1, 2, size=pairs)


@pytest.mark.parametrize("signed", [True, False])
def test_equal_a_plain_loop_over_draws(signed):
    exact, estimate, gap = _scores()
    found = agreement_intervals(exact, estimate, (gap, gap), signed=signed, top=5, seed=4)
    counts = np.random.default_rng(4).multinomial(12, np.full(12, 1 / 12), size=DRAWS)
    drawn = {name: [] for name in found}
    for weights in counts:
        which = np.repeat(np.arange(12), weights)
        x, y = (scores[which].mean(0) / gap[which].mean() for scores in (exact, estimate))
        if not signed:
            x, y = abs(x), abs(y)
        drawn["r"].append(stats.pearsonr(x, y).statistic)
        drawn["spearman"].append(stats.spearmanr(x, y).statistic)
        drawn["slope"].append(stats.linregress(x, y).slope if signed else np.nan)
        tops = [set(np.argsort(-abs(v))[:5]) for v in (x, y)]
        drawn["jaccard"].append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
        drawn["median |error|"].append(np.median(abs(y - x)))
    for name, values in drawn.items():
        expected = np.quantile(values, [0.025, 0.975]) if np.isfinite(values).all() else [np.nan, np.nan]
        np.testing.assert_allclose(found[name], expected, rtol=1e-9)


def test_a_single_pair_has_none():
    found = agreement_intervals(np.ones((1, 4)), np.ones((1, 4)), (np.ones(1), np.ones(1)), signed=True, top=2)
    assert all(np.isnan(low) and np.isnan(high) for low, high in found.values())


def test_covers_the_slope_of_all_pairs_about_as_often_as_it_says():
    """Pairs are drawn from a thousand whose slope is known; 95% intervals of 20 pairs should mostly hold it."""
    units = 40
    unit = RANDOM.normal(size=units)
    every = unit + 0.5 * RANDOM.normal(size=(1000, units))
    wobble = 1 + 0.3 * RANDOM.normal(size=(1000, 1))
    estimates, gap = every * wobble, np.ones(1000)
    truth = stats.linregress(every.mean(0), estimates.mean(0)).slope
    held = 0
    for _ in range(200):
        which = RANDOM.permutation(1000)[:20]
        low, high = agreement_intervals(every[which], estimates[which], (gap[which],) * 2, signed=True, top=5)["slope"]
        held += low <= truth <= high
    # percentile intervals of 20 are a little short: 90 to 95% of 200, with a standard deviation of 4
    assert held > 165


def test_agreement_carries_them(tiny, task_of):
    lm = tiny("llama")
    task = task_of((5, 6, 7), n=3)
    exact = vc.exact(lm, task, show_progress=False)
    found = vc.agreement(vc.attribute(lm, task, show_progress=False), exact)
    low, high = found.intervals["r"]
    assert found.n == 3 and low <= found.r <= high and f"95% {low:+.3f}" in repr(found)
    assert "95%" not in repr(vc.agreement(vc.attribute(lm, task[0], show_progress=False), vc.exact(lm, task[0])))
