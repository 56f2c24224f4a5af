"""Intervals and p-values against statsmodels' (values below), scipy's and closed forms.

statsmodels 0.15.0:
    proportion_confint(k, n, alpha=0.05, method="wilson")
    mcnemar([[100, lost], [gained, 50]], exact=True).pvalue
    multipletests(p, method="holm")[1]
"""

import numpy as np
import pytest
from scipy.stats import binomtest

from veracausa.statistics.accuracy import holm, mcnemar, paired_error, wilson

#: Both compute in float64; the last digits depend on the order of operations.
SAME = {"rel": 1e-12, "abs": 1e-12}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (786, 1000, 0.7595111793607143, 0.8102999147855483),
        (0, 20, 0.0, 0.1611251580528194),
        (20, 20, 0.8388748419471804, 0.9999999999999999),
        (3, 7, 0.15821985525146964, 0.7495416354723428),
    ],
)
def test_wilson_is_statsmodels(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), **SAME)


def test_wilson_at_another_level_is_statsmodels():
    assert wilson(786, 1000, 0.99) == pytest.approx((0.7507650572390777, 0.8174647964361735), **SAME)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(12, 3, 0.03515625), (3, 12, 0.03515625), (0, 5, 0.0625), (40, 38, 0.9099464518745242), (1, 0, 1.0)],
)
def test_mcnemar_is_statsmodels_and_scipy(lost, gained, p):
    assert mcnemar(lost, gained) == pytest.approx(p, **SAME)
    assert mcnemar(lost, gained) == binomtest(lost, lost + gained, 0.5).pvalue


def test_mcnemar_without_a_prompt_on_which_the_models_differ():
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005, 0.5, 0.04], [0.05, 0.12, 0.12, 0.03, 0.5, 0.12]),
        ([1.0, 0.2, 0.2, 1e-9], [1.0, 0.6000000000000001, 0.6000000000000001, 4e-09]),
    ],
)
def test_holm_is_statsmodels(p, corrected):
    assert holm(p).tolist() == pytest.approx(corrected, **SAME)


def test_holm_of_nothing_is_nothing():
    assert holm([]).tolist() == []


def test_standard_error_of_a_paired_difference_is_that_of_a_mean_of_differences():
    differences = np.array([-1] * 7 + [1] * 2 + [0] * 11)
    wanted = differences.std(ddof=1) / np.sqrt(len(differences))
    assert paired_error(7, 2, 20) == pytest.approx(wanted, **SAME)
    assert np.isnan(paired_error(1, 0, 1))
