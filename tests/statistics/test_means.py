"""Tests of means over examples: against scipy, and where there is nothing to estimate."""

import numpy as np
import pytest
from scipy import stats

from veracausa.statistics.means import differs, exceeds


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
