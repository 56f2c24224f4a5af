"""Hugging Face's own modules in float64 and in half types: what precision they compute in, and that all works there."""

import copy

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.engine.guard import attention_function, compared_in, precision_of
from veracausa.engine.validate import rounding

#: Families that compute in float64 throughout when their weights are float64 and the attention is sdpa.
THROUGHOUT = {"gpt2", "gpt_neox", "gpt_neox-sequential"}


def plain(family, **over):
    """A float64 model as a user has it: transformers' own norms and attention."""
    return tiny_models.make(family, seed=1, dtype=torch.float32, **over).double()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_which_parts_compute_in_float32(family, attention):
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("sdpa has no soft caps")
    hf = plain(family, attn_implementation=attention)
    norms, softmax = family not in THROUGHOUT, attention == "eager" and family != "gpt2"
    expected = [name for name, so in (("norms", norms), ("attention", softmax)) if so]
    found = precision_of(as_model(hf, family).decoder)
    assert sorted(found.parts) == sorted(expected)
    assert found.dtype == (torch.float32 if expected else torch.float64)
    assert precision_of(as_model(tiny_models.compute_in_float64(hf), family).decoder).parts == ()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, fast=("llama", "gpt_neox", "gemma3")))
def test_float64_works_and_says_its_precision(task_of, agree, family, attention):
    """Against the same weights computed in float64 throughout: 1e-4 of the gap, what float32 is held to."""
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("sdpa has no soft caps")
    hf, task = plain(family, attn_implementation=attention), task_of(6, seed=7)  # no family has a small gap
    lm, exactly = as_model(hf, family), as_model(tiny_models.compute_in_float64(copy.deepcopy(hf)), family)
    note = precision_of(lm.decoder).notes
    assert bool(note) == (family not in THROUGHOUT or (attention == "eager" and family != "gpt2"))
    for call in (
        lambda lm: vc.exact(lm, task, show_progress=False),
        lambda lm: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
    ):
        ours, theirs = call(lm), call(exactly)
        agree(ours.values, theirs.values, theirs.gap, 1e-4)
        assert ours.notes[len(ours.notes) - len(note) :] == note and not any("float32" in one for one in theirs.notes)
    circuit = vc.select(ours, n=60, how="abs")
    found = vc.faithfulness(lm, task, circuit, show_progress=False)
    own = vc.Circuit.from_names(exactly, circuit.names)
    agree(found.metric, vc.faithfulness(exactly, task, own, show_progress=False).metric, theirs.gap, 1e-4)
    assert found.notes[len(found.notes) - len(note) :] == note


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "attention"), [("llama", "sdpa"), ("gemma2", "eager"), ("gpt_neox", "sdpa")])
def test_the_contracts_are_held_to_the_precision(family, attention):
    """Only where all computes in float64 is float64's tolerance asked for; contract 8 runs eager attention, too."""
    outcomes = as_model(plain(family, attn_implementation=attention), family).check()
    usual = 1e-9 if family in THROUGHOUT else 1e-4
    assert all(one.ok for one in outcomes)
    assert {one.tolerance for one in outcomes if one.number not in (1, 6, 8, 10, 14)} == {usual}


def mild(family, dtype):
    """The same milder weights in a half type and in float32."""
    hf = tiny_models.make(family, seed=1, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if not any(part in name for part in ("norm", "ln_", "embed", "wte", "wpe")):
                weight *= 0.5
            weight.copy_(weight.to(dtype))
    return as_model(copy.deepcopy(hf).to(dtype), family), as_model(hf, family)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, fast=("llama", "gpt2", "gemma3")))
def test_half_types_work(task_of, family, dtype):
    """Nothing is refused, and effects are the float32 model's but for rounding.

    Two runs' logits are subtracted, and each may be off by what the guards allow them; wrong wiring shows in r.
    """
    (lm, wide), task = mild(family, dtype), task_of(6, n=2)
    for call in (
        lambda lm: vc.exact(lm, task, show_progress=False),
        lambda lm: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
    ):
        ours, theirs = call(lm), call(wide)
        logits = wide.hf(torch.tensor(task.clean)).logits.detach().abs().max()
        assert (ours.values - theirs.values).abs().max() < 2 * rounding(dtype, float(logits))
        assert torch.corrcoef(torch.stack([ours.values.flatten(), theirs.values.flatten()]))[0, 1] > 0.98
    vc.faithfulness(lm, task, vc.select(ours, n=60, how="abs"), show_progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_contracts_hold_in_half_types(family, dtype):
    assert all(one.ok for one in mild(family, dtype)[0].check())


def test_runs_of_another_attention_function_are_compared_in_the_coarser_of_both_precisions(task_of):
    """Eager attention of a float64 model has its softmax in float32, sdpa has not; the bare run is the user's own."""
    lm = as_model(plain("gpt_neox", attn_implementation="eager"), "gpt_neox")
    with attention_function(lm.decoder, "sdpa"):
        assert precision_of(lm.decoder).dtype == torch.float64 and compared_in(lm.decoder) == torch.float32
        other = vc.exact(lm, task_of(9, 2), show_progress=False).values
    own = vc.exact(lm, task_of(9, 2), show_progress=False).values
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5)  # float32's rounding of one softmax
    assert compared_in(lm.decoder) == torch.float32
