"""On the real model: accuracy is that of Hugging Face's own `generate`, the metric that of `vc.exact`."""

import naive_generation
import pytest
import torch

import veracausa as vc

#: float32: rounding moves logits by 1e-5; the gap is about 10.
ROUNDING = 1e-4


def test_without_ablation_answers_are_those_of_generate(smollm2):
    task = vc.tasks.ioi(smollm2, n=5, seed=4)
    study = vc.behaviour.ablation_study(smollm2, task, units=["a29.h1"], ablations=["zero"], show_progress=False)
    ids = [torch.tensor([prompt]) for prompt in task.clean]
    with torch.no_grad():
        wanted = [
            smollm2.hf.generate(one, attention_mask=torch.ones_like(one), max_new_tokens=1, do_sample=False)[0, -1]
            for one in ids
        ]
    assert study.tokens[0, :, 0].tolist() == [int(token) for token in wanted]
    right = [int(token) in correct for token, correct in zip(wanted, task.correct, strict=True)]
    assert study.unablated.right == sum(right)


@pytest.mark.slow
def test_units_of_several_layers_and_generated_tokens(smollm2):
    task = vc.tasks.ioi(smollm2, n=2, seed=1)
    units = {"a20.h0": ("heads", 20, 0), "m3": ("mlps", 3, None)}
    study = vc.behaviour.ablation_study(
        smollm2, task, units=list(units), ablations=["zero"], new_tokens=3, show_progress=False
    )
    exact = vc.exact(smollm2, task, units=["a20.h0"], ablation="zero", show_progress=False)
    assert study["a20.h0", "zero"].change == pytest.approx(float(exact.mean()[0]), abs=ROUNDING)
    for c, condition in enumerate(study.conditions):
        for i, prompt in enumerate(task.clean):
            edits = [(*units[name], torch.zeros(len(prompt), 1)) for name in condition.units]
            wanted = naive_generation.generate(smollm2.hf, "llama", prompt, edits, 3)
            assert [token for token in study.tokens[c, i].tolist() if token >= 0] == wanted
