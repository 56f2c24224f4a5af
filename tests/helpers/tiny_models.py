"""Tiny random models, one per family, and random prompt pairs for them.

The weights are drawn large, so that effects are not tiny and softmaxes, activations and soft caps saturate.
In float64 the models compute in float64 throughout: transformers' RMSNorm and eager softmax cast to float32, which
would hide errors below 1e-7, so those casts are switched off inside the norms and attention modules of float64 models.
"""

from __future__ import annotations

import inspect
import random
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from types import FunctionType, MethodType
from typing import NamedTuple

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 60
_BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GQA = _BASE | {"num_key_value_heads": 2, "head_dim": 8}
_NEOX = _BASE | {"hidden_size": 32, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}
_GEMMA = _GQA | {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "query_pre_attn_scalar": 12,
}

# name: (model type of transformers, settings)
_SETTINGS: dict[str, tuple[str, dict]] = {
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCAB,
            "n_embd": 24,
            "n_inner": 40,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "gpt_neox": ("gpt_neox", _NEOX | {"use_parallel_residual": True}),
    "gpt_neox-sequential": ("gpt_neox", _NEOX | {"use_parallel_residual": False}),
    "llama": ("llama", _GQA),
    "mistral": ("mistral", _GQA | {"sliding_window": 4}),
    "qwen2": ("qwen2", _GQA),
    "qwen3": ("qwen3", _GQA),
    "smollm3": ("smollm3", _GQA | {"no_rope_layers": [1, 0, 1], "attention_bias": True, "mlp_bias": True}),
    "gemma2": (
        "gemma2",
        _GEMMA
        | {
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 10.0,
            "attn_implementation": "eager",  # sdpa has no soft caps
        },
    ),
    "gemma3": ("gemma3_text", _GEMMA),
}
FAMILIES: list[str] = list(_SETTINGS)

# families whose attention modules are led to our attention function by a bridge: see `anatomy.bridged_attentions`
_EAGER = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
_OPENAI = _EAGER | {"n_embd": 24, "n_inner": 40, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
_FALCON = _EAGER | {
    "hidden_size": 32,
    "ffn_hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bias": True,
    "alibi": False,
    "attn_implementation": "sdpa",
}
_BRIDGED: dict[str, tuple[str, dict]] = {
    "gpt_neo": (
        "gpt_neo",
        _EAGER
        | {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_layers": 3,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local", "local"], 1]],
            "window_size": 4,
        },
    ),
    "gptj": ("gptj", _OPENAI | {"tie_word_embeddings": False}),
    "codegen": ("codegen", _OPENAI | {"n_embd": 64, "n_head": 8, "tie_word_embeddings": False}),
    "bloom": ("bloom", _EAGER | {"hidden_size": 24, "n_layer": 3, "n_head": 4}),
    "falcon": ("falcon", _FALCON | {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False}),
    "falcon-groups": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": (
        "falcon",
        _FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False, "new_decoder_architecture": False},
    ),
    "mpt": ("mpt", _EAGER | {"d_model": 24, "n_heads": 4, "n_layers": 3, "max_seq_len": 64}),
    "xglm": (
        "xglm",
        _EAGER
        | {"d_model": 24, "ffn_dim": 40, "num_layers": 3, "attention_heads": 4, "max_position_embeddings": 64}
        | {"pad_token_id": 1},
    ),
    "gpt_neox_japanese": (
        "gpt_neox_japanese",
        _EAGER
        | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_multiple_size": 2}
        | {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
}
_SETTINGS |= _BRIDGED
BRIDGED: list[str] = list(_BRIDGED)


# structures that no family above has: one norm for two sublayers or none before them, factors, fused parts, an MLP that
# a block calls itself, sinks, experts, latent keys; what a real model of them switches on is on
_PAD = {"pad_token_id": 0}
_MORE: dict[str, tuple[str, dict]] = {
    "phi": (
        "phi",
        _BASE | {"hidden_size": 32, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "phi3": ("phi3", _BASE | _PAD | {"num_key_value_heads": 2, "sliding_window": None, "rms_norm_eps": 1e-6}),
    "cohere": ("cohere", _BASE | _PAD | {"num_key_value_heads": 2, "logit_scale": 0.3, "use_qk_norm": False}),
    "glm4": ("glm4", _GQA | _PAD),
    "granite": (
        "granite",
        _BASE
        | {"num_key_value_heads": 2, "residual_multiplier": 0.4, "logits_scaling": 3.0}
        | {"embedding_multiplier": 2.0, "attention_multiplier": 0.7},
    ),
    "granite_swa": (
        "granite_swa",
        _BASE | _PAD | {"num_key_value_heads": 2, "residual_multiplier": 0.4, "attn_implementation": "eager"},
    ),
    "olmo": ("olmo", _BASE | _PAD | {"num_key_value_heads": 2, "clip_qkv": 0.5}),
    "olmo2": ("olmo2", _BASE | _PAD | {"num_key_value_heads": 2}),
    "stablelm": ("stablelm", _BASE | {"num_key_value_heads": 2, "use_parallel_residual": True}),
    "opt": (
        "opt",
        {
            "vocab_size": VOCAB,
            "hidden_size": 24,
            "word_embed_proj_dim": 24,
            "ffn_dim": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "gpt_bigcode": (
        "gpt_bigcode",
        {"vocab_size": VOCAB, "n_embd": 24, "n_inner": 40, "n_layer": 3, "n_head": 4, "n_positions": 64}
        | {"bos_token_id": 0, "eos_token_id": 0},
    ),
    "arcee": ("arcee", _BASE | {"num_key_value_heads": 2}),
    "mixtral": ("mixtral", _BASE | {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": (
        "gpt_oss",
        _GQA
        | _PAD
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4, "attn_implementation": "eager"}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        _BASE
        | _PAD
        | {"num_key_value_heads": 4, "kv_lora_rank": 12, "q_lora_rank": 16, "qk_rope_head_dim": 4, "v_head_dim": 6}
        | {"qk_nope_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1},
    ),
}
_SETTINGS |= _MORE
STRUCTURES: list[str] = list(_MORE)

# mixtures of experts beside those above: a shared expert behind a gate of its own, a dense block first, flat norms
_EXPERTS: dict[str, tuple[str, dict]] = {
    "qwen2_moe": (
        "qwen2_moe",
        _BASE
        | _PAD
        | {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 12, "mlp_only_layers": [0], "norm_topk_prob": False},
    ),
    "olmoe": (
        "olmoe",
        _BASE | _PAD | {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 3.0},
    ),
}
_SETTINGS |= _EXPERTS

# more whose heads share readers: norms over all queries and keys, behind the sublayers or before them, latent vectors
_LATENT = {"kv_lora_rank": 12, "qk_rope_head_dim": 4, "v_head_dim": 6, "qk_nope_head_dim": 8}
_CHOSEN = {"num_key_value_heads": 2, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_SETTINGS |= {
    "olmo3": (
        "olmo3",
        _BASE | _PAD | {"num_key_value_heads": 2, "sliding_window": 4}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "flex_olmo": ("flex_olmo", _BASE | _PAD | _CHOSEN),
    "minimax_m2": (
        "minimax_m2",
        _BASE | _PAD | _CHOSEN | {"head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
    "minicpm3": (
        "minicpm3",
        _BASE | _PAD | _LATENT | {"num_key_value_heads": 4, "q_lora_rank": 16, "scale_depth": 0.7},
    ),
}  # fmt: skip
_SHARED = _BASE | _PAD | {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
_SETTINGS["granitemoeshared"] = (
    "granitemoeshared",
    _SHARED | {"shared_intermediate_size": 12, "residual_multiplier": 0.6, "logits_scaling": 2.0},
)
MIXTURES: list[str] = ["mixtral", "gpt_oss", "deepseek_v3", *_EXPERTS]

# mixers in the place of attention, alone, in most blocks, or one sublayer a block
_SCAN = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "state_size": 4,
    "conv_kernel": 3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "residual_in_fp32": False,
    "attn_implementation": "eager",
}
_MAMBA_OF_HYBRIDS = {"mamba_d_state": 4, "mamba_d_conv": 3, "mamba_expand": 2}
_HYBRID = _BASE | _PAD | _MAMBA_OF_HYBRIDS | {"num_key_value_heads": 2}
_HEADS_OF_HYBRIDS = {"mamba_n_heads": 4, "mamba_d_head": 12, "mamba_n_groups": 2, "mamba_chunk_size": 4}
_MIXED: dict[str, tuple[str, dict]] = {
    "mamba": ("mamba", _SCAN | {"time_step_rank": 3}),
    "falcon_mamba": ("falcon_mamba", _SCAN | {"time_step_rank": 3}),
    "mamba2": ("mamba2", _SCAN | {"num_heads": 4, "head_dim": 12, "n_groups": 2, "chunk_size": 4}),
    "bamba": ("bamba", _HYBRID | _HEADS_OF_HYBRIDS | {"attn_layer_indices": [1]}),
    "jamba": (
        "jamba",
        _HYBRID | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "mamba_dt_rank": 3},
    ),
    "granitemoehybrid": (
        "granitemoehybrid",
        _HYBRID
        | _HEADS_OF_HYBRIDS
        | {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_local_experts": 0}
        | {"shared_intermediate_size": 40, "residual_multiplier": 0.6, "logits_scaling": 2.0},
    ),
    "lfm2": (
        "lfm2",
        _BASE | _PAD | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"]},
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        _GQA
        | _PAD
        | {"lru_width": 24, "block_types": ["recurrent", "recurrent", "attention"], "attention_window_size": 4},
    ),
    "nemotron_h": (
        "nemotron_h",
        _GQA
        | _PAD
        | {"layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"]}
        | {"num_hidden_layers": 4, "mamba_num_heads": 4, "mamba_head_dim": 12, "n_groups": 2, "ssm_state_size": 4}
        | {"conv_kernel": 3, "chunk_size": 4},
    ),
    "qwen3_next": (
        "qwen3_next",
        _GQA
        | _PAD
        | {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_experts": 0}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 3},
    ),
    "falcon_h1": (
        "falcon_h1",
        _HYBRID
        | _HEADS_OF_HYBRIDS
        | {"mamba_d_ssm": 48, "embedding_multiplier": 1.3, "lm_head_multiplier": 0.8, "key_multiplier": 1.2}
        | {"attention_in_multiplier": 1.3, "attention_out_multiplier": 0.7, "ssm_in_multiplier": 1.2}
        | {"ssm_out_multiplier": 0.8, "mlp_multipliers": [0.8, 1.2], "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7]},
    ),
    "olmo_hybrid": (
        "olmo_hybrid",
        _GQA
        | _PAD
        | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
        | {"linear_num_key_heads": 4, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 3},
    ),
}
_SETTINGS |= _MIXED
MIXED: list[str] = list(_MIXED)

_SETTINGS["granitemoehybrid-experts"] = (
    "granitemoehybrid",
    _MIXED["granitemoehybrid"][1] | {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16},
)

# the stream is scaled behind every block, and heads of blocks with a window are smaller than those of the others
_GEMMA4 = _GQA | {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "global_head_dim": 12,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 10.0,
    "vocab_size_per_layer_input": VOCAB,
}
_SCALED: dict[str, tuple[str, dict]] = {
    "gemma4": ("gemma4_text", _GEMMA4),
    "gemma4-experts": (
        "gemma4_text",
        _GEMMA4 | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    ),
    # as the small ones: an input of every block's own, and a last block without keys and values
    "gemma4-own-inputs": ("gemma4_text", _GEMMA4 | {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 1}),
    "gemma4-keys-are-values": ("gemma4_text", _GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
}
_SETTINGS |= _SCALED
SCALED: list[str] = list(_SCALED)


def make(family: str, seed: int = 0, dtype: torch.dtype = torch.float64, **over):
    """A model of `family` with random weights, in eval mode; `over`: settings of its config, or attn_implementation."""
    kind, settings = _SETTINGS[family]
    settings = {key: (dict(value) if isinstance(value, dict) else value) for key, value in (settings | over).items()}
    attention = settings.pop("attn_implementation", "sdpa")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # what is not drawn below (steps and decays of mixers) is the same in every run
        config = AutoConfig.for_model(kind, **settings)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).eval()
        model.config._experts_implementation = "eager"  # others have no float64
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if "norm" in name or ".ln_" in name:
                weight += 0.3 * noise  # from 1, or from Gemma's 0
            elif name.endswith(("A_log", "dt_bias", ".D", "recurrent_param")) or "dt_proj" in name:
                weight += 0.3 * noise  # decays and steps stay what they are made for
            elif "embed" in name or ".wte" in name or ".wpe" in name:
                weight.copy_(0.6 * noise)
            else:
                weight.copy_(0.35 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.6 + 0.8 * float(torch.rand((), generator=generator)))
    return compute_in_float64(model) if dtype == torch.float64 else model


def compute_in_float64(model):
    """The model in float64, without the casts to float32 inside its norms, attentions, delta rules and routers."""
    for module in model.to(torch.float64).modules():
        own = type(module).__module__.startswith("transformers.models")
        if own and type(module).__name__.endswith(
            ("RMSNorm", "LayerNorm", "Attention", "Router", "GatedDeltaNet")
        ):
            module.forward = MethodType(_in_float64(type(module).forward), module)
            if hasattr(module, "_attn"):  # the method in which some families compute their scores
                module._attn = MethodType(_in_float64(type(module)._attn), module)
    return model


@cache
def _in_float64(function: FunctionType) -> FunctionType:
    """The function as it is written, but for its casts to float32, its eager attention and rotation among them.

    Written anew once, since a mode that looks at every operation makes a tiny model half as fast again.
    """
    names = dict(inspect.unwrap(function).__globals__)
    for inner in ("eager_attention_forward", "apply_rotary_pos_emb", "torch_chunk_gated_delta_rule"):
        if function.__name__ == "forward" and inner in names:
            names[inner] = _in_float64(names[inner])
    source = textwrap.dedent(inspect.getsource(function))
    source = re.sub(r"torch\.float(32)?(?!\w)", "torch.float64", source).replace(".float()", ".double()")
    exec(source.replace("torch.full((), ", "torch.full((), dtype=torch.float64, fill_value="), names)  # XGLM's own slip
    return names[function.__name__]


class Pair(NamedTuple):
    """A clean and a corrupted prompt of the same length, and the answer tokens."""

    clean: list[int]
    corrupted: list[int]
    correct: int
    incorrect: int


def pairs(vocab: int | str, n: int, lengths: int | Sequence[int], seed: int = 0) -> list[Pair]:
    """`n` random pairs, their lengths taken in turn from `lengths` (each ≥ 2).

    A pair shares a prefix of random length ≥ 1 and differs in one to three positions from there on, at least one of
    them among the last five, so that it is in reach of the small sliding windows. `vocab`: a size, or a family's name.
    """
    vocab = VOCAB if isinstance(vocab, str) else vocab
    lengths = [lengths] if isinstance(lengths, int) else list(lengths)
    rng = random.Random(seed)
    made = []
    for i in range(n):
        length = lengths[i % len(lengths)]
        first = rng.randrange(1, length)
        late = rng.randrange(max(first, length - 5), length)
        others = rng.sample(range(first, length), min(rng.randrange(2), length - first))
        clean = [rng.randrange(vocab) for _ in range(length)]
        corrupted = list(clean)
        for position in {first, late, *others}:
            corrupted[position] = (clean[position] + rng.randrange(1, vocab)) % vocab
        correct, incorrect = rng.sample(range(vocab), 2)
        made.append(Pair(clean, corrupted, correct, incorrect))
    return made


def mostly_slow(families, fast=("llama", "gpt_neox", "gemma2")):
    """Parameters of a test that takes its time: families whose anatomies differ most always, the others when slow ones
    are asked for (`make test-all`)."""
    return [pytest.param(one, marks=() if one in fast else pytest.mark.slow) for one in families]
