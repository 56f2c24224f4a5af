"""An MLP that all tokens go through beside experts: together they are the block's MLP, as hooks on both show."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc

#: Family → what adds up in a block. (Of Gemma 4 these are the norms behind both, whose parts are not told.)
PARTS = {
    "granitemoeshared": ("block_sparse_moe", "shared_mlp"),
    "granitemoehybrid-experts": ("block_sparse_moe", "shared_mlp"),
    "gemma4-experts": ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2"),
}


def model(family):
    return as_model(tiny_models.make(family, seed=3), family)


def metric(lm, task, tokens, edits=()):
    handles = [module.register_forward_hook(lambda _, __, output, edit=edit: edit(output)) for module, edit in edits]
    with torch.no_grad():
        logits = lm.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return float(logits[task.correct[0][0]] - logits[task.incorrect[0][0]])


def outputs(lm, task, tokens, *modules):
    kept = {}
    metric(lm, task, tokens, [(m, lambda x, m=m: (kept.__setitem__(m, x), x)[1]) for m in modules])
    return [kept[m] for m in modules]


@pytest.mark.parametrize("family", PARTS)
def test_effects_are_those_of_hooks_on_both(family, task_of):
    """The whole MLP, the experts' part of it and that of the other; their changes add up to the MLP's."""
    lm, task = model(family), task_of(9)
    for layer, block in enumerate(lm.hf.model.layers):
        parts = [getattr(block, name) for name in PARTS[family]]
        other = outputs(lm, task, task.corrupted[0], *parts)
        own = outputs(lm, task, task.clean[0], *parts)
        before = metric(lm, task, task.clean[0])
        whole = vc.exact(lm, task, units=[f"m{layer}"], show_progress=False).values[0, 0]
        slope = vc.attribute(lm, task, units=[f"m{layer}"], method="atp", show_progress=False).values[0, 0]
        held = [(module, lambda _, new=new: new) for module, new in zip(parts, other, strict=True)]
        assert float(whole) == pytest.approx(metric(lm, task, task.clean[0], held) - before, abs=1e-10)
        if "shared" not in lm.decoder.lacks:
            shared = vc.exact(lm, task, units=[f"m{layer}.shared"], show_progress=False).values[0, 0]
            assert float(shared) == pytest.approx(metric(lm, task, task.clean[0], held[1:]) - before, abs=1e-10)
        leaf = own[0].clone().requires_grad_()
        handle = parts[0].register_forward_hook(lambda *_, leaf=leaf: leaf.clone())
        logits = lm.hf(input_ids=torch.tensor([task.clean[0]]), use_cache=False).logits[0, -1]
        handle.remove()
        (logits[task.correct[0][0]] - logits[task.incorrect[0][0]]).backward()
        moved = sum(other) - sum(own)
        assert float(slope) == pytest.approx(float((moved * leaf.grad).sum()), abs=1e-10)


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "more"), [("granitemoeshared", [4, 13, 15]), ("gemma4-experts", [4, 13])])
@pytest.mark.slow
def test_contracts_hold_and_no_hook_stays(family, more):
    lm = model(family)
    assert [one.number for one in lm.check()] == sorted([1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 14, *more])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.hf.modules())
