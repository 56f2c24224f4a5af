"""Families whose attention the bare model alone tells: chunks and scaled queries (Llama 4), heads of other numbers.

Each against hooks on the bare model, whose own code makes masks, rotation and choice of experts.
"""

import pytest
import torch
from bridges import as_model
from transformers import AutoConfig, AutoModelForCausalLM

import veracausa as vc
from veracausa.engine.attention import causal_mask
from veracausa.errors import ArchitectureError
from veracausa.tasks.task import Task

QUIET = {"show_progress": False}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "intermediate_size": 24, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 0,
         "eos_token_id": 0}  # fmt: skip
TASK = Task("t", ((5, 9, 7, 11, 6, 8, 12, 10, 9, 13, 7),), ((5, 9, 17, 11, 6, 8, 12, 20, 9, 13, 7),), ((3,),), ((4,),))


def made(kind, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | settings)
    hf = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval().double()
    for weight in hf.parameters():
        weight.data = 0.4 * torch.randn_like(weight) + (weight.ndim == 1)
    return as_model(hf, kind)


def llama4(**settings):
    return made(
        "llama4_text", intermediate_size_mlp=40, num_local_experts=4, num_experts_per_tok=2,
        interleave_moe_layer_step=2,
        attention_chunk_size=4, no_rope_layers=[1, 0, 1], attn_temperature_tuning=True, floor_scale=3, attn_scale=0.5,
        use_qk_norm=True, **settings,
    )  # fmt: skip


def laguna():
    return made("laguna", num_attention_heads_per_layer=[4, 2, 4], num_experts=4, num_experts_per_tok=2,
                moe_intermediate_size=16, shared_expert_intermediate_size=12, sliding_window=4,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"])  # fmt: skip


def patched(lm, module, columns, clean, corrupted):
    """Change of M where a module of the bare model reads the other run's numbers in some columns."""
    kept = []
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
    metric(lm, corrupted)
    handle.remove()

    def hook(_, args):
        x = args[0].clone()
        x[..., columns] = kept[0][..., columns]
        return (x, *args[1:])

    before = metric(lm, clean)
    handle = module.register_forward_pre_hook(hook)
    after = metric(lm, clean)
    handle.remove()
    return after - before


@torch.no_grad()
def metric(lm, tokens):
    logits = lm.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return float(logits[3] - logits[4])


def test_a_chunk_hides_what_lies_before_it():
    seen = causal_mask(5, 7, None, torch.empty(0), chunk=3) == 0
    by_hand = [[key <= query and key // 3 == query // 3 for key in range(7)] for query in range(2, 7)]
    assert seen.tolist() == by_hand


def test_llama4_heads_are_those_of_the_bare_model():
    """Blocks with chunks, one without rotation whose queries are scaled by position, rows that begin late."""
    lm = llama4()
    units = ["a0.h1", "a1.h3", "a2.h0"]
    ours = vc.exact(lm, TASK, units=units, **QUIET).values[0]
    outs = [lm.hf.model.layers[layer].self_attn.o_proj for layer in range(3)]
    wheres = [slice(8, 16), slice(24, 32), slice(0, 8)]
    true = [patched(lm, out, where, TASK.clean[0], TASK.corrupted[0]) for out, where in zip(outs, wheres, strict=True)]
    assert max(map(abs, true)) > 0.01 and ours.tolist() == pytest.approx(true, abs=1e-5)  # norms are in float32
    with pytest.raises(ArchitectureError, match=r"no experts .* times its router's score"):
        vc.exact(lm, TASK, units="experts", **QUIET)


def test_blocks_with_different_numbers_of_heads_are_told_whole():
    lm = laguna()
    assert [block.heads for block in lm.decoder.blocks] == [4, 2, 4]
    ours = vc.exact(lm, TASK, units="attention", **QUIET).values[0]
    outs = [block.self_attn.o_proj for block in lm.hf.model.layers]
    true = [patched(lm, out, slice(None), TASK.clean[0], TASK.corrupted[0]) for out in outs]
    assert max(map(abs, true)) > 0.01 and ours.tolist() == pytest.approx(true, abs=1e-5)
    with pytest.raises(ArchitectureError, match=r"no heads .* different numbers of heads. Ask for whole attention"):
        vc.exact(lm, TASK, **QUIET)


def test_a_group_of_one_is_the_unit_where_experts_are_given_whole_prompts():
    """DBRX hands its experts [prompts, positions, width], others one token after another."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "dbrx", d_model=32, n_heads=4, n_layers=3, max_seq_len=32, vocab_size=40, pad_token_id=0,
        attn_config={"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    )  # fmt: skip
    hf = AutoModelForCausalLM.from_config(config).eval().double()
    for weight in hf.parameters():
        weight.data = 0.4 * torch.randn_like(weight)
    lm = as_model(hf, "dbrx")
    task = Task("t", 2 * TASK.clean, 2 * TASK.corrupted, ((3,), (7,)), ((4,), (2,)))
    names = ["m0.e1", "m1.e2.n3", "m2.e0", "m1.e0.n5"]
    alone = vc.exact(lm, task, units=names[:1], **QUIET).values, vc.exact(lm, task, units=names[1:2], **QUIET).values
    groups = vc.exact(lm, task, units=[(names[0],), (names[1],), (names[1], names[2]), (names[3], names[0])], **QUIET)
    torch.testing.assert_close(groups.values[:, :2], torch.cat(alone, 1), atol=1e-9, rtol=0)
    assert float(groups.values.abs().min()) > 1e-6
    whole = vc.exact(lm, task, units=["m1"], **QUIET).values
    parts = vc.exact(lm, task, units=[tuple(f"m1.e{i}" for i in range(4))], **QUIET).values
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=0)
