"""The bounds against scipy, against enumeration in whole numbers, and their coverage by enumeration and simulation."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from veracausa.errors import MethodError
from veracausa.statistics.bounds import clopper_pearson, hypergeometric, needed, spare, unseen

#: Runs of each simulation, and the failures allowed of a bound that fails 5% of the time: 5% + 3 √(.05 · .95 / runs).
RUNS = 4000
ALLOWED = 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5


def chance(found, drawn, population, strong):
    """P(X ≤ found) in whole numbers."""
    ways = sum(comb(strong, x) * comb(population - strong, drawn - x) for x in range(found + 1))
    return Fraction(ways, comb(population, drawn))


def brute(found, drawn, population, alpha=Fraction(1, 20)):
    """The largest number of strong units that the sample does not exclude, by trying all."""
    possible = range(found, population - (drawn - found) + 1)
    return max(k for k in possible if chance(found, drawn, population, k) > alpha)


@pytest.mark.parametrize(("drawn", "population"), [(0, 5), (1, 1), (5, 5), (3, 40), (12, 40), (39, 40), (30, 300)])
def test_hypergeometric_is_the_inverted_exact_test(drawn, population):
    for found in range(min(drawn, 12) + 1):
        assert hypergeometric(found, drawn, population) == brute(found, drawn, population)


def test_hypergeometric_at_the_size_of_a_model():
    """Neighbours of the bound, in whole numbers: it is not excluded, one more is."""
    for found, drawn, population in ((0, 300, 46_030), (7, 300, 46_030), (31, 4000, 45_000)):
        bound = hypergeometric(found, drawn, population)
        assert chance(found, drawn, population, bound) > Fraction(1, 20) >= chance(found, drawn, population, bound + 1)


@pytest.mark.parametrize("drawn", [1, 10, 299, 300])
def test_clopper_pearson_against_scipy(drawn):
    for found in {0, 1, drawn // 2, drawn - 1, drawn}:
        theirs = stats.binomtest(found, drawn, alternative="less").proportion_ci(0.95, method="exact").high
        assert clopper_pearson(found, drawn) == pytest.approx(theirs, abs=1e-12)


def test_299_draws_exclude_one_percent():
    assert clopper_pearson(0, 299) < 0.01 < clopper_pearson(0, 298)


def test_the_finite_bound_is_tighter_and_tends_to_the_infinite_one():
    for found in (0, 3):
        finite = [hypergeometric(found, 300, n) / n for n in (400, 4_000, 40_000, 4_000_000)]
        assert finite == sorted(finite) and finite[-1] <= clopper_pearson(found, 300)
        assert finite[-1] == pytest.approx(clopper_pearson(found, 300), rel=1e-3)


def test_confidence():
    bounds = [hypergeometric(2, 50, 500, confidence=c) for c in (0.5, 0.9, 0.95, 0.99, 0.9999, 1.0)]
    assert bounds == sorted(set(bounds)) and bounds[-1] == 500 - 48  # at 1: all but those seen to be weak
    assert hypergeometric(3, 20, 20, confidence=1.0) == 3


def test_everything_or_nothing_drawn():
    assert unseen(4, 20, 20) == 0 and unseen(0, 0, 0) == 0
    assert unseen(0, 0, 37) == 37


def test_unseen_never_falls_with_what_is_found():
    for drawn, population in ((30, 300), (150, 220)):
        bounds = [unseen(x, drawn, population) for x in range(drawn + 1)]
        assert bounds == sorted(bounds)


@pytest.mark.parametrize(
    ("drawn", "population", "missed"),
    [(30, 300, 3), (139, 220, 2), (150, 300, 3), (60, 60, 0), (400, 1000, 40), (0, 10, 10), (299, 40_000, 400)],
)
def test_spare_and_needed_against_trying_all(drawn, population, missed):
    enough = []
    for x in range(min(drawn, 80) + 1):
        if unseen(x, drawn, population) > missed:
            break
        enough.append(x)
    assert spare(drawn, population, missed) == (enough[-1] if enough else None)
    size = needed(population, missed)
    assert unseen(0, size, population) <= missed and (size == 0 or unseen(0, size - 1, population) > missed)


@pytest.mark.parametrize("numbers", [(-1, 3, 5), (4, 3, 5), (0, 6, 5)])
def test_impossible_numbers(numbers):
    with pytest.raises(MethodError, match="0 ≤ found ≤ drawn ≤ population"):
        hypergeometric(*numbers)
    if numbers[1] < 6:
        with pytest.raises(MethodError):
            clopper_pearson(*numbers[:2])


# ---- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drawn", "population"), [(20, 60), (30, 300), (90, 100)])
def test_coverage_for_every_possible_truth(drawn, population):
    """By enumeration: whatever the number of strong units, the bound holds with probability 95% at least."""
    worst = 1.0
    bounds = np.array([hypergeometric(x, drawn, population) for x in range(drawn + 1)])
    for strong in range(population + 1):
        chances = stats.hypergeom.pmf(np.arange(drawn + 1), population, strong, drawn)
        worst = min(worst, float(chances[bounds >= strong].sum()))
    assert 0.95 - 1e-9 <= worst < 0.97  # and it does not waste much


@pytest.mark.parametrize("strong", [0, 1, 9, 10, 47, 300, 1000])
def test_coverage_by_simulation(strong):
    """1,000 units, 300 drawn, 4,000 runs: at most 5% of the bounds fail, within binomial error (ALLOWED = 6.0%).

    47: an empty sample has probability 0; 9: α is nearly used up (one more is excluded by an empty sample).
    """
    rng = np.random.default_rng(strong)
    found = rng.hypergeometric(strong, 1000 - strong, 300, size=RUNS)
    fails = np.mean([hypergeometric(int(x), 300, 1000) < strong for x in found])
    assert fails <= ALLOWED


@pytest.mark.cases(2)
@pytest.mark.parametrize("share", [0.0, 0.005, 0.0099, 0.01, 0.2])
def test_coverage_of_clopper_pearson(share):
    rng = np.random.default_rng(5)
    fails = np.mean([clopper_pearson(int(x), 300) < share for x in rng.binomial(300, share, size=RUNS)])
    assert fails <= ALLOWED


@pytest.mark.parametrize("kind", ["continuous", "heavy tail", "ties", "two values", "equal"])
@pytest.mark.parametrize(("drawn", "missed"), [(260, 10), (400, 10), (600, 40)])
def test_coverage_of_the_order_statistic(kind, drawn, missed):
    """The threshold is read off the sample, and still at most `missed` undrawn units exceed it, 95% of the time."""
    rng = np.random.default_rng(1)
    values = {
        "continuous": rng.random(1000),
        "heavy tail": rng.pareto(0.5, 1000),
        "ties": rng.integers(0, 30, 1000).astype(float),
        "two values": (np.arange(1000) < 14).astype(float),  # the threshold is 0 or 1, and 14 units decide
        "equal": np.zeros(1000),
    }[kind]
    rank = spare(drawn, 1000, missed)
    assert rank is not None
    fails = 0
    for _ in range(RUNS):
        order = rng.permutation(1000)
        inside, outside = values[order[:drawn]], values[order[drawn:]]
        fails += (outside > np.sort(inside)[::-1][rank]).sum() > missed
    assert fails / RUNS <= ALLOWED
