"""Last-in and direct effects against naive whole-model runs, for every family, kind and direction.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT): rounding leaves 1e-13, wrong wiring far more than 1e-9.
"""

import naive_coalitions
import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.effects.site_effects import direct, last_in
from veracausa.errors import MethodError
from veracausa.units.every_unit import all_units
from veracausa.units.table import per_layer

OPTIONS = [{}, {"direction": "denoising"}, {"ablation": "zero"}]
FAMILIES = tiny_models.mostly_slow(tiny_models.FAMILIES)


def some(lm, kind):
    units = all_units(lm, kind)
    return units[np.arange(0, len(units), {"heads": 5, "neurons": 41}.get(kind, 1))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["heads", "neurons"])
@pytest.mark.parametrize("family", FAMILIES)
def test_last_in(tiny, task_of, agree, family, kind, options):
    """M(site gone) − M(site gone but for u), from whole-model runs."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    units = some(lm, kind)
    scores = last_in(lm, task, units=units, show_progress=False, **options)
    weights = units.shares(np.arange(len(units)), per_layer(lm, kind))
    whole, without = (naive_coalitions.coalition_runs(lm, task, kind, units.layer, w, **options)
                      for w in (np.ones_like(weights), ~weights))  # fmt: skip
    agree(scores.values, whole - without, scores.gap)
    assert scores.method == "last-in" and scores.units is units
    assert (scores.values - vc.exact(lm, task, units=units, show_progress=False, **options).values).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["mlps", "attention", "residual"])
def test_a_site_of_one_unit_goes_first_and_last(tiny, task_of, agree, kind):
    lm, task = tiny("gemma2"), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=kind, show_progress=False)
    agree(last_in(lm, task, units=kind, show_progress=False).values, scores.values, scores.gap)


@pytest.mark.parametrize("kind", ["queries", "keys", "values"])
def test_last_in_of_two_is_the_pair_without_the_other(tiny, task_of, agree, kind):
    """Sites of two key/value heads: F_u = v(both) − v(the other one), which is an exact effect."""
    lm, task = tiny("llama", num_attention_heads=2, num_key_value_heads=2), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=kind, show_progress=False)
    last = last_in(lm, task, units=kind, show_progress=False).values.unflatten(1, (3, 2))
    first = scores.values.unflatten(1, (3, 2))
    agree(last[..., 0] + first[..., 1], last[..., 1] + first[..., 0], scores.gap)
    assert (last - first).abs().max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["heads", "neurons", "mlps", "attention", "residual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_direct(tiny, task_of, reference, agree, family, kind, options):
    """The unit patched while every later attention layer and MLP is held."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = direct(lm, task, units=some(lm, kind), show_progress=False, **options)
    agree(scores.values, reference(naive_coalitions.direct, lm, task, scores.units, **options), scores.gap)
    assert scores.method == "direct"


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_direct_of_parts_of_the_attention(tiny, task_of, agree, family):
    """All queries, keys and values of one-head layers: their direct effect is that of z computed from them."""
    lm, task = tiny(family, num_attention_heads=1, num_key_value_heads=1), task_of((6, 8), n=2)
    for kind in ("queries", "keys", "values"):
        scores = direct(lm, task, units=kind, show_progress=False)
        last = vc.exact(lm, task, units=kind, show_progress=False)
        layer = lm.layers - 1
        if lm.decoder.blocks[layer].parallel:  # nothing comes after the last block's attention
            agree(scores.values[:, layer], last.values[:, layer], scores.gap)
        assert scores.values.isfinite().all()


def test_direct_per_position(tiny, task_of, reference, agree):
    lm, task = tiny("gemma3"), task_of(6, n=2)
    units = all_units(lm, "heads", 6)[np.arange(0, 72, 5)]
    scores = direct(lm, task, units=units, show_progress=False)
    agree(scores.values, reference(naive_coalitions.direct, lm, task, units), scores.gap)


def test_the_last_units_have_direct_effects_only(tiny, task_of, agree):
    """Nothing comes after the last MLP."""
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=["m2"], show_progress=False)
    agree(direct(lm, task, units=["m2"], show_progress=False).values, scores.values, scores.gap)


def test_costs_and_pieces(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    last = last_in(lm, task, units="heads", out=tmp_path, show_progress=False)
    assert last_in.work(lm, task).tokens() == last.cost.token_layers
    for ablation in ("counterfactual", "zero"):
        cost = direct(lm, task, ablation=ablation, show_progress=False).cost
        assert direct.work(lm, task, ablation=ablation).tokens() == cost.token_layers
    again = last_in(lm, task, units="heads", out=tmp_path, show_progress=False)
    torch.testing.assert_close(again.values, last.values, rtol=0, atol=0)
    assert again.cost.token_layers == last.cost.token_layers


@pytest.mark.parametrize("units", ["edges", "heads@positions"])
def test_refused(tiny, task_of, units):
    with pytest.raises(MethodError, match="Last-in"):
        last_in(tiny("llama"), task_of(6), units=units)
    if units == "edges":
        with pytest.raises(MethodError, match="u->logits"):
            direct(tiny("llama"), task_of(6), units=units)


@pytest.mark.parametrize("function", [last_in, direct])
def test_optimal_constants_are_refused(tiny, task_of, function):
    with pytest.raises(MethodError, match="optimal"):
        function(tiny("llama"), task_of(6), ablation="optimal")
