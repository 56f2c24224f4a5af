"""Runs with expanded parts: both ends against exact effects and attribution patching, one kind at a time naively.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT); the naive tangents are central differences, 1e-6.
"""

import naive
import pytest
import tiny_models
import torch
from accounts import account
from bridges import naive_metric, naive_units

import veracausa as vc
from veracausa.engine.expansion import kinds_of
from veracausa.units.resolve import resolve_units

UNITS = [["a0.h1", "a1.h2", "a2.h3"], ["m0", "m2"], ["m0.n3", "m1.n5"], ["r0", "r2", "r3"], ["a0", "a2"]]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("names", "metric"), [(names, "logprob" if i % 2 else "logit_diff") for i, names in enumerate(UNITS)], ids=str
)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, ("llama", "gpt_neox", "gemma2")))
def test_both_ends_and_the_sum_of_increments(tiny, task_of, agree, family, names, metric):
    lm, task = tiny(family), task_of(7, metric=metric)
    kinds, found = account(lm, task, names)
    assert ("metric" in kinds) == (metric != "logit_diff" or family == "gemma2")
    exact = vc.exact(lm, task, units=names, show_progress=False)
    atp = vc.attribute(lm, task, units=names, show_progress=False)
    agree(found.runs[-1], exact.values[0], exact.gap)
    agree(found.runs[0], atp.values[0], exact.gap)
    agree(found.sublayers.sum(0), (exact.values - atp.values)[0], exact.gap)
    if lm.decoder.blocks[0].attention_post_norm is None:
        agree(found.heads.sum(1), found.sublayers[1:-1:2], exact.gap)


def naive_expanded(lm, task, unit, kinds):
    """M of a patched run whose norms or MLPs (whole modules, by central differences) are tangents at the clean run."""
    parts = {"norm": lm.decoder.norms, "MLP": [block.mlp for block in lm.decoder.blocks]}
    modules = [module for kind in kinds for module in parts[kind]]
    inputs, step = {}, 1e-5

    def keep(module, args):
        inputs[module] = args[0].detach()

    def tangent(module, args, output):
        x0, move = inputs[module], args[0] - inputs[module]
        ahead, behind = (module.forward(x0 + side * step * move) for side in (1, -1))
        return module.forward(x0) + (ahead - behind) / (2 * step)

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    with torch.no_grad():
        lm.hf(torch.tensor([task.clean[0]]))
        for handle in handles:
            handle.remove()
        other = naive.activations(lm.hf, lm.name, task.corrupted[0])
        kind, layer, index, _ = unit
        site = other[naive.SITE_OF[kind]][layer]
        value = site[:, naive.where(lm.hf, kind, index, None, site.shape[1])[1]]
        handles = [module.register_forward_hook(tangent) for module in modules]
        try:
            logits = naive.run_patched(lm.hf, lm.name, task.clean[0], [(*unit, value)])[-1]
        finally:
            for handle in handles:
                handle.remove()
    return naive_metric(lm, task, 0)(logits)


@pytest.mark.parametrize("kinds", [("norm",), ("MLP",), ("norm", "MLP")], ids="+".join)
@pytest.mark.parametrize("name", ["a0.h1", "m0"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, ("llama", "gpt_neox", "gemma3")))
def test_kinds_naively(tiny, task_of, agree, family, name, kinds):
    lm, task = tiny(family), task_of(7)
    have, found = account(lm, task, [name])
    choice = sum(1 << bit for bit, kind in enumerate(have) if kind not in kinds)
    measured = lm.measure(task)
    (unit,) = naive_units(resolve_units(lm, [name], 7))
    theirs = naive_expanded(lm, task, unit, kinds) - measured.clean[0]
    agree(found.runs[choice, 0], theirs, measured.gap, 1e-6)


def test_kinds_of_a_metric(tiny):
    assert kinds_of(tiny("llama").decoder, "logit_diff") == ("softmax", "norm", "MLP")
    assert "metric" in kinds_of(tiny("llama").decoder, "prob")
    assert "metric" in kinds_of(tiny("gemma2").decoder, "logit_diff"), "its logits have a soft cap"
