"""Statistics of the circuit tests: against scipy, formulas written out, and their own promise that p is valid.

Simulations are seeded; bounds leave three standard errors.
"""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, kstest

from veracausa.statistics.permutation import bonferroni, hsic_test, often_closer, seldom_larger, sign_test


@pytest.mark.parametrize("n", [1, 5, 12, 40])
def test_the_sign_test_without_margin_is_scipys(n):
    for wins in range(n + 1):
        assert sign_test(wins, n, 0.0) == pytest.approx(binomtest(wins, n).pvalue)


def test_no_signs_no_evidence():
    assert sign_test(0, 0, 0.1) == 1
    assert sign_test(7, 7, 0.1) == pytest.approx(0.6**7 + 0.4**7)
    assert sign_test(5, 10, 0.1) == pytest.approx(1)  # nothing is nearer to ½


@pytest.mark.parametrize("n", [8, 25, 60])
def test_the_sign_test_keeps_its_level_everywhere_under_its_null(n):
    """Exact: the probability of p ≤ α for every P(win) within the margin, largest at its ends."""
    p = np.array([sign_test(wins, n, 0.1) for wins in range(n + 1)])
    for alpha in (0.01, 0.05, 0.2):
        level = [binom.pmf(np.flatnonzero(p <= alpha), n, win).sum() for win in np.linspace(0.4, 0.6, 9)]
        assert max(level) <= alpha + 1e-12 and np.argmax(level) in (0, 8)
    assert (p[: n // 2] == p[::-1][: n // 2]).all()


def test_hsic_by_its_definition():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=15), generator.integers(3, size=15).astype(float)
    kernels, n = [], len(x)
    for values in (x, y):
        distances = np.abs(values[:, None] - values)
        middle = np.median([d for d in distances[np.triu_indices(n, 1)] if d > 0])
        kernels.append(np.exp(-(distances**2) / (2 * middle**2)))
    centring = np.eye(n) - 1 / n
    expected = np.trace(kernels[0] @ centring @ kernels[1] @ centring) / n**2
    assert hsic_test(x, y, permutations=9, seed=0)[0] == pytest.approx(expected)


def test_hsic_p_values_are_uniform_under_independence_and_small_under_dependence():
    generator, p, seen = np.random.default_rng(1), [], []
    for seed in range(300):
        x, y = generator.normal(size=(2, 14))
        p.append(hsic_test(x, y**2, permutations=99, seed=seed)[1])
        if seed < 60:
            seen.append(hsic_test(x, x**2 + 0.1 * y, permutations=99, seed=seed)[1])  # uncorrelated, yet dependent
    assert kstest(p, "uniform").pvalue > 0.01
    assert (np.array(p) <= 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert np.median(seen) <= 0.05


def test_hsic_of_what_does_not_vary():
    assert hsic_test(np.ones(9), np.arange(9.0), permutations=50, seed=0) == (0.0, 1.0)
    assert hsic_test(np.ones(1), np.ones(1), permutations=50, seed=0) == (0.0, 1.0)
    x = np.arange(9.0)
    assert hsic_test(x, x, permutations=199, seed=3) == hsic_test(x, x, permutations=199, seed=3)


def test_effects_against_random_ones_are_scipys_binomial_tests():
    generator = np.random.default_rng(2)
    random, effect = generator.exponential(size=50), np.array([0.0, 0.3, 1.0, 3.0, 99.0])
    beaten, p = seldom_larger(effect, random, 0.9)
    for e, k, one in zip(effect, beaten, p, strict=True):
        assert k == (random < e).sum()
        assert one == pytest.approx(binomtest(int(k), 50, 0.9, alternative="less").pvalue)
    assert p[0] < 1e-40 and p[-1] == 1
    beaten, p = seldom_larger(np.zeros(1), np.zeros(30), 0.9)  # a tie is no win
    assert beaten[0] == 0 and p[0] < 1e-20
    for own in (0.0, 0.3, 1.0, 99.0):
        k, one = often_closer(own, random, 0.9)
        assert k == (random > own).sum()
        assert one == pytest.approx(binomtest(k, 50, 0.9, alternative="greater").pvalue)


@pytest.mark.parametrize(("draws", "quantile"), [(30, 0.9), (100, 0.9), (50, 0.5)])
def test_both_keep_their_level_at_the_edge_of_the_null(draws, quantile):
    """Exact, over the binomial distribution of wins there."""
    k = np.arange(draws + 1)
    ones = [np.arange(draws) < wins for wins in k]
    p_low = np.array([seldom_larger(np.array([0.5]), 1.0 - won, quantile)[1][0] for won in ones])
    p_high = np.array([often_closer(0.5, 1.0 * won, quantile)[1] for won in ones])
    for p in (p_low, p_high):
        for alpha in (0.01, 0.05):
            assert binom.pmf(k[p <= alpha], draws, quantile).sum() <= alpha + 1e-12


def test_bonferroni():
    assert bonferroni(np.array([0.01, 0.5, 0.02])).tolist() == pytest.approx([0.03, 1, 0.06])
