"""Bootstrap intervals of agreement: against a plain loop, and their coverage where the truth is known."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import veracausa as vc
from veracausa.statistics.bootstrap import LEAST, with_replacement
from veracausa.statistics.intervals import DRAWS, agreement_intervals, figures, shares

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


@pytest.mark.cases(1)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("signed", [True, False])
def test_equal_a_plain_loop_over_draws(signed, missing):
    exact, estimate, gap = _scores(pairs=130)
    if missing:  # prompts of two lengths: half of the pairs lack the last ten units
        exact[::2, 20:] = estimate[::2, 20:] = np.nan
    found = agreement_intervals(exact, estimate, (gap, gap), signed=signed, top=5, seed=4)
    drawn = {name: [] for name in found}
    for weights in [np.ones(130, int), *with_replacement(130, 130, DRAWS, 4).astype(int)]:
        which = np.repeat(np.arange(130), weights)
        x, y = (np.array([plain_share(u, gap[which]) for u in scores[which].T]) for scores in (exact, estimate))
        for name, value in plain_figures(x, y, signed, 5).items():
            drawn[name].append(value)
    expected = {name: [np.nan, np.nan] for name in found}  # Spearman and the median |error| have none
    own, *z = np.arctanh(drawn["r"])
    expected["r"] = np.tanh(2 * own - np.quantile(z, [0.975, 0.025]))
    expected["jaccard"] = np.quantile(drawn["jaccard"][1:], [0.025, 0.975])
    if signed:
        expected["slope"] = 2 * drawn["slope"][0] - np.quantile(drawn["slope"][1:], [0.975, 0.025])
    for name, interval in expected.items():
        np.testing.assert_allclose(found[name], interval, rtol=1e-9)


def test_a_unit_that_a_draw_lacks_is_left_out_of_that_draw():
    """Two draws of three pairs: the second has no pair with the last unit."""
    exact = np.array([[1.0, 2, 9], [2, 1, np.nan], [0, 3, np.nan]])
    x = shares(exact, np.array([2.0, 3, 4]), np.array([[1.0, 1, 1], [0, 2, 1]]))
    np.testing.assert_allclose(x, [[3 / 9, 6 / 9, 9 / 2], [4 / 10, 5 / 10, np.nan]])
    y = np.array([[1.0, 0, 2], [3, 1, 5]])
    for row, name in ((0, "r"), (1, "r"), (1, "slope"), (1, "spearman"), (1, "jaccard"), (1, "median |error|")):
        expected = plain_figures(x[row], y[row], True, 2)[name]
        assert figures(x, y, signed=True, top=2)[name][row] == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [1, 3, LEAST - 1])
def test_few_pairs_have_none(pairs):
    exact, estimate, gap = _scores(pairs)
    found = agreement_intervals(exact, estimate, (gap, gap), signed=True, top=2)
    assert all(np.isnan(low) and np.isnan(high) for low, high in found.values())


def test_a_unit_that_few_pairs_have_leaves_none():
    exact, estimate, gap = _scores(2 * LEAST)
    exact[: LEAST + 1, 3] = np.nan
    assert np.isnan(agreement_intervals(exact, estimate, (gap, gap), signed=True, top=2)["r"]).all()


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


def test_every_figure_has_its_own_least():
    exact, estimate, gap = _scores(LEAST)
    found = agreement_intervals(exact, estimate, (gap, gap), signed=True, top=5)
    assert [name for name, interval in found.items() if np.isfinite(interval).all()] == ["slope", "jaccard"]


def test_agreement_carries_them(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=LEAST, seed=5)
    exact, estimate = vc.exact(lm, task, show_progress=False), vc.attribute(lm, task, show_progress=False)
    found = vc.agreement(estimate, exact)
    assert np.isfinite(found.intervals["slope"]).all() and "(no interval under 64 pairs)" in repr(found)
    four = {name: getattr(exact, name).repeat(4, *[1] * (getattr(exact, name).ndim - 1)) for name in
            ("values", "clean", "corrupted")}  # fmt: skip
    many = dataclasses.replace(exact, **four)
    found = vc.agreement(dataclasses.replace(estimate, **four | {"values": estimate.values.repeat(4, 1)}), many)
    low, high = found.intervals["r"]
    assert low < high and f"(95% {low:+.3f} … {high:+.3f})" in repr(found)


def test_missing_positions_do_not_count_as_zero(tiny, task_of):
    """Prompts of several lengths, position by position: the interval is about the figure that is shown."""
    lm, task = tiny("llama"), task_of((5, 5, 7), n=3 * LEAST, seed=5)
    exact = vc.exact(lm, task, units="heads@positions", show_progress=False)
    estimate = vc.attribute(lm, task, units="heads@positions", show_progress=False)
    found = vc.agreement(estimate, exact)
    low, high = found.intervals["slope"]
    assert low <= found.slope <= high and found.fewest == LEAST
    assert "pooled by their index" in estimate.describe() and "pooled by their index" in repr(found)
