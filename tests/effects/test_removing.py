"""Removal curves: sets, singles, pairs and their sums, against hooks on whole runs; reuse of exact scores; refusals."""

from itertools import combinations

import numpy as np
import pytest
import torch
from naive_groups import effects

import veracausa as vc
from veracausa.errors import MethodError, UnitError
from veracausa.units.members import Member

QUIET = {"show_progress": False}


def naive(lm, task, names, direction, ablation):
    """E of a set of heads or MLPs by hooks on whole runs, [examples]; 0 of none."""
    members = []
    for name in names:
        layer, _, head = name[1:].partition(".h")
        members.append((Member("heads", int(layer), int(head)) if head else Member("mlps", int(layer), -1),))
    if not members:
        return torch.zeros(len(task), dtype=torch.float64)
    everywhere = slice(None)
    placed = [[(one, everywhere, everywhere) for (one,) in members]]
    return effects(lm, task, lambda i: placed, direction, ablation)[:, 0]


@pytest.mark.parametrize(("family", "direction", "ablation", "units"), [
    ("llama", "noising", "zero", "heads"), ("gemma2", "noising", "counterfactual", "heads"),
    ("gpt2", "denoising", "counterfactual", "mlps"),
])  # fmt: skip
def test_sets_singles_and_pairs_are_what_hooks_on_whole_runs_give(tiny, task_of, family, direction, ablation, units):
    lm, task = tiny(family), task_of((6, 8), n=3)
    scores = vc.attribute(lm, task, units=units, **QUIET)
    how = {"direction": direction, "ablation": ablation}
    most = len(scores.units)
    curve = vc.effects.removal_curve(lm, task, scores, sizes=(1, 2, most), pairs=3, **how, **QUIET)
    assert list(curve.ranked) == [scores.units.names[i] for i in scores.ranking()]

    def run(names):
        return naive(lm, task, names, direction, ablation)

    table = curve.table()
    (unit,) = set(table["scale"])
    gap = float(curve.sets.gap.mean()) if unit == "share of the gap" else 1.0
    assert unit in ("metric", "share of the gap")
    np.testing.assert_allclose(table["together"] * gap, curve.values("together").mean(0))
    # the same sums in another order, in float64
    close = {"rtol": 1e-8, "atol": 1e-10}
    singles = torch.stack([run([name]) for name in curve.ranked], 1)
    for at, size in enumerate((1, 2, most)):
        together = run(curve.ranked[:size])
        torch.testing.assert_close(curve.values("together")[:, at], together, **close)
        torch.testing.assert_close(curve.values("sum")[:, at], singles[:, :size].sum(1), **close)
        torch.testing.assert_close(curve.values("rest")[:, at], run(curve.ranked[size:]), **close)
        excess = (together - singles[:, :size].sum(1)) / scores.gap.mean()
        value, error = curve.mean("excess")
        assert float(value[at]) == pytest.approx(float(excess.mean()), abs=1e-9)
    found, errors = curve.interactions()
    for i, j in combinations(range(3), 2):
        both = run([curve.ranked[i], curve.ranked[j]]) - singles[:, i] - singles[:, j]
        assert found[i, j] == found[j, i] == pytest.approx(float(both.mean() / scores.gap.mean()), abs=1e-9)
    assert np.isnan(np.diag(found)).all() and errors.shape == error.shape * 2 == (3, 3)


def test_exact_scores_of_the_same_pairs_are_the_singles_and_nothing_else_is(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=4)
    exact = vc.exact(lm, task, ablation="zero", **QUIET)
    reused = vc.effects.removal_curve.work(lm, task, exact, sizes=(3,))
    again = vc.effects.removal_curve.work(lm, task, exact, sizes=(3,), ablation="mean")
    assert "alone" not in reused.works and "alone" in again.works and reused.tokens() < again.tokens()
    assert "alone" in vc.effects.removal_curve.work(lm, task[:2], exact).works
    curve = vc.effects.removal_curve(lm, task, exact, sizes=(3,), **QUIET)
    assert curve.settings["ablation"] == "zero" and curve.ranking == "exact (abs_mean)"
    order = exact.ranking()
    torch.testing.assert_close(curve.values("sum")[:, 0], exact.values[:, order[:3]].sum(1), rtol=0, atol=1e-12)
    value, error = curve.mean("together")
    low, high = curve.interval("together")
    # Student's quantile for 4 pairs, where an error is known
    np.testing.assert_allclose(high - value, 3.182446 * error, rtol=1e-6)
    np.testing.assert_allclose(value - low, 3.182446 * error, rtol=1e-6)
    price = vc.forecast(vc.effects.removal_curve, lm, task, scores=exact, sizes=(3,), measure=False)
    assert price.token_layers + exact.cost.token_layers == curve.cost.token_layers


def test_interrupted_it_goes_on(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=4)
    atp = vc.attribute(lm, task, **QUIET)
    whole = vc.effects.removal_curve(lm, task, atp, sizes=(3,), singles=4, out=tmp_path, **QUIET)
    again = vc.effects.removal_curve(lm, task, atp, sizes=(3,), singles=4, out=tmp_path, **QUIET)
    assert again.sentences == whole.sentences and torch.equal(again.sets.values, whole.sets.values)
    assert vc.effects.removal_curve(lm, task, atp, singles=2, pairs=0, **QUIET).table()["sum"].isna().sum() == 3


def test_what_is_refused(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    heads, edges = (vc.attribute(lm, task, units=u, method=m, **QUIET) for u, m in (("heads", "atp"), ("edges", "eap")))
    late = vc.attribute(lm, task, units=["m1@7"], **QUIET)
    for scores, how, error, said in (
        (edges, {}, UnitError, "circuits.cause_curve"),
        (late, {}, UnitError, "position 7, which a prompt of 6"),
        (heads, {"sizes": (0,)}, MethodError, "sets have 1"),
        (heads, {"pairs": 1}, MethodError, "2 units or more"),
        (heads, {"singles": 99}, MethodError, "between 1 and 12"),
        (heads, {"ablation": "optimal"}, MethodError, "learns constants"),
    ):
        with pytest.raises(error, match=said):
            vc.effects.removal_curve(lm, task, scores, **how, **QUIET)
    other = tiny("llama", fresh=True, num_hidden_layers=2)
    with pytest.raises(MethodError, match="now has other"):
        vc.effects.removal_curve(other, task, heads, **QUIET)
