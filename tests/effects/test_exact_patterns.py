"""Exact effects of attention patterns, rows and cells against Hugging Face's eager attention with its weights replaced.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT), as for every other exact effect.
"""

import naive_patterns
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric

import veracausa as vc
from veracausa.units.resolve import resolve_units

FAMILIES = tiny_models.FAMILIES
QUIET = {"show_progress": False}


def some(lm, units, longest, every):
    """One unit in so many, which meets all heads and positions."""
    table = resolve_units(lm, units, longest)
    return table[np.arange(0, len(table), every)]


def naive_effects(lm, task, units, direction="noising", **options):
    """The reference's numbers [examples, units]."""
    found = []
    for i in range(len(task)):
        own, other = (task.clean[i], task.corrupted[i])[:: 1 if direction == "noising" else -1]
        found.append(naive_patterns.exact(lm.hf, own, other, naive_metric(lm, task, i), units, **options))
    return torch.stack(found)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_whole_patterns(tiny, task_of, agree, family, direction):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units="patterns", direction=direction, **QUIET)
    theirs = naive_effects(lm, task, scores.units, direction)
    agree(scores.values, theirs, scores.gap)
    assert len(scores) == lm.layers * lm.heads and theirs.abs().max() > 1e-3  # otherwise anything agrees


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("units", "every"), [("patterns@positions", 7), ("patterns@cells", 29)])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_rows_and_cells(tiny, task_of, agree, family, units, every, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = vc.exact(lm, task, units=some(lm, units, 6, every), direction=direction, **QUIET)
    agree(scores.values, naive_effects(lm, task, scores.units, direction), scores.gap)
    query = scores.units.position
    for i, first in enumerate(task.first_difference):
        assert (scores.values[i, query < first] == 0).all()  # exactly: nothing before it can change
        assert scores.values[i, query >= task.lengths[i]].isnan().all()


@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells"])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_other_replacements(tiny, task_of, agree, family, ablation, units):
    lm, task = tiny(family), task_of(6, n=2)
    scores = vc.exact(lm, task, units=some(lm, units, 6, 1 if units == "patterns" else 17), ablation=ablation, **QUIET)
    prompts = [*task.clean, *task.corrupted]
    agree(scores.values, naive_effects(lm, task, scores.units, ablation=ablation, reference=prompts), scores.gap)


def test_resample_takes_one_prompt_for_a_unit(tiny, task_of, agree):
    """The number is that of one of the other prompts of that length, the same for a row alone and in a table."""
    lm, task = tiny("llama"), task_of(6, n=3)
    scores = vc.exact(lm, task, units="patterns", ablation="resample", seed=5, **QUIET)
    prompts = [*task.clean, *task.corrupted]
    for i in range(len(task)):
        metric, own = naive_metric(lm, task, i), task.clean[i]
        donors = [one for one in prompts if one not in (own, task.corrupted[i])]
        each = torch.stack([naive_patterns.exact(lm.hf, own, one, metric, scores.units) for one in donors])
        assert ((each - scores.values[i]).abs().amin(0) < 1e-9).all()
    alone = vc.exact(lm, task, units=["a1.h2<pattern>"], ablation="resample", seed=5, **QUIET)
    agree(alone.values[:, 0], scores.values[:, scores.units.find("a1.h2<pattern>")], scores.gap)
    cell = vc.exact(lm, task, units=["a1.h2<pattern>@4,3", "a1.h2<pattern>@5,5"], ablation="resample", **QUIET)
    assert cell.values.isfinite().all()


@pytest.mark.cases(1)
@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells"])
def test_rows_and_prefix_change_nothing(tiny, task_of, agree, units):
    lm, task = tiny("mistral"), task_of((6, 7), n=4)
    table = some(lm, units, 7, 1 if units == "patterns" else 13)
    scores = vc.exact(lm, task, units=table, **QUIET)
    for way in ({"rows": 1}, {"rows": 5}, {"share_prefix": False}, {"rows": 5, "share_prefix": False}):
        agree(vc.exact(lm, task, units=table, **way, **QUIET).values, scores.values, scores.gap)
