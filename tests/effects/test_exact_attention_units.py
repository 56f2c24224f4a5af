"""Exact effects of queries, keys and values against attention that is told to change them (helpers/naive_attention.py).

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT), as for every other exact effect.
"""

import naive_attention
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric

import veracausa as vc
from veracausa.errors import UnitError
from veracausa.units.every_unit import all_units

KINDS = naive_attention.KINDS
FAMILIES = tiny_models.FAMILIES
FEW = ("llama", "gpt_neox", "gemma2")


def exact(lm, task, units, **options):
    return vc.exact(lm, task, units=units, show_progress=False, **options)


def some(lm, kind, positions=0):
    """One or two heads a layer; per position one unit in seven, which meets every position."""
    units = all_units(lm, kind, positions)
    return units[np.arange(0, len(units), 7 if positions else 3 if kind == "queries" else 1)]


def naive_effects(lm, task, units, direction="noising", **options):
    """The reference's numbers [examples, units]."""
    found = []
    for i in range(len(task)):
        own, other = (task.clean[i], task.corrupted[i])[:: 1 if direction == "noising" else -1]
        metric = naive_metric(lm, task, i)
        found.append(naive_attention.exact(lm.hf, lm.name, own, other, metric, units, **options))
    return torch.stack(found)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_counterfactual(tiny, task_of, agree, family, kind, direction):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = exact(lm, task, some(lm, kind), direction=direction)
    theirs = naive_effects(lm, task, scores.units, direction)
    agree(scores.values, theirs, scores.gap)
    assert theirs.abs().max() > 1e-3  # otherwise anything agrees


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_zero(tiny, task_of, agree, family, kind):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = exact(lm, task, some(lm, kind), ablation="zero")
    agree(scores.values, naive_effects(lm, task, scores.units, ablation="zero"), scores.gap)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_mean(tiny, task_of, agree, family, kind, aligned):
    """Position by position where all prompts have one length, else over all positions of all prompts."""
    lm, task = tiny(family), task_of(7 if aligned else (6, 8), n=2)
    scores = exact(lm, task, some(lm, kind), ablation="mean")
    prompts = [*task.clean, *task.corrupted]
    agree(scores.values, naive_effects(lm, task, scores.units, ablation="mean", reference=prompts), scores.gap)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_per_position(tiny, task_of, agree, family, kind, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = exact(lm, task, some(lm, kind, 6), direction=direction)
    agree(scores.values, naive_effects(lm, task, scores.units, direction), scores.gap)
    position = scores.units.position
    assert set(position.tolist()) == set(range(6))
    for i, first in enumerate(task.first_difference):
        assert (scores.values[i, position < first] == 0).all()  # exactly: nothing before it can change
        assert scores.values[i, position >= task.lengths[i]].isnan().all()


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FEW)
def test_per_position_otherwise(tiny, task_of, agree, family, kind, ablation):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = exact(lm, task, some(lm, kind, 6), ablation=ablation)
    theirs = naive_effects(lm, task, scores.units, ablation=ablation, reference=[*task.clean, *task.corrupted])
    agree(scores.values, theirs, scores.gap)


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_prefix_change_nothing(tiny, task_of, agree, kind):
    lm, task = tiny("mistral"), task_of((6, 7), n=3)
    for units in (kind, f"{kind}@positions"):
        scores = exact(lm, task, units)
        for way in ({"rows": 1}, {"rows": 5, "share_prefix": False}):
            agree(exact(lm, task, units, **way).values, scores.values, scores.gap)


def test_by_name(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    for name, kind in (("a1.h2<q>", "queries"), ("a1.kv0<k>", "keys"), ("a1.kv1<v>", "values")):
        alone, every = exact(lm, task, [name]), exact(lm, task, kind)
        assert alone.units.kind == kind
        assert float(alone.values) == pytest.approx(float(every.values[0, every.units.find(name)]), abs=1e-12)
        at = exact(lm, task, [f"{name}@5"])
        assert at.units.position.tolist() == [5] and at.units.names == [f"{name}@5"]
    for name, size in (("a1.kv2<k>", "2 keys"), ("a1.kv2<v>", "2 values"), ("a1.h4<q>", "4 queries")):
        with pytest.raises(UnitError, match=size):  # heads are counted by kind: two K/V heads, four query heads
            exact(lm, task, [name])


@pytest.mark.parametrize("kind", ["keys", "values"])
def test_a_key_or_value_changes_all_query_heads_of_its_group(task_of, kind):
    """With the group's head outputs cut off the effect is nothing; with those of one head cut off it is not."""
    task, name = task_of(6), {"keys": "a1.kv1<k>", "values": "a1.kv1<v>"}[kind]

    def effect(cut):
        hf = tiny_models.make("llama", seed=1)
        for head in cut:
            hf.model.layers[1].self_attn.o_proj.weight.data[:, 8 * head : 8 * head + 8] = 0
        return float(exact(as_model(hf, "llama"), task, [name]).values)

    whole, without = effect([]), {head: effect([head]) for head in range(4)}
    assert abs(effect([2, 3])) < 1e-12
    assert abs(without[2]) > 1e-3 and abs(without[3]) > 1e-3
    assert len({round(e, 6) for e in (whole, without[2], without[3])}) == 3
    assert abs(effect([0, 1])) > 1e-3  # the other group's
