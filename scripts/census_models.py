"""A tiny random model of every type of causal language model that transformers knows.

Sizes are set by the names under which they occur in configurations, and what a type can do is switched on: biases,
norms of queries and keys, windows shorter than the prompt, groups of key/value heads, multipliers, caps, several
experts of which two are used. What no rule finds is in `SPECIAL`; structures that a type has beside its usual one in
`VARIANTS`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS, HEADS, WIDTH, VOCABULARY, WINDOW = 3, 4, 32, 60, 4


def _named(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


#: Name of a setting → its value, wherever a configuration has it.
RULES: dict[str, Any] = (
    _named(LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
           "num_encoder_layers num_blocks depth")
    | _named(HEADS, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
             "attention_heads num_decoder_attention_heads num_encoder_attention_heads linear_num_value_heads "
             "linear_num_heads index_n_heads indexer_n_heads mamba_n_heads mamba_num_heads n_mamba_heads")
    | _named(2, "num_key_value_heads num_kv_heads num_query_groups linear_num_key_heads indexer_kv_heads")
    | _named(WIDTH, "hidden_size n_embd d_model emb_dim embedding_size word_embed_proj_dim embedding_dim lru_width "
             "attention_hidden_size backbone_hidden_size dim input_embedding_size "
             "output_embedding_size projection_dim adapter_in_dim adapter_out_dim adapter_input_size")
    | _named(40, "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim dff dim_ff ffn_hidden_size d_inner "
             "feed_forward_size intermediate_size_mlp dense_intermediate_size prefix_dense_intermediate_size")
    | _named(24, "moe_intermediate_size expert_ffn_hidden_size")
    | _named(20, "shared_expert_intermediate_size shared_intermediate_size shared_experts_intermediate_size "
             "moe_shared_expert_intermediate_size")
    | _named(16, "head_dim swa_head_dim dim_head kv_lora_rank q_lora_rank o_lora_rank linear_head_dim "
             "linear_key_head_dim linear_value_head_dim mamba_d_head mamba_head_dim mamba_headdim index_head_dim "
             "indexer_head_dim state_size ssm_state_size mamba_d_state")
    | _named(8, "hidden_size_per_layer_input qk_rope_head_dim v_head_dim time_step_rank mamba_dt_rank "
             "router_hidden_size")
    | _named(4, "rotary_dim")
    | _named(12, "qk_nope_head_dim")
    | _named(20, "qk_head_dim")
    | _named(VOCABULARY, "vocab_size vocab_size_per_layer_input decoder_vocab_size")
    | _named(30, "encoder_hash_byte_group_vocab")
    | _named(64, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length")
    # mixtures of experts
    | _named(4, "num_experts n_routed_experts num_local_experts moe_num_experts")
    | _named(2, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts n_group num_expert_group "
             "n_groups mamba_n_groups mamba_ngroups")
    | _named(1, "topk_group num_shared_experts n_shared_experts moe_num_shared_experts first_k_dense_replace "
             "num_dense_layers decoder_sparse_step")
    | _named(1.5, "routed_scaling_factor router_scaling_factor route_scale moe_routed_scaling_factor")
    # windows
    | _named(WINDOW, "sliding_window sliding_window_size window_size attention_window_size local_attention")
    | _named(WINDOW, "attention_chunk_size floor_scale index_topk")
    | _named(1, "max_window_layers")
    # what can be switched on
    | _named(True, "attention_bias mlp_bias use_bias bias use_qkv_bias qkv_bias use_qk_norm qk_layernorm conv_bias "
             "attention_out_bias use_sliding_window lm_head_bias enable_bias add_bias_linear projectors_bias "
             "mamba_proj_bias norm_bias use_conv_bias mamba_conv_bias")
    | _named(1.3, "embedding_multiplier scale_emb lm_head_multiplier key_multiplier attention_in_multiplier "
             "ssm_in_multiplier")
    | _named(0.7, "residual_multiplier attention_out_multiplier ssm_out_multiplier scale_depth")
    | _named(0.3, "attention_multiplier")
    | _named(0.8, "logits_scaling logit_scale")
    | _named(10.0, "final_logit_softcapping logits_soft_cap output_logit_soft_cap")
    | _named(3.0, "attn_logit_softcapping")
    | _named(12, "query_pre_attn_scalar")
    # ends of a text
    | _named(0, "bos_token_id eos_token_id decoder_start_token_id")
    | _named(0.0, "attention_dropout resid_pdrop embd_pdrop attn_pdrop dropout hidden_dropout layerdrop "
             "router_jitter_noise input_jitter_noise")
    # towers for images and sounds, which are built and never run
    | _named(16, "image_size") | _named(8, "patch_size")
)  # fmt: skip

#: Types with norms behind attention and MLP, whose checkpoints have no biases in front of them.
SANDWICH = ("flex_olmo", "gemma2", "gemma3_text", "gemma4_text", "gemma4_unified_text", "olmo2", "olmo3", "olmo_hybrid")
#: Type → settings that no rule finds (they come last).
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"patcher_config": {"head_dim": 8}, "global_config": {"hidden_size": 64, "head_dim": 16},
            "encoder_config": {"hidden_size_global": 64, "num_key_value_heads": 4},
            "decoder_config": {"hidden_size_global": 64, "num_key_value_heads": 4, "head_dim": 8}},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                            "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                                "full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
             "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": WIDTH}},
    "dots3_note": {"text_config": {"head_dim": 20}, "vision_config": {"mlp_bias": False}},
    "dots3_note_text": {"head_dim": 20},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16, "mlp_multipliers": [0.8, 1.2],
                  "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "helium": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
               "num_attention_heads_per_layer": [4, 2, 4]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "ministral": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    **{name: {"residual_in_fp32": False} for name in ("falcon_mamba", "mamba")},
    "mamba2": {"residual_in_fp32": False, "head_dim": 16, "num_heads": 4, "chunk_size": 4},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "mpt": {"attn_pdrop": ...},
    "olmo": {"clip_qkv": 3.0},
    "olmoe": {"clip_qkv": 3.0},
    "phimoe": {"router_jitter_noise": 0.01, "sliding_window": None},  # in force in masks alone
    "qwen2_moe": {"use_sliding_window": False, "layer_types": ["full_attention"] * LAYERS},  # in force in masks alone
    "qwen4_exp": {"text_config": {"indexer_kv_heads": 1, "indexer_budget": 4, "indexer_compress_ratio": 2}},
    "qwen4_exp_text": {"indexer_kv_heads": 1, "indexer_budget": 4, "indexer_compress_ratio": 2},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    **{name: {"attention_bias": False} for name in SANDWICH},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    **{name: {"num_kv_shared_layers": 0, "attention_bias": False} for name in ("gemma4_text", "gemma4_unified_text")},
}  # fmt: skip
#: Gemma 4 without an input of every block's own; heads of blocks with a window are smaller than those of the others.
_GEMMA4: dict[str, Any] = {"hidden_size_per_layer_input": 0, "per_layer_config": ..., "global_head_dim": 24}
#: Types whose code cannot run in float64.
SINGLE = {"xglm", "xlnet"}

#: Type → name → settings of another structure that models of this type have.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "falcon": {
        "new_decoder_architecture": {"new_decoder_architecture": True},
        "new_decoder_architecture, one norm": {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
        "sequential": {"parallel_attn": False, "multi_query": False, "num_kv_heads": HEADS},
        "alibi": {"alibi": True, "parallel_attn": False, "multi_query": False, "num_kv_heads": HEADS},
    },
    "gpt_neox": {"sequential": {"use_parallel_residual": False}},
    "stablelm": {"parallel": {"use_parallel_residual": True}},
    "gpt_bigcode": {"multi_query=False": {"multi_query": False}},
    "bloom": {"residual behind the norm": {"apply_residual_connection_post_layernorm": True}},
    "codegen": {"all dimensions rotated": {"rotary_dim": 8}},
    "deepseek_v3": {"queries not compressed": {"q_lora_rank": None}},
    **{name: {"biases": {"attention_bias": True}} for name in SANDWICH if not name.startswith("gemma4")},
    "gemma4_text": {
        "no inputs per layer": _GEMMA4,
        "biases": _GEMMA4 | {"attention_bias": True},
        "keys shared": {
            "num_kv_shared_layers": 1,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        "keys are values": _GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "experts": _GEMMA4 | {"enable_moe_block": True},
    },
    "gpt2": {"scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}},
    "granitemoehybrid": {
        "attention alone, dense": {"layer_types": ["full_attention"] * LAYERS, "num_local_experts": 0},
        "dense": {"num_local_experts": 0},
    },
    "jamba": {"dense": {"num_experts": 1}},
    "llama": {"tied embeddings": {"tie_word_embeddings": True}},
    "mimo_v2_flash": {"one kind of blocks": {"layer_types": ["full_attention"] * LAYERS}},
    "mpt": {"biases": {"no_bias": False}},
    "qwen2": {"no window": {"use_sliding_window": False, "layer_types": ["full_attention"] * LAYERS}},
    "opt": {
        "norms behind": {"do_layer_norm_before": False},
        "embeddings projected": {"word_embed_proj_dim": 24},
    },
}


class Type(NamedTuple):
    """A type of transformers, and the name of one of its `VARIANTS` ("" for the usual one)."""

    name: str
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})" if self.variant else self.name


def types() -> list[Type]:
    """Every causal-LM type of the installed transformers, with its variants."""
    names = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    return [Type(name, variant) for name in names for variant in ("", *VARIANTS.get(name, ()))]


def _layered(value: list[Any]) -> list[Any]:
    """A list with an entry per layer, for fewer layers: every entry that it has, as far as there are layers."""
    kinds = list(dict.fromkeys(value))
    return (kinds[:LAYERS] + value[len(kinds) :])[:LAYERS]


def settings(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What to change of a configuration's defaults, by the rules."""
    layers = max([0, *(n for key in RULES if RULES[key] == LAYERS and isinstance(n := defaults.get(key), int))])
    found: dict[str, Any] = {}
    for key, value in defaults.items():
        if isinstance(value, Mapping) and key.endswith("config"):
            found[key] = settings(value)
        elif key in RULES:
            found[key] = type(value)(RULES[key]) if type(value) in (int, float) else RULES[key]
        elif isinstance(value, list) and len(value) == layers > LAYERS and not isinstance(value[0], list):
            found[key] = _layered(value)
    # made of that switch, which is put on when they are there already
    if "use_sliding_window" in defaults and {*found.get("layer_types", ())} == {"full_attention"}:
        found["layer_types"] = ["sliding_attention"] + ["full_attention"] * (LAYERS - 1)
    if defaults.get("pad_token_id") is not None:
        found["pad_token_id"] = min(defaults["pad_token_id"], VOCABULARY - 1)
    if "kv_lora_rank" in defaults:  # latent attention: every head has a key of its own, the rotary part is a head's
        found |= {"num_key_value_heads": HEADS, "head_dim": found["qk_rope_head_dim"]}
    if "is_decoder" in defaults:  # of encoders, which are no causal language models otherwise
        found["is_decoder"] = True
    return {key: value for key, value in found.items() if key in defaults}


class _InFloat64(SourceFileLoader):
    """Loads the code of a family without its casts to float32, which would hide errors below 1e-7 in float64 models."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """As of a finder: of transformers' modelling files alone."""
        spec = (
            PathFinder.find_spec(name, path, target) if re.match(r"transformers\.models\..*\.modeling_", name) else None
        )
        if spec is not None and spec.origin is not None:
            spec.loader = cls(name, spec.origin)
        return spec

    def get_code(self, fullname: str) -> Any:
        """Compiled anew, never from or into Python's cache."""
        source = self.get_data(self.path).decode()
        source = re.sub(r"torch\.float(32)?(?![\w])", "torch.float64", source).replace(".float()", ".double()")
        return compile(source, self.path, "exec", dont_inherit=True)


def compute_in_float64() -> None:
    """Let families compute in float64 where their weights are; before any of them is imported, and for good."""
    sys.meta_path.insert(0, _InFloat64)  # type: ignore[arg-type]


def make(kind: Type, seed: int = 0) -> Any:
    """A model of a type with random weights in float64, in eval mode."""
    own = SPECIAL.get(kind.name, {})
    first = {"layer_types": own["layer_types"], "num_hidden_layers": LAYERS} if "layer_types" in own else {}
    defaults = AutoConfig.for_model(kind.name, **first).to_dict()
    chosen = _merged(settings(defaults), own, VARIANTS.get(kind.name, {}).get(kind.variant, {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind.name, **chosen)
        options = {"experts_implementation": "eager"}  # the others compute in float32 at most
        if getattr(config, "attn_logit_softcapping", None):  # which sdpa has not
            options["attn_implementation"] = "eager"
        dtype = torch.float32 if kind.name in SINGLE else torch.float64
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **options).eval()
    for part in (*model.parameters(), *model.buffers()):
        if part.is_floating_point():
            part.data = part.data.to(dtype)
    draw(model, seed)
    return model


def _merged(*all_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Later settings over earlier ones; ... takes a setting away."""
    found: dict[str, Any] = {}
    for one in all_settings:
        for key, value in one.items():
            nested = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = _merged(found[key], value) if nested else value
    return {key: value for key, value in found.items() if value is not ...}


#: Parameters that are kept as a type makes them, with some noise: decays, gates, scales.
_KEPT = ("A_log", "dt_bias", "dt_proj", ".D", "rg_lru", "lambda", "sink", "time_", "altup", "xielu", "alpha", "beta")


def draw(model: Any, seed: int) -> None:
    """Large random weights, so that effects are not tiny and softmaxes, activations and caps saturate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            scale = not name.endswith("bias") and weight.ndim == 1
            if scale or any(part in name for part in _KEPT):
                weight += 0.3 * noise  # from 1, or from Gemma's 0
            else:
                weight.copy_((0.6 if "embed" in name or ".wte" in name or ".wpe" in name else 0.35) * noise)
        for name, buffer in model.named_buffers():
            if "layer_scalar" in name:
                buffer.mul_(0.6 + 0.7 * torch.rand(buffer.shape, generator=generator))
            if "correction_bias" in name:
                buffer += 0.3 * torch.randn(buffer.shape, generator=generator)
