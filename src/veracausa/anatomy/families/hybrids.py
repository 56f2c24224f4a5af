"""Families with mixers: state-space layers, recurrences, gated convolutions, linear attention (see `mixers`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from veracausa.anatomy.anatomy import Anatomy
from veracausa.anatomy.families.likenesses import GATED, LLAMA, POST_NORM, like
from veracausa.anatomy.families.mixtures import BESIDE_SHARED, LATENT, MIXTURE
from veracausa.anatomy.mixers import Mixer

# A block is one mixer.
_MAMBA = Anatomy(
    "mamba",
    backbone="backbone",
    embeddings="embeddings",
    final_norm="norm_f",
    attention_norm="norm",
    mixer=Mixer("mixer", "mixer.out_proj", state="ssm_state_size", gate=("mixer.in_proj", 1)),
    lone=True,
    float32_stream="residual_in_fp32",
)
#: The argument under which a mixer takes a cache that it goes on from; of Mamba's scan it does so for one token alone.
_CACHE = "cache_params"
_MAMBA2 = Mixer(
    "mixer", "mixer.out_proj", heads="num_heads", state="ssm_state_size", gate=("mixer.in_proj", 0), goes_on=_CACHE
)
_FEED_FORWARD: dict[str, Any] = {
    "mlp": "feed_forward",
    "mlp_out": "feed_forward.down_proj",
    "activation": "feed_forward.act_fn",
    "up": "feed_forward.up_proj",
    "experts": "feed_forward.experts",
    "router": ("feed_forward.router", "feed_forward.gate"),
}
# A mixer in most blocks and attention in some, each before an MLP.
_HYBRID = replace(
    LLAMA,
    mixer=Mixer(
        "mamba", "mamba.out_proj", heads="num_heads", state="ssm_state_size", gate=("mamba.in_proj", 0), goes_on=_CACHE
    ),
    final_norm="final_layernorm",
    mlp_norm="pre_ff_layernorm",
    **_FEED_FORWARD,
)
_GATED_DELTA = Mixer(
    "linear_attn", "linear_attn.o_proj", heads="num_v_heads", gate=("linear_attn.g_proj", 0), goes_on=_CACHE
)
_DELTA: dict[str, Any] = {
    "mixer": Mixer(
        "linear_attn", "linear_attn.out_proj", heads="num_v_heads", gate=("linear_attn.in_proj_z", 0), goes_on=_CACHE
    )
}


def _kimi(gate: str) -> Mixer:
    """A delta rule whose decays are of each channel, called like the attention of other blocks."""
    return Mixer(
        "self_attn", "self_attn.o_proj", heads="num_heads", gate=(gate, 0), goes_on=_CACHE, told_by="self_attn.conv1d"
    )


#: `config.model_type` → anatomy.
HYBRIDS: dict[str, Anatomy] = {
    **like(_MAMBA, "mamba", "falcon_mamba"),
    **like(_MAMBA, "mamba2", mixer=_MAMBA2),
    **like(
        _MAMBA,
        "nemotron_h",
        backbone="model",
        float32_stream=None,
        mixer=_MAMBA2,
        attention="mixer",
        attention_out="mixer.o_proj",
        q="mixer.q_proj",
        k="mixer.k_proj",
        v="mixer.v_proj",
        mlp="mixer",
        mlp_out="mixer.down_proj",
        activation="mixer.act_fn",
        up=None,
        experts="mixer.experts",
        router="mixer.gate",
        shared="mixer.shared_experts",
        mlp_norm="norm",
    ),
    **like(_HYBRID, "bamba"),
    **like(_HYBRID, "jamba", mixer=Mixer("mamba", "mamba.out_proj", state="ssm_state_size", gate=("mamba.in_proj", 1))),
    **like(
        replace(_HYBRID, **BESIDE_SHARED),
        "granitemoehybrid",
        final_norm="norm",
        mlp_norm="post_attention_layernorm",
        mlp="shared_mlp",
        mlp_out="shared_mlp.output_linear",
        activation="shared_mlp.activation",
        up="shared_mlp.input_linear",
        up_fused=True,
        residual_scale="residual_multiplier",
        logit_divisor="logits_scaling",
    ),
    **like(
        _HYBRID,
        "falcon_h1",
        side_by_side=True,
        attention_in_scale="attention_in_multiplier",
        attention_out_scale="attn_out_multiplier",
        mixer_out_scale="ssm_out_multiplier",
        down_scale="feed_forward.down_multiplier",
        embedding_scale="embedding_multiplier",
        logit_scale="lm_head_multiplier",
    ),
    **like(
        _HYBRID,
        "lfm2",
        "lfm2_moe",
        mixer=Mixer("conv", "conv.out_proj", gate=("conv.in_proj", 1), scans=False, goes_on="past_key_values"),
        final_norm="embedding_norm",
        attention_norm="operator_norm",
        mlp_norm="ffn_norm",
        attention_out="self_attn.out_proj",
        qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        mlp_out="feed_forward.w2",
        activation=None,
        up="feed_forward.w3",
    ),
    **like(
        LLAMA,
        "recurrent_gemma",
        mixer=Mixer("temporal_block", "temporal_block.linear_out", gate=("temporal_block.linear_y", 0)),
        mixer_gives_two=True,
        final_norm="final_norm",
        attention="temporal_block",
        attention_out="temporal_block.o_proj",
        q="temporal_block.q_proj",
        k="temporal_block.k_proj",
        v="temporal_block.v_proj",
        mlp="mlp_block",
        mlp_out="mlp_block.down_proj",
        activation="mlp_block.act_fn",
        up="mlp_block.up_proj",
        attention_norm="temporal_pre_norm",
        mlp_norm="channel_pre_norm",
        logit_softcap="logits_soft_cap",
    ),
    **like(LLAMA, "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", **_DELTA, **GATED, **MIXTURE),
    **like(LLAMA, "kimi_linear", mixer=_kimi("self_attn.g_b_proj"), **LATENT),
    **like(LLAMA, "bailing_hybrid", mixer=_kimi("self_attn.g_proj"), **GATED, **LATENT),
    "olmo_hybrid": replace(
        LLAMA,
        family="olmo_hybrid",
        mixer=_GATED_DELTA,
        mixer_blocks=replace(LLAMA, family="olmo_hybrid", mixer=_GATED_DELTA),
        **POST_NORM,
    ),
}
