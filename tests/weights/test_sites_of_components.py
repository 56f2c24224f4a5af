"""Components where their whole map is the site: last-in effects and curves, against the plain model's weights changed.

    last-in    M(W = 0) − M(W = v_c u_cᵀ alone)
    curve      M(W − α v_c u_cᵀ) − M(W), and towards the other prompt M(y + α (a_c(x′) − a_c) u_c) − M

Tolerance: 1e-9 in float64; slopes by central differences 1e-6.
"""

import naive_weights as plain
import numpy as np
import pytest
from laid_features import asked

import veracausa as vc
from veracausa.errors import MethodError

QUIET = {"show_progress": False}
ALPHAS = [-0.5, 0.0, 0.5, 1.0, 2.0]
FAST = [("llama", "up", "singular"), ("gpt2", "q", "own"), ("gemma2", "down", "singular"), ("llama", "down", "own")]
CASES = FAST + [
    pytest.param(family, name, kind, marks=pytest.mark.slow)
    for family in ("llama", "gpt2", "gemma2")
    for name in ("down", "up", "q", "o")
    for kind in ("singular", "own")
    if (family, name, kind) not in FAST
]


def set_of(lm, own, stem, kind):
    """The model with a set of components of a map, their parts of the weights, and their names."""
    if kind == "singular":
        return lm, plain.directions(own.weight)[:2], [f"{stem}.c0", f"{stem}.c1"]
    rng = np.random.default_rng(0)
    v, u = rng.normal(size=(own.weight.shape[0], 3)), rng.normal(size=(3, own.weight.shape[1]))
    laid = lm.reading(*vc.components(lm, stem, factors=(u, v)))
    return laid, [np.outer(v[:, c], u[c]) for c in range(2)], [f"{stem}.own0", f"{stem}.own1"]


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "name", "kind"), CASES)
def test_last_in_and_curves_are_those_of_the_weights(family, name, kind):
    hf, lm, found, task = asked(family, count=1)
    own, stem = plain.Map(hf, family, 1, name, lm.heads, lm.kv_heads), f"{'am'[name in ('up', 'down')]}1.{name}"
    laid, parts, names = set_of(lm, own, stem, kind)
    last = vc.effects.last_in(laid, task, units=names, ablation="zero", **QUIET)
    none = plain.removed(hf, found[0], own, own.weight)
    wanted = [none - plain.removed(hf, found[0], own, own.weight - part) for part in parts]
    np.testing.assert_allclose(last.values[0], wanted, rtol=0, atol=1e-9)
    curves = vc.causes.responses(laid, task, units=names, alphas=ALPHAS, ablation="zero", **QUIET)
    for unit, part in enumerate(parts):
        wanted = [plain.removed(hf, found[0], own, a * part) for a in [*ALPHAS, -1e-5, 1e-5]]
        np.testing.assert_allclose(curves.own[unit, :, 0], wanted[:-2], rtol=0, atol=1e-9)
        assert float(curves.slopes[unit, 0]) == pytest.approx((wanted[-1] - wanted[-2]) / 2e-5, abs=1e-6)
    whole = [plain.removed(hf, found[0], own, a * own.weight) for a in ALPHAS]
    np.testing.assert_allclose(curves.sites[0, :, 0], whole, rtol=0, atol=1e-9)
    swapped = vc.causes.responses(laid, task, units=names, alphas=ALPHAS, **QUIET)
    values, sizes, vectors = np.linalg.svd(parts[0])
    wanted = [plain.exchanged(hf, found[0], own, a * sizes[0] * values[:, 0], vectors[0]) for a in ALPHAS]
    np.testing.assert_allclose(swapped.own[0, :, 0], wanted, rtol=0, atol=1e-9)


def test_single_weights_have_curves_and_whole_maps_are_refused():
    hf, lm, found, task = asked("llama", count=1)
    own = plain.Map(hf, "llama", 1, "down", lm.heads, lm.kv_heads)
    part = np.zeros_like(own.weight)
    part[2, 5] = own.weight[2, 5]
    last = vc.effects.last_in(lm, task, units=["m1.down[5,2]"], ablation="zero", **QUIET)
    none = plain.removed(hf, found[0], own, own.weight)
    assert last.values[0, 0] == pytest.approx(none - plain.removed(hf, found[0], own, own.weight - part), abs=1e-9)
    curve = vc.causes.responses(lm, task, units=["m1.down[5,2]"], alphas=[3.0], ablation="zero", **QUIET)
    assert curve.own[0, -1, 0] == pytest.approx(plain.removed(hf, found[0], own, 3 * part), abs=1e-9)
    for verb in (vc.effects.last_in, vc.causes.responses):
        with pytest.raises(MethodError, match=r"m1\.down is all of a map's components"):
            verb(lm, task, units=["m1.down"], **QUIET)
    with pytest.raises(MethodError, match="counterfactual, zero"):
        vc.causes.responses(lm, task, units=["m1.down.c0"], ablation="mean", **QUIET)
