"""M(α) against the naive curve, at its known ends, and for α outside [0, 1]."""

import naive
import numpy as np
import pytest
import torch
from bridges import naive_metric, naive_units

import veracausa as vc


@pytest.mark.parametrize("options", [{}, {"direction": "denoising"}, {"ablation": "zero"}], ids=str)
@pytest.mark.parametrize("names", [["a0.h1", "a2.h3"], ["m1"], ["m0.n3", "m1.n5"], ["r1"], ["a1.h0@4"]], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_curves(tiny, task_of, agree, family, names, options):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    alphas = [-0.5, 0.0, 0.25, 1.0, 1.5]
    ours = vc.curves(lm, task, units=names, alphas=alphas, show_progress=False, **options)
    assert ours.shape == (2, len(names), 5)
    scores = vc.exact(lm, task, units=names, show_progress=False, **options)
    agree(ours[..., 3], scores.values, scores.gap)
    agree(ours[..., 1], torch.zeros_like(scores.values), scores.gap)
    for i in range(2):
        for u, unit in enumerate(naive_units(scores.units)):
            theirs = naive.alpha_curve(
                lm.hf, family, task.clean[i], task.corrupted[i], naive_metric(lm, task, i), unit, alphas, **options
            )
            agree(ours[i, u], theirs - theirs[1], scores.gap)


def test_alphas_of_any_kind(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    one = vc.curves(lm, task, units=["a1.h1"], alphas=np.linspace(0, 1, 3), show_progress=False)
    two = vc.curves(lm, task, units=["a1.h1"], alphas=(0, 0.5, 1), show_progress=False)
    assert torch.equal(one, two)


@pytest.mark.parametrize("names", [["a1.h1", "a0.h0", "a1.h2"], ["m0.n3", "m1.n5"], ["m1"]], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_whole_sites(tiny, task_of, agree, family, names):
    """All units of a layer moved by naive hooks; far beyond [0, 1], too."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    alphas = [-2.0, 0.0, 1.0, 3.0]
    ours = vc.curves(lm, task, units=names, alphas=alphas, path="site", show_progress=False)
    gap = lm.measure(task).gap
    table = naive_units(vc.exact(lm, task, units=names, show_progress=False).units)
    for i in range(2):
        for u, (kind, layer, _, _) in enumerate(table):
            theirs = naive.alpha_curve(
                lm.hf, family, task.clean[i], task.corrupted[i], naive_metric(lm, task, i), (kind, layer, None, None),
                alphas,
            )  # fmt: skip
            agree(ours[i, u], theirs - theirs[1], gap)


def test_paths_that_there_are_not(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    with pytest.raises(vc.errors.MethodError, match="unit, site"):
        vc.curves(lm, task, units=["a1.h1"], alphas=[1], path="layer", show_progress=False)
    with pytest.raises(vc.errors.MethodError, match="no site"):
        vc.curves(lm, task, units=["a1.h1@4"], alphas=[1], path="site", show_progress=False)
