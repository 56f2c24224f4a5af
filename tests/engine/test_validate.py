"""What the engine cannot carry through is an error, what is a constant part of the model is not."""

import naive
import pytest
import tiny_models
import torch
from bridges import as_model
from transformers import AutoModelForCausalLM, LlamaConfig

import veracausa as vc
from veracausa.engine.validate import rounding
from veracausa.errors import ContractError

CALLS = {
    "exact": lambda lm, task, units: vc.exact(lm, task, units=units, show_progress=False),
    "atp": lambda lm, task, units: vc.attribute(lm, task, units=units, show_progress=False),
}


def adapt(linear: torch.nn.Linear) -> None:
    """A low-rank update beside the weight, as an unmerged adapter has it."""
    generator = torch.Generator().manual_seed(0)
    down, up = (0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
                for shape in ((linear.in_features, 2), (2, linear.out_features)))  # fmt: skip
    linear.register_forward_hook(lambda module, args, output: output + args[0] @ down @ up)


@pytest.mark.parametrize(
    ("units", "part"),
    [("heads", "model.layers.1.self_attn.o_proj"), ("neurons", "model.layers.2.mlp.down_proj")],
)
def test_an_unmerged_adapter_behind_the_units_is_part_of_the_model(task_of, reference, agree, units, part):
    """The reference runs the model with its adapter; the engine reads the map off the module as it runs."""
    hf, task = tiny_models.make("llama", seed=1), task_of(6)
    adapt(hf.get_submodule(part))
    lm = as_model(hf, "llama")
    scores = vc.exact(lm, task, units=units, show_progress=False)
    agree(scores.values, reference(naive.exact, lm, task, scores.units), scores.gap)


def test_an_adapter_elsewhere_is_part_of_the_model(task_of, reference, agree):
    hf, task = tiny_models.make("llama", seed=1), task_of(6)
    adapt(hf.model.layers[1].self_attn.q_proj)
    lm = as_model(hf, "llama")
    scores = vc.exact(lm, task, show_progress=False)
    agree(scores.values, reference(naive.exact, lm, task, scores.units), scores.gap)


def test_a_logit_scale_in_a_hook_is_part_of_the_model(task_of, reference, agree):
    hf, task = tiny_models.make("llama", seed=1), task_of(6)
    plain = vc.exact(as_model(hf, "llama"), task, show_progress=False)
    hf.lm_head.register_forward_hook(lambda module, args, output: output / 3)
    for call in ("exact", "atp"):
        CALLS[call](as_model(hf, "llama"), task, "heads")
    scores = vc.exact(as_model(hf, "llama"), task, show_progress=False)
    agree(scores.values, plain.values / 3, scores.gap)


def test_a_logit_scale_of_the_models_own_is_refused(task_of):
    hf = tiny_models.make("llama", seed=1)
    forward = hf.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits / 3
        return output

    hf.forward = scaled
    for call in ("exact", "atp"):
        with pytest.raises(ContractError, match="logits that veracausa reads off llama differ"):
            CALLS[call](as_model(hf, "llama"), task_of(6), "heads")


@pytest.mark.parametrize("blocks", [4, 32, 96])
def test_what_rounding_may_do_grows_with_depth_in_half_precision(blocks):
    """A bfloat16 model against the same weights in float32: all of its rounding, which is a random walk."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.125,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    ids = torch.randint(512, (4, 12))
    with torch.no_grad():
        half, full = hf(ids).logits.float(), hf.float()(ids).logits
    off, scale = float((half - full).abs().max()), 1 + float(full.abs().max())
    assert off <= rounding(torch.bfloat16, scale, blocks)
    if blocks == 96:
        assert off > rounding(torch.bfloat16, scale), "without its depth a sound model would be refused"


def test_wider_types_have_room_for_any_depth():
    assert rounding(torch.float32, 1.0, 96) == rounding(torch.float32, 1.0)
    assert rounding(torch.bfloat16, 1.0, 8) == rounding(torch.bfloat16, 1.0)


@pytest.mark.parametrize("units", [["m0->logits"], ["input->m2"], "mlps"])
def test_a_window_that_masks_alone_know_of_is_found(tiny, task_of, units):
    """Qwen2-MoE tells its masks alone of its window; edges to the logits run no block that could show it."""
    layers = ["sliding_attention", "full_attention", "full_attention"]
    lm = tiny("qwen2_moe", use_sliding_window=True, sliding_window=4, layer_types=layers)
    with pytest.raises(ContractError):
        vc.exact(lm, task_of(9), units=units, show_progress=False)
