"""Coalitions of a site against naive runs with several patches, and against single units, for every family.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT), as for single units.
"""

import numpy as np
import pytest
import tiny_models
import torch
from naive_coalitions import coalition_runs

import veracausa as vc
from veracausa.effects.coalitions import coalition_work
from veracausa.errors import UnitError
from veracausa.units.coalitions import Coalitions
from veracausa.units.every_unit import all_units
from veracausa.units.table import per_layer

FEW = ("llama", "gpt_neox", "gemma2")
ASKED = {"ablation": "counterfactual", "direction": "noising", "reference": None, "seed": 0}


def effects(lm, task, kind, layers, weights, **options):
    table = Coalitions.of(kind, np.asarray(layers), np.asarray(weights))
    return coalition_work(lm, task, table, **ASKED | options).run(show_progress=False).values


def some_weights(lm, kind, rng):
    """The whole site, a half of it, and weights outside of [0, 1], in three layers."""
    parts = max(1, per_layer(lm, kind))
    return np.stack([np.ones(parts), np.arange(parts) % 2, rng.uniform(-1, 2, parts)])


@pytest.mark.parametrize("options", [{}, {"direction": "denoising"}, {"ablation": "zero"}], ids=str)
@pytest.mark.parametrize("kind", ["heads", "neurons", "mlps", "attention", "residual"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_against_whole_model_runs(tiny, task_of, agree, family, kind, options):
    lm, task = tiny(family), task_of((6, 8), n=2)
    layers, weights = [0, 1, 2], some_weights(lm, kind, np.random.default_rng(0))
    ours = effects(lm, task, kind, layers, weights, **options)
    agree(ours, coalition_runs(lm, task, kind, layers, weights, **options), lm.measure(task).gap)


@pytest.mark.parametrize("kind", ["heads", "neurons", "queries", "keys", "values", "mlps"])
@pytest.mark.parametrize("family", FEW)
def test_one_part_is_the_unit(tiny, task_of, agree, family, kind):
    lm, task = tiny(family), task_of((6, 8), n=2)
    units = all_units(lm, kind)
    units = units[np.arange(0, len(units), 31 if kind == "neurons" else 1)]
    weights = units.shares(np.arange(len(units)), max(1, per_layer(lm, kind)))
    scores = vc.exact(lm, task, units=units, show_progress=False)
    agree(effects(lm, task, kind, units.layer, weights), scores.values, scores.gap)


def test_all_heads_are_the_attention_layer_and_none_is_nothing(tiny, task_of, agree):
    lm, task = tiny("gemma3"), task_of(6, n=2)
    weights = np.repeat([[1.0], [0.0]], lm.heads, axis=1)
    whole, nothing = effects(lm, task, "heads", [1, 1], weights).T
    scores = vc.exact(lm, task, units=["a1"], show_progress=False)
    agree(whole, scores.values[:, 0], scores.gap)
    agree(nothing, torch.zeros(2), scores.gap)


def test_only_what_is_asked_is_run(tiny, task_of, agree, tmp_path):
    """Effects that are not asked for are NaN and cost nothing; the others do not change; pieces are found again."""
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    rng = np.random.default_rng(1)
    layers, weights = np.arange(12) % 3, rng.integers(0, 2, (12, lm.heads)).astype(bool)
    asked = rng.integers(0, 2, (4, 12)).astype(bool)
    every = coalition_work(lm, task, Coalitions.of("heads", layers, weights), **ASKED).run(show_progress=False)
    work = coalition_work(lm, task, Coalitions.of("heads", layers, weights, asked), **ASKED)
    some = work.run(show_progress=False, out=tmp_path)
    assert work.tokens() == some.cost.token_layers
    assert (some.values.isnan().numpy() == ~asked).all()
    agree(some.values[torch.as_tensor(asked)], every.values[torch.as_tensor(asked)], every.gap)
    assert some.cost.token_layers < every.cost.token_layers
    again = work.run(show_progress=False, out=tmp_path)
    torch.testing.assert_close(again.values, some.values, rtol=0, atol=0, equal_nan=True)
    assert again.cost.token_layers == some.cost.token_layers


def test_resampled_parts_of_a_site_share_a_donor(tiny, task_of, agree):
    """The same donor for every coalition of a layer: with all parts, what resampling the attention layer gives."""
    lm, task = tiny("llama"), task_of(6, n=4)
    ours = effects(lm, task, "heads", [0, 1, 2], np.ones((3, lm.heads)), ablation="resample", seed=3)
    scores = vc.exact(lm, task, units="attention", ablation="resample", seed=3, show_progress=False)
    agree(ours, scores.values, scores.gap)


def test_wrong_sizes(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    with pytest.raises(UnitError, match="2 × 3") as caught:
        effects(lm, task, "heads", [0, 1], np.ones((2, 3)))
    assert "4 of them" in str(caught.value)
    with pytest.raises(UnitError, match="edges"):
        effects(lm, task, "edges", [0], np.ones((1, 4)))
    with pytest.raises(UnitError, match="9"):
        effects(lm, task, "heads", [9], np.ones((1, 4)))
