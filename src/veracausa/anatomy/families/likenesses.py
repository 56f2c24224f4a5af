"""Llama, what families have in common, and how one is written by what differs from another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from veracausa.anatomy.anatomy import Anatomy


def one(path: str) -> dict[str, Any]:
    """One module for queries, keys and values."""
    return dict.fromkeys("qkv", path)


LLAMA = Anatomy("llama")
# One norm for an attention and an MLP that stand in parallel.
SHARED_NORM: dict[str, Any] = {"mlp_norm": "input_layernorm", "parallel": True}
# No norm before a sublayer, one behind it.
POST_NORM: dict[str, Any] = {
    "attention_norm": None,
    "mlp_norm": None,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
SANDWICH: dict[str, Any] = {
    "mlp_norm": "pre_feedforward_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
SOFTCAP: dict[str, Any] = {"logit_softcap": "final_logit_softcapping"}
# Gate and up projection in one module.
GATE_UP: dict[str, Any] = {"activation": "mlp.activation_fn", "up": "mlp.gate_up_proj", "up_fused": True}


def between(what: str) -> tuple[tuple[str, str], ...]:
    """What a family lacks whose heads' values pass something on their way to the output projection."""
    why = f"{what} stands between its heads and their output projection, so what one of these changes there isn't told."
    return tuple((kind, why) for kind in ("queries", "keys", "values", "patterns", "edges"))


GATED: dict[str, Any] = {"lacks": between("a gate that reads the stream")}


def like(base: Anatomy, *names: str, **other: Any) -> dict[str, Anatomy]:
    """Families that are called so and differ from another in this."""
    return {name: replace(base, family=name, **other) for name in names}
