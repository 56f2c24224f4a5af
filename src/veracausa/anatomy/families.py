"""Where each family of decoders keeps its parts: one frozen `Anatomy` per family.

This is the only file that names an architecture. A family states names; what is done with them is in
`decoder.py`. To add a family, add one entry to `FAMILIES` and let `lm.check()` and the contract tests judge it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from veracausa.anatomy import bridged_attentions
from veracausa.anatomy.bridges import Bridge

Layout = Literal["separate", "fused-thirds", "fused-per-head"]


@dataclass(frozen=True)
class Anatomy:
    """Module names of one family, as dotted paths.

    `backbone`, `unembedding`: from the causal-LM object. `blocks`, `final_norm`, `embeddings`: from the backbone.
    The rest: from one block. `up`: the branch that a gated MLP multiplies its activation with (None: no gate).
    `qk_norms`: norms of queries and keys, where a model has them. `parallel` names the config attribute that says
    whether attention and MLP read the same residual (None: never). `qkv` says how query, key and value projections are
    stored: "separate" modules, one module with "fused-thirds" (all q, all k, all v) or "fused-per-head" (q, k, v of
    head 0, …). `causal`: no position sees a later one; a family that is not says `is_causal=False` to its attention
    function, and its clean and corrupted runs share no prefix. `bridge`: how an attention module that chooses no
    attention function by name is led to one (see `bridges`).
    """

    family: str
    backbone: str = "model"
    blocks: str = "layers"
    embeddings: str = "embed_tokens"
    final_norm: str = "norm"
    unembedding: str = "lm_head"
    attention: str = "self_attn"
    attention_out: str = "self_attn.o_proj"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    qkv: Layout = "separate"
    mlp: str = "mlp"
    mlp_out: str = "mlp.down_proj"
    activation: str = "mlp.act_fn"
    up: str | None = "mlp.up_proj"
    attention_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    qk_norms: tuple[str, ...] = ("self_attn.q_norm", "self_attn.k_norm")
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    parallel: str | None = None
    logit_softcap: str | None = None
    causal: bool = True
    bridge: Bridge | None = None

    def block_parts(self) -> dict[str, str]:
        """Role → dotted path, for every part that a block of this family must have."""
        roles = (
            *("attention", "attention_out", "q", "k", "v", "mlp", "mlp_out", "activation"),
            *("attention_norm", "mlp_norm"),
        )
        optional = ("up", "attention_post_norm", "mlp_post_norm")
        parts = {role: getattr(self, role) for role in roles}
        return parts | {role: getattr(self, role) for role in optional if getattr(self, role)}


_LLAMA = Anatomy("llama")
_GEMMA = replace(
    _LLAMA,
    family="gemma",
    mlp_norm="pre_feedforward_layernorm",
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    logit_softcap="final_logit_softcapping",
)

#: `config.model_type` → anatomy.
FAMILIES: dict[str, Anatomy] = {
    "gpt2": Anatomy(
        "gpt2",
        backbone="transformer",
        blocks="h",
        embeddings="wte",
        final_norm="ln_f",
        attention="attn",
        attention_out="attn.c_proj",
        q="attn.c_attn",
        k="attn.c_attn",
        v="attn.c_attn",
        qkv="fused-thirds",
        mlp_out="mlp.c_proj",
        activation="mlp.act",
        up=None,
        attention_norm="ln_1",
        mlp_norm="ln_2",
    ),
    "gpt_neox": Anatomy(
        "gpt_neox",
        backbone="gpt_neox",
        embeddings="embed_in",
        final_norm="final_layer_norm",
        attention="attention",
        attention_out="attention.dense",
        q="attention.query_key_value",
        k="attention.query_key_value",
        v="attention.query_key_value",
        qkv="fused-per-head",
        mlp_out="mlp.dense_4h_to_h",
        activation="mlp.act",
        up=None,
        parallel="use_parallel_residual",
    ),
    **{name: replace(_LLAMA, family=name) for name in ("llama", "mistral", "qwen2", "qwen3", "smollm3")},
    "gemma2": replace(_GEMMA, family="gemma2"),
    "gemma3_text": replace(_GEMMA, family="gemma3"),
    "gpt_neo": Anatomy(
        "gpt_neo",
        backbone="transformer",
        blocks="h",
        embeddings="wte",
        final_norm="ln_f",
        attention="attn.attention",
        attention_out="attn.attention.out_proj",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        mlp_out="mlp.c_proj",
        activation="mlp.act",
        up=None,
        attention_norm="ln_1",
        mlp_norm="ln_2",
        bridge=bridged_attentions.gpt_neo,
    ),
    "compiled": Anatomy("compiled", up=None, qk_norms=(), causal=False),
}

#: Multimodal wrappers whose text decoder is supported: model_type → what to pass instead.
WRAPPERS: dict[str, str] = {
    "gemma3": "a text-only Gemma3ForCausalLM (AutoModelForCausalLM.from_pretrained gives one for text checkpoints)",
}
