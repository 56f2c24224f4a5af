"""Stages: fixed beforehand, nested, affordable; and their bound holds wherever one stops (simulated)."""

import numpy as np
import pytest

from veracausa.errors import MethodError
from veracausa.receipts.stages import Orders, Until, plan, walk
from veracausa.statistics.bounds import unseen

N = 800
#: Runs of each simulation, and the failures allowed of a bound that fails 5% of the time: 5% + 3 √(.05 · .95 / runs).
RUNS = 4000
ALLOWED = 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5


def orders(seed=0, ranking=None, n=N):
    return Orders.of(list(range(n)) if ranking is None else ranking, seed)


def stages(mine, top=10, sample=60, until=None, budget=None, costs=None, overhead=0.0):
    costs = np.ones(len(mine)) if costs is None else costs
    return plan(mine, costs, overhead, top=top, sample=sample, until=until, budget=budget)


def test_orders():
    mine = orders(3)
    assert sorted(mine.drawn) == list(range(N)) and np.array_equal(mine.drawn, orders(3).drawn)
    assert not np.array_equal(mine.drawn, orders(4).drawn)
    top, drawn = mine.members(5, 7)
    assert top.tolist() == [0, 1, 2, 3, 4]
    assert drawn.tolist() == [u for u in mine.drawn.tolist() if u >= 5][:7]


def test_every_unit_of_the_rest_is_drawn_equally_often():
    """2,000 seeds, 20 of 40 others: each 1,000 times; 5 standard deviations are 112."""
    counts = sum(np.bincount(orders(seed, n=50).members(10, 20)[1], minlength=50) for seed in range(2000))
    assert (counts[:10] == 0).all() and (abs(counts[10:] - 1000) < 112).all()


def test_one_stage():
    (one,) = stages(orders())
    assert (one.top, one.sample, one.alpha) == (10, 60, pytest.approx(0.05))
    (all_of_them,) = stages(orders(), top=900)
    assert (all_of_them.top, all_of_them.sample, all_of_them.alpha) == (N, 0, 0)
    (rest,) = stages(orders(), top=10, sample=9999)
    assert (rest.top, rest.sample, rest.alpha) == (10, N - 10, 0)


@pytest.mark.parametrize("missed", [0, 1, 10, 100, 799])
@pytest.mark.parametrize("budget", [None, 0.05, 0.4, 1.0])
def test_stages_are_nested_useful_and_share_alpha(missed, budget):
    mine = orders()
    planned = stages(mine, until=Until(missed=missed), budget=budget)
    before: set = set()
    for stage in planned:
        now = {int(unit) for part in mine.members(stage.top, stage.sample) for unit in part}
        assert before < now and len(now) == stage.top + stage.sample
        before = now
    assert sum(stage.alpha for stage in planned) <= 0.05 + 1e-12
    for stage in planned[:-1]:  # each could stop, if its sample held no strong unit
        assert unseen(0, stage.sample, N - stage.top, confidence=1 - stage.alpha) <= missed
    assert len(before) == (N if budget in (None, 1.0) else round(N * budget))


def test_the_budget_is_kept_and_used():
    """Units of different cost, an overhead for each stage."""
    mine, costs = orders(), np.random.default_rng(0).integers(1, 30, N).astype(float)
    whole = costs.sum() + 50
    for budget in (0.02, 0.1, 0.5, 0.9):
        for until in (None, Until(missed=20)):
            planned = stages(mine, until=until, budget=budget, costs=costs, overhead=50)
            verified = np.concatenate(mine.members(planned[-1].top, planned[-1].sample))
            spent = costs[verified].sum() + 50 * len(planned)
            assert spent <= budget * whole
            assert spent + 30 + 50 > budget * whole or until is not None
    assert len(stages(mine, budget=0.3)) == 1
    with pytest.raises(MethodError, match=r"budget=0\.001 does not pay for one unit.*takes 0\.5"):
        stages(mine, budget=0.001, costs=costs, overhead=50)


def test_no_unit_is_measured_twice_and_new_ones_come_in_order():
    mine, seen = orders(), []

    def measure(units):
        seen.append(units)
        return np.where(units % 7 == 0, 0.5, 0.0)

    outcomes = walk(stages(mine, until=Until(missed=40)), mine, measure, tau=0.01, missed=None)
    assert len(seen) == len(outcomes) > 3
    assert sorted(np.concatenate(seen)) == list(range(N))
    assert all((np.diff(part) > 0).all() for part in seen)
    assert outcomes[-1].missed == 0 and outcomes[-1].strong == len(range(0, N, 7))


def test_it_stops_as_soon_as_the_bound_is_reached():
    mine = orders()
    planned = stages(mine, until=Until(missed=40))
    outcomes = walk(planned, mine, lambda units: np.zeros(len(units)), tau=0.01, missed=40)
    assert len(outcomes) == 1 and outcomes[0].missed <= 40
    outcomes = walk(planned, mine, lambda units: np.ones(len(units)), tau=0.01, missed=40)
    assert len(outcomes) == len(planned) and outcomes[-2].missed > 40 and outcomes[-1].missed == 0
    assert outcomes[0].found == planned[0].sample and outcomes[0].strong == planned[0].top + planned[0].sample


def test_going_on_never_loosens_the_bound():
    rng = np.random.default_rng(0)
    for seed in range(50):
        effects = (rng.random(N) < 0.05).astype(float)
        mine = orders(seed)
        bounds = [o.missed for o in walk(stages(mine, until=Until(missed=80)), mine, effects.__getitem__, tau=0.5,
                                         missed=None)]  # fmt: skip
        assert bounds == sorted(bounds, reverse=True)


def test_until_says_what_is_wrong():
    for wrong, match in (
        ({"missed": -1}, r"missed=-1\): a number of units"),
        ({"tau": 0}, "tau=0: a threshold is a positive share"),
        ({"tau": float("nan")}, "tau is a number, but this is float: nan"),
        ({"confidence": 1.0}, "confidence lies between 0 and 1"),
    ):
        with pytest.raises(MethodError, match=match):
            Until(**wrong)


# ---- coverage under stopping ----------------------------------------------------------------------------------------


def hidden(count, first):
    """`count` strong units, from rank `first` on: 0 a perfect estimate, N − count the worst."""
    effects = np.zeros(N)
    effects[first : first + count] = 1.0
    return effects


def spread(count):
    """Strong units all over the ranking: an estimate that knows nothing."""
    effects = np.zeros(N)
    effects[np.linspace(0, N - 1, count).astype(int)] = 1.0
    return effects


POPULATIONS = {
    "none strong": hidden(0, 0),
    "perfect estimate": hidden(60, 0),
    "worst estimate, just too many": hidden(26, N - 26),
    "worst estimate, twice too many": hidden(45, N - 45),
    "knows nothing": spread(45),
    "half strong": spread(400),
    "strong ones enter the top stage by stage": hidden(120, 15),
}


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", POPULATIONS)
def test_coverage_under_stopping(name):
    """4,000 random orders each. The bound must hold where `walk` stops, and wherever else anyone may have stopped.

    "Wherever": at all stages of a run at once, the strongest adversary. Both fail in at most 5% of the runs, within
    binomial error (ALLOWED = 6.0%). `naive` is what a bound of 95% at each stage would do.
    """
    effects, until = POPULATIONS[name], Until(missed=25, tau=0.5)
    planned = stages(orders(), top=20, sample=60, until=until)
    stopped = anywhere = 0
    assert len(planned) >= 5
    for seed in range(RUNS):
        mine = orders(seed)
        outcomes = walk(planned, mine, effects.__getitem__, tau=until.tau, missed=None)
        late = [effects.sum() - outcome.strong > outcome.missed for outcome in outcomes]
        anywhere += any(late)
        stop = next(i for i, outcome in enumerate(outcomes) if outcome.missed <= until.missed)
        stopped += late[stop]
    assert stopped / RUNS <= ALLOWED
    assert anywhere / RUNS <= ALLOWED


def test_without_spending_alpha_the_bound_would_fail():
    """So the simulation above can tell: a bound of 95% at each of the same stages fails somewhere in 9% of runs."""
    effects, until = POPULATIONS["worst estimate, twice too many"], Until(missed=25, tau=0.5)
    planned = stages(orders(), top=20, sample=60, until=until)
    naive = tuple(type(stage)(stage.top, stage.sample, 0.05 if stage.alpha else 0.0) for stage in planned)
    fails = 0
    for seed in range(1000):
        mine = orders(seed)
        outcomes = walk(naive, mine, effects.__getitem__, tau=until.tau, missed=None)
        fails += any(effects.sum() - outcome.strong > outcome.missed for outcome in outcomes)
    assert fails / 1000 > 0.07
