"""Where each family of decoders keeps its parts: one frozen `Anatomy` per family.

This is the only file that names an architecture. A family states names; what is done with them is in
`decoder.py`. To add a family, add one entry to `FAMILIES` and let `lm.check()` and the contract tests judge it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from veracausa.anatomy import bridged_attentions
from veracausa.anatomy.anatomy import Anatomy
from veracausa.anatomy.mixers import Mixer


def _one(path: str) -> dict[str, Any]:
    """One module for queries, keys and values."""
    return dict.fromkeys("qkv", path)


_LLAMA = Anatomy("llama")
# One norm for an attention and an MLP that stand in parallel.
_SHARED_NORM: dict[str, Any] = {"mlp_norm": "input_layernorm", "parallel": True}
# No norm before a sublayer, one behind it.
_POST_NORM: dict[str, Any] = {
    "attention_norm": None,
    "mlp_norm": None,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_SANDWICH: dict[str, Any] = {
    "mlp_norm": "pre_feedforward_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_SOFTCAP: dict[str, Any] = {"logit_softcap": "final_logit_softcapping"}
# An MLP of two linear maps without a gate.
_PLAIN: dict[str, Any] = {"mlp_out": "mlp.fc2", "activation": "mlp.activation_fn", "up": None}
# Gate and up projection in one module.
_GATE_UP: dict[str, Any] = {"activation": "mlp.activation_fn", "up": "mlp.gate_up_proj", "up_fused": True}
_GPT2 = Anatomy(
    "gpt2",
    backbone="transformer",
    blocks="h",
    embeddings="wte",
    position_table="wpe",
    final_norm="ln_f",
    attention="attn",
    attention_out="attn.c_proj",
    **_one("attn.c_attn"),
    qkv="fused-thirds",
    mlp_out="mlp.c_proj",
    activation="mlp.act",
    up=None,
    attention_norm="ln_1",
    mlp_norm="ln_2",
)
_NEOX = Anatomy(
    "gpt_neox",
    backbone="gpt_neox",
    embeddings="embed_in",
    final_norm="final_layer_norm",
    attention="attention",
    attention_out="attention.dense",
    **_one("attention.query_key_value"),
    qkv="fused-per-group",
    mlp_out="mlp.dense_4h_to_h",
    activation="mlp.act",
    up=None,
    parallel="use_parallel_residual",
)
# A block that calls the parts of its MLP itself, and embeddings of positions that begin with two rows for none.
_OPT = Anatomy(
    "opt",
    backbone="model.decoder",
    position_table="embed_positions",
    position_offset=2,
    final_norm="final_layer_norm",
    attention_out="self_attn.out_proj",
    mlp=None,
    mlp_in="fc1",
    mlp_out="fc2",
    activation="activation_fn",
    up=None,
    attention_norm="self_attn_layer_norm",
    mlp_norm="final_layer_norm",
)

_BLOOM = replace(
    _NEOX,
    family="bloom",
    backbone="transformer",
    blocks="h",
    embeddings="word_embeddings",
    final_norm="ln_f",
    attention="self_attention",
    attention_out="self_attention.dense",
    **_one("self_attention.query_key_value"),
    parallel=False,
    bridge=bridged_attentions.bloom,
)
# Rotation by a table of sines, one norm, attention and MLP in parallel.
_SINES: dict[str, Any] = {
    "position_table": None,
    "most_positions": "max_position_embeddings",
    "mlp_norm": "ln_1",
    "mlp_out": "mlp.fc_out",
    "parallel": True,
}


def _between(what: str) -> tuple[tuple[str, str], ...]:
    """What a family lacks whose heads' values pass something on their way to the output projection."""
    why = f"{what} stands between its heads and their output projection, so what one of these changes there isn't told."
    return tuple((kind, why) for kind in ("queries", "keys", "values", "patterns", "edges"))


def _behind_a_norm(what: str) -> tuple[tuple[str, str], ...]:
    """What a family lacks whose experts do not add up to their MLP's output."""
    why = f"{what} stands between its experts and their MLP's output, so what one of them adds there isn't told."
    return tuple((kind, why) for kind in ("experts", "shared", "expert_neurons"))


_GATED: dict[str, Any] = {"lacks": _between("a gate that reads the stream")}
_MIXTURE: dict[str, Any] = {"experts": "mlp.experts"}
_LATENT: dict[str, Any] = {"q": None, "k": None, "v": None, "experts": "mlp.experts", "qk_norms": ()}

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
_MAMBA2 = Mixer("mixer", "mixer.out_proj", heads="num_heads", state="ssm_state_size", gate=("mixer.in_proj", 0))
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
    _LLAMA,
    mixer=Mixer("mamba", "mamba.out_proj", heads="num_heads", state="ssm_state_size", gate=("mamba.in_proj", 0)),
    final_norm="final_layernorm",
    mlp_norm="pre_ff_layernorm",
    **_FEED_FORWARD,
)
_GATED_DELTA = Mixer("linear_attn", "linear_attn.o_proj", heads="num_v_heads", gate=("linear_attn.g_proj", 0))
_DELTA: dict[str, Any] = {
    "mixer": Mixer("linear_attn", "linear_attn.out_proj", heads="num_v_heads", gate=("linear_attn.in_proj_z", 0))
}


def _like(base: Anatomy, *names: str, **other: Any) -> dict[str, Anatomy]:
    """Families that are called so and differ from another in this."""
    return {name: replace(base, family=name, **other) for name in names}


#: `config.model_type` → anatomy.
FAMILIES: dict[str, Anatomy] = {
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
    **_like(_LLAMA, "llama", "mistral", "qwen2", "qwen3", "smollm3"),
    **_like(_LLAMA, "gemma2", **_SANDWICH, **_SOFTCAP),
    "gemma3_text": replace(_LLAMA, family="gemma3", **_SANDWICH, **_SOFTCAP),
    **_like(_LLAMA, "arcee", "jais2", up=None),
    **_like(
        _LLAMA,
        *(
            "cwm",
            "emu3_text_model",
            "ernie4_5",
            "gemma",
            "helium",
            "hunyuan_v1_dense",
            "internlm3",
            "iquestcoder",
            "ministral",
        ),
        *("ministral3", "seed_oss"),
    ),
    **_like(_LLAMA, "olmo", clips="clip_qkv"),
    **_like(_LLAMA, "apertus", up=None, attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm"),
    **_like(_LLAMA, "cohere", "cohere2", **_SHARED_NORM, logit_scale="logit_scale"),
    **_like(_LLAMA, "glm", **_GATE_UP),
    **_like(
        _LLAMA, "glm4", **_GATE_UP, attention_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm"
    ),
    **_like(_GPT2, "gpt_bigcode", qkv="fused-per-group"),
    **_like(_LLAMA, "granite", "granite_swa", residual_scale="residual_multiplier", logit_divisor="logits_scaling"),
    **_like(
        _GPT2,
        "gpt_neo",
        attention="attn.attention",
        attention_out="attn.attention.out_proj",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        qkv="separate",
        bridge=bridged_attentions.gpt_neo,
    ),
    **_like(
        _GPT2,
        "gptj",
        **_SINES,
        attention_out="attn.out_proj",
        q="attn.q_proj",
        k="attn.k_proj",
        v="attn.v_proj",
        qkv="separate",
        bridge=bridged_attentions.gptj,
    ),
    **_like(
        _GPT2,
        "codegen",
        **_SINES,
        attention_out="attn.out_proj",
        **_one("attn.qkv_proj"),
        qkv="fused-in-fours",
        bridge=bridged_attentions.codegen,
    ),
    "bloom": replace(
        _BLOOM,
        mlp=None,
        mlp_in="mlp.dense_h_to_4h",
        activation="mlp.gelu_impl",
        must=(
            ("apply_residual_connection_post_layernorm", False, "its stream goes through norms, not beside them"),
            ("slow_but_exact", False, "its output projections are run in slices, not as modules"),
        ),
    ),
    **_like(
        _BLOOM,
        "falcon",
        attention_norm=("ln_attn", "input_layernorm"),
        mlp_norm=("ln_mlp", "post_attention_layernorm", "input_layernorm"),
        parallel=("new_decoder_architecture", "parallel_attn"),
        adds_in_place=True,
        bridge=bridged_attentions.falcon,
        repeats_keys="new_decoder_architecture",
    ),
    **_like(
        _GPT2,
        "mpt",
        position_table=None,
        most_positions="max_seq_len",
        blocks="blocks",
        final_norm="norm_f",
        attention_out="attn.out_proj",
        **_one("attn.Wqkv"),
        mlp=None,
        mlp_in="ffn.up_proj",
        mlp_out="ffn.down_proj",
        activation="ffn.act",
        attention_norm="norm_1",
        mlp_norm="norm_2",
        clips="attn_config.clip_qkv",
        bridge=bridged_attentions.mpt,
    ),
    **_like(
        _OPT,
        "xglm",
        backbone="model",
        position_table=None,
        position_offset=0,
        final_norm="layer_norm",
        bridge=bridged_attentions.xglm,
    ),
    **_like(
        _NEOX,
        "gpt_neox_japanese",
        backbone="gpt_neox_japanese",
        unembedding="embed_out",
        attention_bias="attention.dense_bias",
        attention_gives=3,
        parallel=False,
        bridge=bridged_attentions.gpt_neox_japanese,
    ),
    **_like(_GPT2, "gpt-sw3"),
    **_like(_LLAMA, "nemotron", up=None),
    **_like(_LLAMA, "exaone4", "olmo2", "olmo3", **_POST_NORM),
    "opt": replace(
        _OPT,
        joins_rows=True,
        must=(("do_layer_norm_before", True, "its norms stand behind each sum, not before a part"),),
    ),
    **_like(_OPT, "biogpt", backbone="biogpt", final_norm="layer_norm", unembedding="output_projection"),
    **_like(
        _LLAMA,
        "persimmon",
        final_norm="final_layernorm",
        attention_out="self_attn.dense",
        **_one("self_attn.query_key_value"),
        qkv="fused-per-group",
        mlp_out="mlp.dense_4h_to_h",
        activation="mlp.act",
        up=None,
        qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
    ),
    **_like(
        _LLAMA,
        "phi",
        final_norm="final_layernorm",
        attention_out="self_attn.dense",
        qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        **_PLAIN,
        **_SHARED_NORM,
    ),
    **_like(
        _LLAMA,
        "phi3",
        **_one("self_attn.qkv_proj"),
        qkv="fused-thirds",
        **_GATE_UP,
    ),
    **_like(
        _LLAMA,
        "stablelm",
        mlp_norm=("post_attention_layernorm", "input_layernorm"),
        parallel="use_parallel_residual",
        qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
    ),
    **_like(_LLAMA, "starcoder2", mlp_out="mlp.c_proj", activation="mlp.act", up=None),
    **_like(
        _LLAMA,
        *("aria_text", "dots1", "ernie4_5_moe", "exaone_moe", "flint", "glm4_moe", "hunyuan_v1_moe", "hy_v3", "mellum"),
        *("minimax_m2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "solar_open"),
        **_MIXTURE,
    ),
    **_like(
        _LLAMA,
        "cohere2_moe",
        **_SHARED_NORM,
        **_MIXTURE,
        averaged="shared_expert_combination_strategy",
        logit_scale="logit_scale",
    ),
    **_like(_LLAMA, "flex_olmo", **_POST_NORM, **_MIXTURE),
    **_like(_LLAMA, "gpt_oss", **_MIXTURE, gives_two=True),
    **_like(
        _LLAMA,
        *("granitemoe", "granitemoe_swa"),
        mlp="block_sparse_moe",
        experts="block_sparse_moe.experts",
        router="block_sparse_moe.router",
        residual_scale="residual_multiplier",
        logit_divisor="logits_scaling",
        without=(("shared_mlp", "a second MLP beside the experts"),),
    ),
    **_like(
        _LLAMA,
        "kolibri1",
        attention_post_norm="post_self_attn_layernorm",
        mlp_post_norm="post_mlp_layernorm",
        **_MIXTURE,
    ),
    **_like(_LLAMA, "mimo_v2_flash", **_MIXTURE),
    **_like(_LLAMA, "minimax_m3_vl_text", **_MIXTURE, experts_scale="mlp.routed_scaling_factor"),
    **_like(_LLAMA, "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu", **_LATENT),
    **_like(_LLAMA, "axk1", **_LATENT, lacks=_behind_a_norm("a norm of their sum (`post_mlp_layernorm`)")),
    **_like(_LLAMA, "minicpm3", **_LATENT, residual_scale="residual_scale", logit_divisor="logits_scaling"),
    **_like(
        _LLAMA,
        "afmoe",
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_mlp_layernorm",
        mlp_post_norm="post_mlp_layernorm",
        **_GATED,
        **_MIXTURE,
    ),
    **_like(_LLAMA, "laguna", **_GATED, **_MIXTURE, experts_scale="mlp.routed_scaling_factor"),
    **_like(_LLAMA, "bitnet", lacks=_between("a norm of all of them")),
    **_like(
        _LLAMA,
        "hyperclovax",
        attention_post_norm="post_norm1",
        mlp_post_norm="post_norm2",
        residual_scale="residual_multiplier",
        logit_scale="logits_scaling",
    ),
    **_like(
        _LLAMA,
        "phi4_multimodal",
        **_one("self_attn.qkv_proj"),
        qkv="fused-thirds",
        **_GATE_UP,
    ),
    **_like(_LLAMA, "vaultgemma", mlp_norm="pre_feedforward_layernorm", **_SOFTCAP),
    **_like(_MAMBA, "mamba", "falcon_mamba"),
    **_like(_MAMBA, "mamba2", mixer=_MAMBA2),
    **_like(
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
    **_like(_HYBRID, "bamba"),
    **_like(
        _HYBRID, "jamba", mixer=Mixer("mamba", "mamba.out_proj", state="ssm_state_size", gate=("mamba.in_proj", 1))
    ),
    **_like(
        _HYBRID,
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
        without=(("block_sparse_moe", "experts beside an MLP that all tokens share"),),
    ),
    **_like(
        _HYBRID,
        "lfm2",
        "lfm2_moe",
        mixer=Mixer("conv", "conv.out_proj", gate=("conv.in_proj", 1), scans=False),
        final_norm="embedding_norm",
        attention_norm="operator_norm",
        mlp_norm="ffn_norm",
        attention_out="self_attn.out_proj",
        qk_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        mlp_out="feed_forward.w2",
        activation=None,
        up="feed_forward.w3",
    ),
    **_like(
        _LLAMA,
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
    **_like(_LLAMA, "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", **_DELTA, **_GATED, **_MIXTURE),
    "olmo_hybrid": replace(
        _LLAMA,
        family="olmo_hybrid",
        mixer=_GATED_DELTA,
        mixer_blocks=replace(_LLAMA, family="olmo_hybrid", mixer=_GATED_DELTA),
        **_POST_NORM,
    ),
    "compiled": Anatomy("compiled", up=None, qk_norms=(), causal=False),
}
