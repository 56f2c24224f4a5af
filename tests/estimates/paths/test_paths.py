"""Paths and combinations against whole-prompt runs with plain hooks (helpers/naive_paths.py), and what they promise.

Tolerance where formulas are the same: 1e-9 of the gap in float64 (conftest.EXACT). Limits are tested on models whose
weights are scaled down, because the tiny models are drawn rough and converge slowly.
"""

from dataclasses import replace
from itertools import pairwise

import naive
import naive_paths
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric, smooth

import veracausa as vc
from veracausa.estimates.parts import PATHS
from veracausa.estimates.paths import geodesic, gradpath
from veracausa.tasks.task import Task
from veracausa.units.every_unit import all_units

FEW = ("llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen3")
#: Every kind on one family, and every family on some kinds.
CASES = [("llama", kind) for kind in naive_paths.SITE_OF] + [
    (family, kind) for family in FEW[1:] for kind in ("heads", "queries")
]


def attribute(lm, task, units="heads", **options):
    return vc.attribute(lm, task, units=units, show_progress=False, **options)


def few(lm, kind, positions=0):
    units = all_units(lm, kind, positions)
    return units[np.arange(0, len(units), {"neurons": 17}.get(kind, 1) * (3 if positions else 1))]


def ends(lm, task, i, direction="noising"):
    """Embeddings of the patched run and of the other one."""
    found = [naive_paths.embeddings(lm.hf, ids) for ids in (task.clean[i], task.corrupted[i])]
    return found if direction == "noising" else found[::-1]


def each(lm, task, direction, compute):
    """`compute(own, other, metric, example)` of every example, stacked."""
    return torch.stack([
        compute(*ends(lm, task, i, direction), naive_metric(lm, task, i), i) for i in range(len(task))
    ])  # fmt: skip


def straight(own, other, alphas):
    return [own + alpha * (other - own) for alpha in alphas]


def copies(task, n):
    """One pair, n times: n independent draws in one call."""
    return Task("copies", task.clean * n, task.corrupted * n, task.correct * n, task.incorrect * n, task.metric)


def walked(monkeypatch, module):
    """Lets every path of `module` be seen: a list of the points [examples, points, S, width] and weights walked."""
    seen, walk = [], module.walk_points

    def spy(sums, points):
        seen.append((sums.bucket.tape.examples, points.embeddings.detach().clone(), points.weights))
        return walk(sums, points)

    monkeypatch.setattr(module, "walk_points", spy)
    return seen


# ---- straight paths over the input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_atp(tiny, task_of, agree, family, kind, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, few(lm, kind), direction=direction)

    def one(own, other, metric, _):
        return naive_paths.mean_scores(lm, family, own, other, [(own, 1.0)], metric, scores.units)

    agree(scores.values, each(lm, task, direction, one), scores.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_eap_ig_as_published(tiny, task_of, agree, family, kind, direction):
    """k/m of the way from the corrupted end, k = 0 … m − 1: that end is a point, the clean one is not."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, few(lm, kind), method="eap-ig", nodes=3, direction=direction)

    def one(own, other, metric, _):
        clean, corrupted = (own, other) if direction == "noising" else (other, own)
        points = [(corrupted, 1 / 3), (corrupted * 2 / 3 + clean / 3, 1 / 3), (corrupted / 3 + clean * 2 / 3, 1 / 3)]
        return naive_paths.mean_scores(lm, family, own, other, points, metric, scores.units)

    agree(scores.values, each(lm, task, direction, one), scores.gap)
    if direction == "noising":
        assert scores.completeness is None and any("no completeness" in note for note in scores.notes)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("method", ["conductance", "ceap"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_increments_of_a_grid(tiny, task_of, agree, family, kind, method, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, few(lm, kind), method=method, nodes=4, direction=direction)

    def one(own, other, metric, _):
        points = straight(own, other, [0, 1 / 3, 2 / 3, 1])
        return naive_paths.increment_scores(lm, family, points, metric, scores.units, left=method == "ceap")

    agree(scores.values, each(lm, task, direction, one), scores.gap)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("family", "kind"), [("llama", "values"), ("gpt2", "neurons"), ("gemma2", "heads")])
def test_increments_on_gauss_nodes(tiny, task_of, agree, family, kind, direction):
    """1e-6 of the gap: the reference's da/dα is a central difference, h = 1e-4, of rough models."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    method = vc.Method(path="inputs", combine="increments", grid="gauss", nodes=2)
    scores = attribute(lm, task, few(lm, kind), method=method, direction=direction)

    def one(own, other, metric, _):
        nodes = naive.gauss_legendre(2)
        return naive_paths.tangent_scores(lm, family, own, other, nodes, metric, scores.units, h=1e-4)

    agree(scores.values, each(lm, task, direction, one), scores.gap, 1e-6)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("family", "kind"), CASES[:3] + CASES[-4:])
def test_expected_gradients_with_the_same_draws(tiny, task_of, agree, family, kind, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    options = {"method": "expected-gradients", "nodes": 2, "direction": direction}
    scores = attribute(lm, task, few(lm, kind), seed=7, **options)

    def one(own, other, metric, i):
        alphas = np.random.default_rng([7, i]).uniform(size=2)
        points = [(point, 0.5) for point in straight(own, other, alphas)]
        return naive_paths.mean_scores(lm, family, own, other, points, metric, scores.units)

    agree(scores.values, each(lm, task, direction, one), scores.gap)
    assert not torch.allclose(attribute(lm, task, few(lm, kind), seed=8, **options).values, scores.values)


def test_draws_are_unbiased_and_their_standard_error_is_calibrated(task_of):
    """256 independent calls' worth of 3 draws: their mean is within 3 standard errors of Δ · ∫g dα for every head."""
    lm, one = smooth("llama"), task_of(6, seed=4)
    truth = attribute(lm, one, method=vc.Method(path="inputs", grid="gauss", nodes=48)).values[0]
    scores = attribute(lm, copies(one, 256), method="expected-gradients", nodes=3)
    spread = scores.values.std(0)
    assert ((scores.values.mean(0) - truth).abs() < 3 * spread / 16).all()
    # a variance from n values has a relative standard error of √(2/n) = 9% (heavier tails: more); 2 degrees per draw
    assert scores.draw_stderr.square().mean(0).sqrt() == pytest.approx(spread, rel=0.25)
    assert spread.max() > 1e-3 * scores.gap.abs().mean()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_increments_agree_in_the_limit(task_of, family):
    """Trapezoid steps, Gauss nodes with derivatives, and draws with derivatives (within 4 standard errors)."""
    lm, task = smooth(family), task_of(6, seed=4)
    made = {"path": "inputs", "combine": "increments"}
    gauss = attribute(lm, task, method=vc.Method(**made, grid="gauss", nodes=32))
    scale = gauss.gap.abs().mean()
    errors = [
        (attribute(lm, task, method=vc.Method(**made, grid="trapezoid", nodes=nodes)).values - gauss.values).abs().max()
        for nodes in (17, 65)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.25)  # order 1/m²
    assert errors[1] < 1e-2 * scale
    draws = attribute(lm, copies(task, 128), method=vc.Method(path="draws", combine="increments", nodes=2)).values
    assert ((draws.mean(0) - gauss.values[0]).abs() < 4 * draws.std(0) / 128**0.5 + 1e-9 * scale).all()


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FEW))
def test_increments_of_the_stream_sum_to_the_change_of_the_metric(task_of, agree, family, direction):
    lm, task = smooth(family), task_of((5, 6), n=2, seed=4)
    change = {"noising": -1, "denoising": 1}[direction]
    residuals = []
    for nodes in (3, 33, 129):
        scores = attribute(lm, task, "residual", method="conductance", nodes=nodes, direction=direction)
        agree(scores.completeness.claimed, scores.values.T, scores.gap)  # one unit a layer
        agree(scores.completeness.true, (change * scores.gap).expand(4, 2), scores.gap)
        residuals.append((scores.values - change * scores.gap[:, None]).abs().max(0).values / scores.gap.abs().mean())
        heads = attribute(lm, task, "heads", method="conductance", nodes=nodes, direction=direction)
        agree(heads.completeness.claimed, scores.completeness.claimed[:3], scores.gap)  # heads report the same cut
    assert (residuals[2] < residuals[0] / 20).all() and (residuals[2] < 1e-2).all(), residuals


# ---- GradPath -------------------------------------------------------------------------------------------------------


@pytest.mark.cases(1)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FEW))
def test_gradpath_as_published(tiny, task_of, agree, monkeypatch, family, direction):
    lm, task = tiny(family), task_of((5, 6), n=4, seed=4)
    seen = walked(monkeypatch, gradpath)
    scores = attribute(lm, task, method="eap-gp", nodes=3, direction=direction)
    theirs = {}

    def one(own, other, metric, i):
        theirs[i] = naive_paths.gradpath(lm.hf, family, own, other, 3)
        points = [(point, 1 / 3) for point in theirs[i][1:]]
        return naive_paths.mean_scores(lm, family, own, other, points, metric, scores.units)

    # 1e-8 of the gap: three steps along normed gradients amplify rounding
    agree(scores.values, each(lm, task, direction, one), scores.gap, 1e-8)
    assert sorted(len(examples) for examples, *_ in seen) == [2, 2]  # both lengths, from position 0 on
    for examples, points, weights in seen:
        assert weights.tolist() == pytest.approx([1 / 3] * 3)
        for example, path in zip(examples, points, strict=True):
            assert path.shape[1] == task.lengths[example]  # no position is added, so none is padding
            start = ends(lm, task, example, direction)[0]
            steps = torch.diff(torch.cat([start[None], path]), dim=0).flatten(1).norm(dim=1)
            torch.testing.assert_close(steps, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
            torch.testing.assert_close(path, torch.stack(theirs[example][1:]), rtol=0, atol=1e-8)
    for i in range(4):  # whatever else is in the batch
        agree(attribute(lm, task[i], method="eap-gp", nodes=3, direction=direction).values[0], scores.values[i],
              scores.gap, 1e-8)  # fmt: skip


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FEW))
def test_gradpath_completed(tiny, task_of, agree, monkeypatch, family, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    seen = walked(monkeypatch, gradpath)
    scores = attribute(lm, task, method="gradpath-complete", nodes=4, direction=direction)
    paths = {}
    for examples, points, _ in seen:
        for example, path in zip(examples, points, strict=True):
            own, other = ends(lm, task, example, direction)
            start = len(own) - path.shape[1]  # only positions that differ or come later move
            assert torch.equal(own[:start], other[:start])
            assert torch.equal(path[0], own[start:]) and torch.equal(path[-1], other[start:])
            paths[example] = [torch.cat([own[:start], point]) for point in path]
            for step in range(4):  # remaining distance / remaining steps, and the direction of the field, pulled
                rest = (path[-1] - path[step]).norm()
                moved = path[step + 1] - path[step]
                torch.testing.assert_close(moved.norm(), rest / (4 - step), rtol=1e-9, atol=1e-12)
                d = naive_paths.descent(lm.hf, family, paths[example][step], other)[start:]
                pull = (step + 1) / 4
                toward = pull * (path[-1] - path[step]) / rest
                toward = toward - (1 - pull) * d / d.norm() if step < 3 else toward
                torch.testing.assert_close(moved / moved.norm(), toward / toward.norm(), rtol=0, atol=1e-7)

    def one(own, other, metric, i):
        return naive_paths.increment_scores(lm, family, paths[i], metric, scores.units)

    agree(scores.values, each(lm, task, direction, one), scores.gap)


def test_gradpath_completed_is_complete(task_of):
    lm, task = smooth("llama"), task_of((5, 6), n=2, seed=4)
    residuals = [attribute(lm, task, method="gradpath-complete", nodes=nodes).completeness for nodes in (3, 48)]
    gap = lm.measure(task).gap
    assert residuals[1].relative(gap) < min(residuals[0].relative(gap) / 10, 0.01)


# ---- geodesic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_geodesic(tiny, task_of, agree, monkeypatch, family):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    bend, found = geodesic.bend, []

    def spy(bucket, example):
        path, lengths = bend(bucket, example)
        found.append((bucket.tape.examples[example], path[0], lengths))
        return path, lengths

    monkeypatch.setattr(geodesic, "bend", spy)
    scores = attribute(lm, task, method=vc.Method(path="geodesic", combine="increments", nodes=4, descent=6))
    paths = {}
    for example, path, lengths in found:
        own, other = ends(lm, task, example)
        assert torch.equal(path[0], own)  # the last end: e + 1 · (e′ − e) differs from e′ by rounding
        torch.testing.assert_close(path[-1], other, rtol=0, atol=1e-14)
        assert len(path) == 5 and len(lengths) > 1
        assert all(b < a for a, b in pairwise(lengths))
        metric = naive_metric(lm, task, example)
        # the length itself, written anew, of the straight and of the bent path
        for points, length in ((straight(own, other, np.linspace(0, 1, 5)), lengths[0]), (list(path), lengths[-1])):
            assert _length(lm, family, points, metric) == pytest.approx(length, rel=1e-9)
        paths[example] = list(path)

    def one(own, other, metric, i):
        return naive_paths.increment_scores(lm, family, paths[i], metric, scores.units)

    agree(scores.values, each(lm, task, "noising", one), scores.gap)


def _length(lm, family, points, metric):
    total = 0.0
    for a, b in pairwise(points):
        _, gradient = naive_paths.at(lm.hf, family, a, metric)
        slope = gradient["resid"][0]
        total += float((b - a).norm() * slope.norm())
    return total


def test_geodesic_is_complete_as_segments_grow(task_of):
    lm, task = smooth("qwen3"), task_of(5, seed=4)
    gap = lm.measure(task).gap
    shares = [
        attribute(
            lm, task, method=vc.Method(path="geodesic", combine="increments", nodes=n, descent=3)
        ).completeness.relative(gap)
        for n in (2, 24)
    ]
    assert shares[1] < min(shares[0] / 5, 0.02), shares


# ---- one site, one unit ---------------------------------------------------------------------------------------------


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", naive_paths.SITE_OF)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_the_unit_path_tends_to_the_exact_effect(task_of, agree, family, kind):
    lm, task = smooth(family), task_of((5, 6), n=2, seed=4)
    units = few(lm, kind)
    units = units[:: max(1, len(units) // 6)]
    effects = vc.exact(lm, task, units=units, show_progress=False)
    errors = []
    for nodes in (1, 64):
        scores = attribute(lm, task, units, method=vc.Method(path="unit", combine="increments", nodes=nodes))
        errors.append(float((scores.values - effects.values).abs().max() / scores.gap.abs().mean()))
    # the steepest curve (llama's whole stream) decides how many nodes; a single node is off by up to six gaps
    assert errors[1] < 1e-6 and errors[1] < max(errors[0] / 100, 1e-12), errors
    layers = [scores.values[:, units.layer == layer].sum(1) for layer in sorted(set(units.layer.tolist()))]
    agree(scores.completeness.claimed, torch.stack(layers), scores.gap)
    agree(scores.completeness.true, scores.completeness.claimed, scores.gap, 1e-6)


@pytest.mark.cases(2)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["heads", "neurons", "queries", "keys", "values", "mlps"])
def test_the_unit_path_per_position(task_of, agree, kind, direction):
    lm, task = smooth("qwen3"), task_of((5, 6), n=2, seed=4)
    units = all_units(lm, kind, 6)
    units = units[:: max(1, len(units) // 20) | 1]
    effects = vc.exact(lm, task, units=units, direction=direction, show_progress=False)
    method = vc.Method(path="unit", combine="increments", nodes=24)
    scores = attribute(lm, task, units, method=method, direction=direction)
    agree(scores.values, effects.values, scores.gap, 1e-7)
    assert effects.values.nan_to_num().abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["queries", "keys", "values"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_layer_ig_of_parts_of_attention_is_complete(task_of, agree, family, kind):
    lm, task = smooth(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, kind, method="ig", nodes=40)
    layers = torch.stack([scores.values[:, scores.units.layer == layer].sum(1) for layer in range(3)])
    agree(scores.completeness.claimed, layers, scores.gap)
    agree(layers, scores.completeness.true, scores.gap, 1e-6)


# ---- nothing depends on how rows are run ----------------------------------------------------------------------------

SCHEDULES = [
    vc.Method(path="inputs", grid="published", nodes=3),
    vc.Method(path="inputs", combine="increments", grid="trapezoid", nodes=4),
    vc.Method(path="inputs", combine="left-increments", grid="trapezoid", nodes=4),
    vc.Method(path="inputs", combine="increments", grid="gauss", nodes=3),
    vc.Method(path="draws", nodes=3),
    vc.Method(path="gradpath", nodes=3),
    vc.Method(path="gradpath-complete", combine="increments", nodes=3),
    vc.Method(path="geodesic", combine="increments", nodes=3, descent=2),
    vc.Method(path="inputs", rule="graddrop", grid="published", nodes=3),
    vc.Method(path="inputs", rule="qk-exact+graddrop", grid="published", nodes=3),
    vc.Method(path="unit", nodes=2, combine="increments"),
    vc.Method(path="inputs", rule="gim", nodes=3),
]


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", SCHEDULES, ids=lambda m: f"{m.path}-{m.rule}-{m.combine}-{m.grid}")
def test_any_chunk_size(tiny, task_of, agree, monkeypatch, method):
    lm, task = tiny("llama"), task_of((5, 6), n=4, seed=4)
    units = "queries" if "qk-exact" in method.rule else "heads"
    before = attribute(lm, task, units, method=method)
    for size in (1, 2, 5):
        for module in ("network", "gradpath", "sites"):
            monkeypatch.setattr(f"veracausa.estimates.paths.{module}.rows_per_chunk", lambda *_, size=size, **__: size)
        after = attribute(lm, task, units, method=method)
        agree(after.values, before.values, before.gap, 1e-8)
        if before.completeness is not None:
            agree(after.completeness.claimed, before.completeness.claimed, before.gap, 1e-8)
        if before.draw_stderr is not None:
            agree(after.draw_stderr, before.draw_stderr, before.gap, 1e-7)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize(
    "method", SCHEDULES[:5] + SCHEDULES[8:10], ids=lambda m: f"{m.path}-{m.rule}-{m.combine}-{m.grid}"
)
def test_sharing_the_prefix_changes_nothing(tiny, task_of, agree, monkeypatch, family, method):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    units = "keys@positions" if "qk-exact" in method.rule else "heads"
    shared = attribute(lm, task, units, method=method)
    monkeypatch.setitem(PATHS, method.path, replace(PATHS[method.path], shares_prefix=False))
    whole = attribute(lm, task, units, method=method)
    agree(shared.values, whole.values, whole.gap, 1e-8)
    assert shared.cost.forward < whole.cost.forward
