"""Steering curves are exact effects of every scale."""

from dataclasses import replace

import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError, UnitError

QUIET = {"show_progress": False}


def vectors(lm):
    made = torch.Generator().manual_seed(0)
    return {name: torch.randn(lm.width, generator=made, dtype=torch.float64) for name in ("r1", "r2")}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_every_scale_is_an_exact_effect(tiny, task_of, family):
    lm, task = tiny(family), replace(task_of((6, 7), n=2), corrupted=(), paired=False)
    given = vectors(lm)
    found = vc.effects.steering(lm, task, given, units=["r1@3", "r2@6"], scales=(2, -1, 2), **QUIET)
    assert found.scales.tolist() == [-1, 0, 2]
    for s, scale in enumerate((-1.0, 0.0, 2.0)):
        added = vc.effects.Added(given, scale=scale)
        one = vc.exact(lm, task, units=["r1@3", "r2@6"], ablation=added, **QUIET)
        torch.testing.assert_close(found.effects[s], one.values, rtol=0, atol=1e-12, equal_nan=True)
    assert found.table()["n"].tolist() == [2] * 6 and found.effects[2].isnan().any()


def test_forecast_and_pieces(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=2)
    how = {"scales": (1, 3), "vectors": vectors(lm)}
    found = vc.effects.steering(lm, task, **how, out=tmp_path, **QUIET)
    price = vc.forecast(vc.effects.steering, lm, task, **how, measure=False)
    assert price.token_layers == found.cost.token_layers
    again = vc.effects.steering(lm, task, **how, out=tmp_path, **QUIET)
    assert torch.equal(again.effects, found.effects) and again.cost.token_layers == found.cost.token_layers


def test_what_means_nothing(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    for scales in ((0,), (), (float("inf"),)):
        with pytest.raises(MethodError, match="scales"):
            vc.effects.steering(lm, task, vectors(lm), scales=scales, **QUIET)
    with pytest.raises(UnitError, match="r0"):
        vc.effects.steering(lm, task, vectors(lm), units=["r0"], **QUIET)
