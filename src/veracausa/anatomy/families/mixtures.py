"""Families whose MLPs are mixtures of experts, in all blocks or in some."""

from __future__ import annotations

from typing import Any

from veracausa.anatomy import bridged_attentions
from veracausa.anatomy.anatomy import Anatomy
from veracausa.anatomy.families.likenesses import GATED, LLAMA, POST_NORM, SHARED_NORM, like, one


def _behind_a_norm(what: str) -> tuple[tuple[str, str], ...]:
    """What a family lacks whose experts do not add up to their MLP's output."""
    why = f"{what} stands between its experts and their MLP's output, so what one of them adds there isn't told."
    return tuple((kind, why) for kind in ("experts", "shared", "expert_neurons"))


def _told_whole(what: str) -> tuple[tuple[str, str], ...]:
    """What a family lacks whose experts are not called with tokens, their choice and its weights."""
    why = f"{what}, in a layout that is read as a whole alone. Ask for whole MLPs."
    return tuple((kind, why) for kind in ("experts", "shared", "expert_neurons"))


MIXTURE: dict[str, Any] = {"experts": "mlp.experts"}
LATENT: dict[str, Any] = {
    "q": ("self_attn.q_a_proj", "self_attn.q_proj"),
    **dict.fromkeys("kv", "self_attn.kv_a_proj_with_mqa"),
    "qkv": "latent",
    "latent_q": "self_attn.q_b_proj",
    "qk_norms": (),
    **MIXTURE,
}
# Experts, and an MLP that all tokens go through, where a model has both.
BESIDE_SHARED: dict[str, Any] = {
    "mlp_beside": "block_sparse_moe",
    "experts": "block_sparse_moe.experts",
    "router": "block_sparse_moe.router",
    "shared": "shared_mlp",
}

#: `config.model_type` → anatomy.
MIXTURES: dict[str, Anatomy] = {
    **like(
        LLAMA,
        *("aria_text", "dots1", "ernie4_5_moe", "exaone_moe", "flint", "glm4_moe", "hunyuan_v1_moe", "hy_v3", "mellum"),
        *("minimax_m2", "mixtral", "qwen2_moe", "qwen3_moe", "solar_open"),
        **MIXTURE,
    ),
    **like(
        LLAMA,
        "cohere2_moe",
        **SHARED_NORM,
        **MIXTURE,
        averaged="shared_expert_combination_strategy",
        logit_scale="logit_scale",
    ),
    **like(LLAMA, "olmoe", **MIXTURE, clips="clip_qkv"),
    **like(LLAMA, "flex_olmo", **POST_NORM, **MIXTURE),
    # its window is in masks alone, so prompts must fit into it
    **like(LLAMA, "phimoe", **MIXTURE, most_positions="sliding_window"),
    **like(LLAMA, "gpt_oss", **MIXTURE, gives_two=True),
    **like(
        LLAMA,
        *("granitemoe", "granitemoe_swa", "granitemoeshared"),
        mlp=("shared_mlp", "block_sparse_moe"),
        **BESIDE_SHARED,
        residual_scale="residual_multiplier",
        logit_divisor="logits_scaling",
    ),
    **like(
        LLAMA,
        "dbrx",
        backbone="transformer",
        blocks="blocks",
        embeddings="wte",
        final_norm="norm_f",
        attention="norm_attn_norm.attn",
        attention_out="norm_attn_norm.attn.out_proj",
        **one("norm_attn_norm.attn.Wqkv"),
        qkv="fused-thirds",
        attention_norm="norm_attn_norm.norm_1",
        mlp_norm="norm_attn_norm.norm_2",
        mlp="ffn",
        experts="ffn.experts",
        router="ffn.router",
        clips="attn_config.clip_qkv",
        experts_down="mlp.w2",
    ),
    **like(
        LLAMA,
        "kolibri1",
        attention_post_norm="post_self_attn_layernorm",
        mlp_post_norm="post_mlp_layernorm",
        **MIXTURE,
    ),
    **like(LLAMA, "mimo_v2_flash", **MIXTURE, kv_heads_by_block=True),
    **like(LLAMA, "minimax_m3_vl_text", **MIXTURE, experts_scale="mlp.routed_scaling_factor"),
    **like(LLAMA, "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu", **LATENT),
    **like(LLAMA, "axk1", **LATENT, lacks=_behind_a_norm("a norm of their sum (`post_mlp_layernorm`)")),
    **like(LLAMA, "minicpm3", **LATENT, residual_scale="residual_scale", logit_divisor="logits_scaling"),
    **like(
        LLAMA,
        "afmoe",
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_mlp_layernorm",
        mlp_post_norm="post_mlp_layernorm",
        **GATED,
        **MIXTURE,
    ),
    **like(
        LLAMA,
        "llama4_text",
        mlp="feed_forward",
        mlp_out="feed_forward.down_proj",
        activation="feed_forward.activation_fn",
        up="feed_forward.up_proj",
        experts="feed_forward.experts",
        router="feed_forward.router",
        shared="feed_forward.shared_expert",
        gives_two=True,
        flattens=True,
        qk_norms=(),
        lacks=_told_whole("its experts are given every token times its router's score"),
        bridge=bridged_attentions.llama4,
    ),
    **like(LLAMA, "laguna", **GATED, **MIXTURE, heads_by_block=True, experts_scale="mlp.routed_scaling_factor"),
}
