"""Tests of means over examples: against scipy, and where there is nothing to estimate."""

import numpy as np
import pytest
from scipy import stats

from veracausa.statistics.means import LEVEL, differs, exceeds, weaker


def test_equal_scipys():
    values = np.random.default_rng(0).normal(0.3, 1.0, size=(9, 5))
    np.testing.assert_allclose(differs(values), stats.ttest_1samp(values, 0.0).pvalue, rtol=1e-12)
    one_sided = stats.ttest_1samp(values, 0.1, alternative="greater").pvalue
    np.testing.assert_allclose(exceeds(values, 0.1), one_sided, rtol=1e-12)
    other = stats.ttest_1samp(values, -0.1, alternative="less").pvalue
    np.testing.assert_allclose(differs(values, 0.1), np.minimum(1, 2 * np.minimum(one_sided, other)), rtol=1e-12)


@pytest.mark.parametrize(("all_are", "p"), [(0.0, 1.0), (0.5, 0.0), (-0.5, 0.0)])
def test_examples_that_agree(all_are, p):
    assert differs(np.full((4, 2), all_are)).tolist() == [p, p]


@pytest.mark.parametrize(("mean", "together"), [(0.2, 0.9), (0.2, -0.9), (0.0, 0.9), (2.0, 0.0)])
@pytest.mark.parametrize("noise", ["normal", "exponential"])
def test_weaker_is_said_no_more_often_than_its_level(mean, together, noise):
    """2,000 draws on the border, |E′| = |E| / 3, of either sign, noise that goes together or against each other.

    With signs taken from the means, and p of one side, 8 to 9% were called weaker (normal, mean .2, together ±.9).
    """
    random = np.random.default_rng(0)
    draw = random.standard_normal if noise == "normal" else lambda size: random.exponential(size=size) - 1
    one = draw((16, 2000))
    both = together * one + np.sqrt(1 - together**2) * draw((16, 2000))
    for side in (1, -1):
        wrong = (weaker(side * mean / 3 + 0.3 * both, mean + one, 1 / 3) < LEVEL).mean()
        assert wrong < LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / 2000)


def test_weaker_is_found_where_it_is():
    """Of either sign, and not where one of the two is 0 or both are equal."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((16, 4))
    strong = noise + np.array([1.0, -1.0, 1.0, 0.0])
    other = noise[:, ::-1] + np.array([0.1, 0.1, 1.0, 0.0])
    assert (weaker(other, strong, 1 / 3) < LEVEL).tolist() == [True, True, False, False]
