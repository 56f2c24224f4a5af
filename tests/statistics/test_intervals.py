"""Intervals of agreement: against plain loops, their coverage where the truth is known, and where there are none."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import veracausa as vc
from veracausa.statistics.bootstrap import with_replacement
from veracausa.statistics.intervals import DRAWS, LEAST_OF, agreement_intervals, figures, reliability, shares

RANDOM = np.random.default_rng(3)


def _scores(pairs=12, units=30, noise=0.3):
    truth = RANDOM.normal(size=units)
    exact = truth + noise * RANDOM.normal(size=(pairs, units))
    estimate = 0.8 * exact + noise * RANDOM.normal(size=(pairs, units))
    return exact, estimate, RANDOM.uniform(1, 2, size=pairs)


def plain_figures(x, y, signed, top):
    """Every figure of two rows of shares, NaN: not there; unit by unit, with scipy's functions."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if not signed:
        x, y = abs(x), abs(y)
    tops = [set(np.argsort(-abs(v), kind="stable")[:top]) for v in (x, y)]
    return {
        "r": stats.pearsonr(x, y).statistic,
        "spearman": stats.spearmanr(x, y).statistic,
        "slope": stats.linregress(x, y).slope if signed else np.nan,
        "jaccard": len(tops[0] & tops[1]) / len(tops[0] | tops[1]),
        "median |error|": np.median(abs(y - x)),
    }


def plain_share(values, gap):
    """Σ effect / Σ gap over the pairs that have the unit; NaN where none has."""
    has = ~np.isnan(values)
    return values[has].sum() / gap[has].sum() if has.any() else np.nan


def plain_jackknife(whole, without):
    """Tukey's interval of a figure, given it and itself without each pair."""
    n = len(without)
    pseudo = [n * whole - (n - 1) * one for one in without]  # its mean and standard error are the interval's
    half = stats.t.ppf(0.975, n - 1) * np.std(pseudo, ddof=1) / np.sqrt(n)
    return np.mean(pseudo) - half, np.mean(pseudo) + half


@pytest.mark.cases(1)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("signed", [True, False])
def test_equal_plain_loops(signed, missing):
    exact, estimate, gap = _scores(pairs=130)
    if missing:  # prompts of two lengths: half of the pairs lack the last ten units
        exact[::2, 20:] = estimate[::2, 20:] = np.nan
    found = agreement_intervals(exact, estimate, (gap, gap), signed=signed, top=5, seed=4)

    def of(which):
        x, y = (np.array([plain_share(u, gap[which]) for u in scores[which].T]) for scores in (exact, estimate))
        return plain_figures(x, y, signed, 5)

    every = np.arange(130)
    whole, without = of(every), [of(np.delete(every, i)) for i in every]
    drawn = [of(np.repeat(every, weights))["jaccard"] for weights in with_replacement(130, 130, DRAWS, 4).astype(int)]
    expected = dict.fromkeys(found, (np.nan, np.nan))  # Spearman and the median |error| have none
    expected["jaccard"] = np.quantile(drawn, [0.025, 0.975])
    expected["r"] = np.tanh(plain_jackknife(np.arctanh(whole["r"]), [np.arctanh(one["r"]) for one in without]))
    if signed:
        expected["slope"] = plain_jackknife(whole["slope"], [one["slope"] for one in without])
    for name, interval in expected.items():
        np.testing.assert_allclose(found[name], interval, rtol=1e-7)  # n times differences of a 130th each


def test_units_that_differ_by_chance_have_none():
    """Noise as large as what units differ by flattens the slope of few pairs; no interval would hold the true one."""
    exact, estimate, gap = _scores(pairs=64, noise=8.0)
    assert reliability(exact, np.ones(64)) < 0.7
    found = agreement_intervals(exact, estimate, (gap, gap), signed=True, top=5)
    assert [name for name, interval in found.items() if np.isfinite(interval).all()] == ["jaccard"]


def test_reliability_is_the_share_of_the_spread_that_is_not_noise():
    exact, _, gap = _scores(pairs=40, noise=2.0)
    share, units = exact.sum(0) / gap.sum(), exact.shape[1]
    error = [np.std((exact[:, u] - share[u] * gap) / gap.mean(), ddof=1) / np.sqrt(40) for u in range(units)]
    assert reliability(exact, gap) == pytest.approx(1 - np.square(error).mean() / share.var())
    assert reliability(np.tile(RANDOM.normal(size=9), (5, 1)), np.ones(5)) == 1.0


def test_a_unit_that_a_draw_lacks_is_left_out_of_that_draw():
    """Two draws of three pairs: the second has no pair with the last unit."""
    exact = np.array([[1.0, 2, 9], [2, 1, np.nan], [0, 3, np.nan]])
    x = shares(exact, np.array([2.0, 3, 4]), np.array([[1.0, 1, 1], [0, 2, 1]]))
    np.testing.assert_allclose(x, [[3 / 9, 6 / 9, 9 / 2], [4 / 10, 5 / 10, np.nan]])
    y = np.array([[1.0, 0, 2], [3, 1, 5]])
    for row, name in ((0, "r"), (1, "r"), (1, "slope"), (1, "spearman"), (1, "jaccard"), (1, "median |error|")):
        expected = plain_figures(x[row], y[row], True, 2)[name]
        assert figures(x, y, signed=True, top=2)[name][row] == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [1, 3, LEAST_OF["jaccard"] - 1])
def test_few_pairs_have_none(pairs):
    exact, estimate, gap = _scores(pairs)
    found = agreement_intervals(exact, estimate, (gap, gap), signed=True, top=2)
    assert all(np.isnan(low) and np.isnan(high) for low, high in found.values())


def test_a_unit_that_few_pairs_have_leaves_none():
    exact, estimate, gap = _scores(LEAST_OF["r"])
    exact[:1, 3] = np.nan
    assert np.isnan(agreement_intervals(exact, estimate, (gap, gap), signed=True, top=2)["r"]).all()


def test_covers_the_slope_of_all_pairs_about_as_often_as_it_says():
    """Pairs are drawn from a thousand whose slope is known; 95% intervals of 64 pairs should mostly hold it."""
    units, random = 40, np.random.default_rng(1)
    unit = random.normal(size=units)
    every = unit + 0.5 * random.normal(size=(1000, units))
    wobble = 1 + 0.3 * random.normal(size=(1000, 1))
    estimates, gap = every * wobble, np.ones(1000)
    truth = stats.linregress(every.mean(0), estimates.mean(0)).slope
    held = 0
    for _ in range(200):
        which = random.permutation(1000)[:64]
        tables = every[which], estimates[which], (gap[which],) * 2
        low, high = agreement_intervals(*tables, signed=True, top=5, draws=2)["slope"]  # draws are for Jaccard
        held += low <= truth <= high
    assert held > 180  # 95% of 200 are 190, with a standard deviation of 3


def test_every_figure_has_its_own_least():
    for pairs, expected in ((LEAST_OF["jaccard"], ["jaccard"]), (LEAST_OF["r"], ["r", "slope", "jaccard"])):
        exact, estimate, gap = _scores(pairs)
        found = agreement_intervals(exact, estimate, (gap, gap), signed=True, top=5)
        assert [name for name, interval in found.items() if np.isfinite(interval).all()] == expected


def test_agreement_carries_them(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=16, seed=5)
    exact, estimate = vc.exact(lm, task, show_progress=False), vc.attribute(lm, task, show_progress=False)
    found = vc.agreement(estimate, exact)
    assert "(no interval under 64 pairs)" in repr(found)

    def often(scores, values):
        """The same units over the pairs four times, with these values."""
        held = {name: getattr(scores, name).repeat(4, *[1] * (getattr(scores, name).ndim - 1)) for name in
                ("clean", "corrupted")}  # fmt: skip
        return dataclasses.replace(scores, values=values.repeat(4, 1), **held)

    found = vc.agreement(often(estimate, estimate.values), often(exact, exact.values))
    assert found.spread == "no interval: the pairs differ too much" and found.spread in repr(found)
    gaps = (exact.gap / exact.gap.mean())[:, None]
    alike = [often(one, one.mean() * gaps + 0.001 * one.values) for one in (estimate, exact)]
    found = vc.agreement(*alike)
    low, high = found.intervals["r"]
    assert low < high and f"(95% {low:+.3f} … {high:+.3f})" in repr(found)


def test_missing_positions_do_not_count_as_zero(tiny, task_of):
    """Prompts of several lengths, position by position: the interval is about the figure that is shown."""
    lm, task = tiny("llama"), task_of((5, 5, 7), n=3 * LEAST_OF["jaccard"], seed=5)
    exact = vc.exact(lm, task, units="heads@positions", show_progress=False)
    estimate = vc.attribute(lm, task, units="heads@positions", show_progress=False)
    found = vc.agreement(estimate, exact)
    low, high = found.intervals["jaccard"]
    assert low <= found.jaccard(10) <= high and found.fewest == LEAST_OF["jaccard"]
    assert "pooled by their index" in estimate.describe() and "pooled by their index" in repr(found)
