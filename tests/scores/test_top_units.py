"""Stability against brute force with Python sets, against cases with a known answer, and against simulated truth."""

import itertools
import time

import numpy as np
import pytest
import torch
from scipy import stats

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.scores.scores import Scores
from veracausa.statistics.bootstrap import disjoint
from veracausa.statistics.bootstrap import with_replacement as _with_replacement
from veracausa.units.table import Units


def scores(effects, **more):
    """Scores [examples, units] with these values; neurons of layer 0."""
    values = torch.as_tensor(np.asarray(effects), dtype=torch.float64)
    n, units = values.shape
    parts = {
        "values": values, "units": Units("neurons", np.zeros(units, int), np.arange(units), np.full(units, -1)),
        "method": "exact", "settings": {"direction": "noising"},
        "model": {"name": "m", "source": "s", "identity": "id"},
        "task": {"name": "t", "description": "t", "digest": "d", "metric": "logit_diff", "n": n},
        "clean": torch.ones(n, dtype=torch.float64), "corrupted": torch.zeros(n, dtype=torch.float64), "cost": Cost(),
    }  # fmt: skip
    return Scores(**(parts | more))


def random(n, units, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, units)) + rng.normal(size=units)
    values[rng.random((n, units)) < missing] = np.nan
    return values


# ---- brute force ----------------------------------------------------------------------------------------------------


def brute_set(values, weights, top, by):
    """The top set of one draw, unit by unit, example by example."""
    keys = {}
    for unit in range(values.shape[1]):
        drawn = [x for x, w in zip(values[:, unit], weights, strict=True) for _ in range(int(w)) if not np.isnan(x)]
        if drawn:
            mean = sum(drawn) / len(drawn)
            keys[unit] = {
                "abs_mean": abs(mean), "mean_abs": sum(map(abs, drawn)) / len(drawn), "importance": -mean,
            }[by]  # fmt: skip
    return set(sorted(keys, key=lambda unit: -keys[unit])[:top])


def brute_jaccard(pairs):
    return np.mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs])


@pytest.mark.parametrize("by", ["abs_mean", "mean_abs", "importance"])
@pytest.mark.parametrize("missing", [0.0, 0.4, 0.9])
def test_every_figure_by_brute_force(by, missing):
    values, n, top, draws = random(6, 9, seed=3, missing=missing), 6, 4, 40
    found = vc.scores.stability(scores(values), top=top, draws=draws, seed=5, by=by)
    sets = [brute_set(values, w, top, by) for w in _with_replacement(n, n, draws, 5).tolist()]
    assert found.jaccard == pytest.approx(brute_jaccard(itertools.combinations(sets, 2)))
    assert found.probability.tolist() == pytest.approx([sum(u in s for s in sets) / draws for u in range(9)])
    for size in (1, 2, 3, 4):
        few = [brute_set(values, w, top, by) for w in _with_replacement(n, size, 10, 5).tolist()]
        assert found.bootstrap[size] == pytest.approx(brute_jaccard(itertools.combinations(few, 2)))
    for size in (1, 2, 3):
        weights = [part.tolist() for part in disjoint(n, size, 10, 5)]
        one, other = ([brute_set(values, w, top, by) for w in part] for part in weights)
        assert found.fresh[size] == pytest.approx(brute_jaccard(zip(one, other, strict=True)))
    assert set(found.fresh) == {1, 2, 3} and set(found.bootstrap) == {1, 2, 3, 4, 6}


def test_ties_go_to_the_first_units_in_every_draw():
    values = np.zeros((5, 20))
    values[:, 7] = 1 + np.arange(5)
    found = vc.scores.stability(scores(values), top=3, draws=50)
    assert found.jaccard == 1 and found.probability.nonzero().flatten().tolist() == [0, 1, 7]


def test_chunks_do_not_change_a_figure(monkeypatch):
    found = vc.scores.stability(scores(random(8, 30, missing=0.2)), top=5, draws=60)
    monkeypatch.setattr("veracausa.scores.top_units._CHUNK", 70)
    again = vc.scores.stability(scores(random(8, 30, missing=0.2)), top=5, draws=60)
    assert (again.jaccard, again.bootstrap, again.fresh) == (found.jaccard, found.bootstrap, found.fresh)
    assert torch.equal(again.probability, found.probability)


def test_draws_are_what_they_say():
    assert (_with_replacement(7, 5, 30, 0).sum(1) == 5).all()
    one, other = disjoint(7, 3, 30, 0)
    assert (one.sum(1) == 3).all() and (other.sum(1) == 3).all() and (one * other).sum() == 0


# ---- known answers --------------------------------------------------------------------------------------------------


def test_identical_examples_are_perfectly_stable():
    found = vc.scores.stability(scores(np.tile(np.linspace(-1, 1, 50), (12, 1))), top=10, draws=100)
    assert found.jaccard == 1 and set(found.fresh.values()) == {1.0} and found.needed == found.needed_bootstrap == 1
    assert len(found.stable) == 10


def expected_overlap(units, top):
    """E |A ∩ B| / |A ∪ B| of two random sets: the intersection is hypergeometric; about k / (2N − k)."""
    common = np.arange(top + 1)
    return float((stats.hypergeom(units, top, top).pmf(common) * common / (2 * top - common)).sum())


def test_noise_is_as_stable_as_chance_between_independent_sets_but_not_by_the_bootstrap():
    units, top = 300, 30
    assert expected_overlap(units, top) == pytest.approx(top / (2 * units - top), rel=0.1)
    noise = [scores(np.random.default_rng(seed).normal(size=(16, units))) for seed in range(10)]
    found = [vc.scores.stability(one, top=top, draws=400) for one in noise]
    for size in (1, 4, 8):
        assert np.mean([f.fresh[size] for f in found]) == pytest.approx(expected_overlap(units, top), abs=0.005)
    assert min(f.jaccard for f in found) > 2 * expected_overlap(units, top)
    assert all(f.needed is None for f in found)


@pytest.fixture(scope="module")
def simulated():
    """Effects with a known spread, and the true Jaccard between two new sets of n examples, by simulation."""
    effects = np.random.default_rng(1).exponential(size=200)
    top, noise = 10, 1.5

    def draw(n, seed):
        return effects + noise * np.random.default_rng(seed).normal(size=(n, len(effects)))

    def truth(n):
        means = effects + noise / n**0.5 * np.random.default_rng(n).normal(size=(2, 4000, len(effects)))
        tops = np.argsort(-np.abs(means), axis=-1)[..., :top]
        return brute_jaccard(zip(map(set, tops[0].tolist()), map(set, tops[1].tolist()), strict=True))

    return draw, truth, top


def test_jaccard_between_fresh_sets_is_unbiased(simulated):
    draw, truth, top = simulated
    found = [vc.scores.stability(scores(draw(32, seed)), top=top, draws=200) for seed in range(40)]
    for size in (2, 8, 16):
        mean = [f.fresh[size] for f in found]
        assert np.mean(mean) == pytest.approx(truth(size), abs=4 * np.std(mean) / len(mean) ** 0.5)
    assert np.mean([f.jaccard for f in found]) > truth(32) + 0.01  # the bootstrap is too kind


def test_the_needed_number_is_found(simulated):
    """The true number lies between the size that was tried before and the one that is reported, give or take noise."""
    draw, truth, top = simulated
    least = next(n for n in range(1, 200) if truth(n) > 0.6)
    found = [vc.scores.stability(scores(draw(200, seed)), top=top, draws=200, bar=0.6) for seed in range(10)]
    needed = [f.needed for f in found]
    assert None not in needed and least / 1.5 <= np.median(needed) <= least * 1.5
    assert np.median([f.needed_bootstrap for f in found]) <= np.median(needed)
    few = vc.scores.stability(scores(draw(8, 0)), top=top, draws=200, bar=0.9)
    assert few.needed is None and "more than 4 examples" in repr(few)


# ---- what is shown, and what is refused -----------------------------------------------------------------------------


def test_tables_and_text():
    found = vc.scores.stability(scores(random(10, 40)), top=5, draws=100)
    table = found.table()
    assert list(table.columns) == ["name", "layer", "neuron", "effect", "stderr", "probability"] and len(table) == 40
    assert (table.probability.diff().dropna() <= 0).all() and table.probability.sum() == pytest.approx(5)
    assert list(found.curve().columns) == ["examples", "bootstrap", "fresh"]
    assert f"{found.jaccard:.3f}" in repr(found) and "<table" in found._repr_html_()
    assert set(found.stable) == set(table.name[table.probability >= 0.95])


def test_reproducible_by_seed():
    values = scores(random(10, 40))
    one, same, other = (vc.scores.stability(values, top=5, draws=50, seed=seed) for seed in (1, 1, 2))
    assert one.jaccard == same.jaccard and one.fresh == same.fresh and one.jaccard != other.jaccard


def test_importance_follows_the_direction_and_the_sign():
    values = np.array([[-2.0, 1, 0.5], [-2.2, 1.1, 0.4]])
    options = {"top": 1, "draws": 20, "by": "importance"}
    most = {
        "noising": vc.scores.stability(scores(values), **options),
        "denoising": vc.scores.stability(scores(values, settings={"direction": "denoising"}), **options),
        "unsigned": vc.scores.stability(scores(abs(values), signed=False), **options),
    }
    assert {key: found.stable for key, found in most.items()} == {
        "noising": ["m0.n0"], "denoising": ["m0.n1"], "unsigned": ["m0.n0"],
    }  # fmt: skip
    for found in most.values():
        assert found.scores.ranking("importance")[0] == found.probability.argmax()


@pytest.mark.parametrize(
    ("change", "options", "word"),
    [
        ({"values": torch.ones(1, 6)}, {}, "one example"),
        ({"settings": {"direction": "noising", "per_example": False}}, {}, "same score"),
        ({}, {"top": 6}, "fewer than there are units"),
        ({}, {"top": 0}, "top=0"),
        ({}, {"draws": 1}, "draws=1"),
        ({}, {"bar": 1.0}, "bar=1.0"),
        ({}, {"by": "size"}, "not a ranking"),
    ],
)
def test_what_has_no_answer_is_refused(change, options, word):
    with pytest.raises(MethodError, match=word):
        vc.scores.stability(scores(random(4, 6), **change), **({"top": 2} | options))


@pytest.mark.slow
def test_all_neurons_take_seconds():
    """46,080 neurons × 64 examples × 1,000 draws, the curves included; the best of two, because machines are busy."""
    values = scores(np.zeros((64, 46_080)), values=torch.randn(64, 46_080, generator=torch.Generator().manual_seed(0)))

    def seconds():
        began = time.perf_counter()
        vc.scores.stability(values)
        return time.perf_counter() - began

    assert seconds() < 20 or seconds() < 20
