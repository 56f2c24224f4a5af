"""Differences of two sets of examples: how often equal means are told apart, and from how many examples on."""

import numpy as np
import pytest
from scipy import stats

from veracausa.statistics.differing import differences

DRAWS = 4000


def p_of(one, other):
    means = one.mean(0), other.mean(0)
    return differences(means, (one - means[0], other - means[1]), paired=False).p


@pytest.mark.parametrize(
    ("kind", "most"), [("normal", 0.055), ("exponential", 0.085), ("lognormal", 0.14)]
)  # counted in 20,000 draws each, over the sizes and scales below; lognormal numbers are those of the page
def test_equal_means_of_other_examples_are_told_apart_no_more_often_than_is_said(kind, most):
    """4,000 draws, 16 to 64 examples on a side, skews alike and opposite, scales 1 and 3."""
    random = np.random.default_rng(0)
    draw = {
        "normal": lambda n: random.standard_normal((n, DRAWS)),
        "exponential": lambda n: random.exponential(size=(n, DRAWS)) - 1,
        "lognormal": lambda n: random.lognormal(size=(n, DRAWS)) - np.exp(0.5),
    }[kind]
    for n, m in ((16, 16), (16, 40), (16, 64), (40, 64)):
        for scale in (1, -1, 1 / 3, -3):
            wrong = (p_of(draw(n), scale * draw(m)) < 0.05).mean()
            assert wrong < most + 3 * np.sqrt(most * (1 - most) / DRAWS)


def test_fewer_than_16_on_either_side_have_no_p():
    """Exponential numbers of one mean, 4 against 40: with a p, 13% of draws were told apart at 5%."""
    random = np.random.default_rng(0)
    few, many = random.exponential(size=(4, DRAWS)), random.exponential(size=(40, DRAWS))
    assert (stats.ttest_ind(few, many, equal_var=False).pvalue < 0.05).mean() > 0.11
    assert np.isnan(p_of(few, many)).all() and np.isnan(p_of(many, few)).all()
    assert np.isnan(p_of(np.ones((4, 2)), np.zeros((40, 2)))).all()
    assert np.isfinite(p_of(many[:16], many[16:32])).all()
    assert (differences((few.mean(0), few.mean(0) + 1), (few, few), paired=True).p == 0).all()  # paired, few may do
