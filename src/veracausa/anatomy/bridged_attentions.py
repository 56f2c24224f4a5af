"""Attention modules that attend by themselves, family by family: each with a bridge to a function chosen by name.

What a bridge computes is compared with the module's own forward by every contract, since bare runs are of that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from veracausa.anatomy.bridges import Attend, Bridge
from veracausa.errors import ArchitectureError


def within(settings: Callable[[Any], dict[str, Any]]) -> Bridge:
    """Of modules that attend in a method `_attn(query, key, value, attention_mask)`: only that is stood in for.

    Their scores are in float32 at least. `settings(module)`: of the attention function.
    """

    def bridge(module: Any, attend: Attend, own: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        reached = False

        def attended(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
            nonlocal reached
            reached, wide = True, torch.promote_types(value.dtype, torch.float32)
            return attend(query.to(wide), key.to(wide), value, **settings(module)).transpose(1, 2), None

        before = vars(module).get("_attn")
        vars(module)["_attn"] = attended
        try:
            output: tuple[Any, ...] = own(*args, **kwargs)
        finally:
            if before is None:
                vars(module).pop("_attn", None)
            else:
                vars(module)["_attn"] = before
        if not reached:
            raise ArchitectureError(
                f"{type(module).__name__} attends by a kernel that has no inside. Load the model with "
                "attn_implementation='eager'."
            )
        return output

    return bridge


def _with_past(cache: Any, module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values behind those of a cache, which keeps them."""
    if cache is not None:
        key, value = cache.update(key, value, module.layer_idx)
    return key, value


def bloom(
    module: Any, attend: Attend, _: Any, hidden_states: Tensor, residual: Tensor | None = None, **given: Any
) -> tuple[Tensor, None]:
    """BLOOM's attention, with ALiBi. Without a `residual` it gives what the attention writes alone."""
    slopes = import_module("transformers.models.bloom.modeling_bloom")._get_alibi_slopes

    def position_bias(keys: int, like: Tensor) -> Tensor:
        bias: Tensor = slopes(module.num_heads, like.device)[:, None] * torch.arange(keys, device=like.device)
        return bias.to(like.dtype)

    query, key, value = module._reshape(module.query_key_value(hidden_states))
    key, value = _with_past(given.get("layer_past"), module, key, value)
    z = attend(query, key, value, scaling=module.inv_norm_factor, position_bias=position_bias)
    output = module.dense(z.flatten(2))
    return output if residual is None else residual + output, None


def falcon(module: Any, attend: Attend, _: Any, hidden_states: Tensor, **given: Any) -> tuple[Tensor, None]:
    """Falcon's attention in all its layouts, with rotation or ALiBi. Keys and values are those of key/value heads; the
    cache of the grouped layout has each of them once for every query head.

    Raises:
        ArchitectureError: ALiBi with eager attention, where Hugging Face adds it twice.
    """
    helpers, alibi = import_module("transformers.models.falcon.modeling_falcon"), module.config.alibi
    if alibi and module.config._attn_implementation == "eager":
        raise ArchitectureError(
            "Hugging Face's eager attention adds Falcon's position biases (ALiBi) twice, so its logits are not those "
            "of its sdpa attention. Load the model with attn_implementation='sdpa'."
        )

    def position_bias(keys: int, like: Tensor) -> Tensor:
        every = torch.ones(1, keys, dtype=torch.long, device=like.device)
        bias: Tensor = helpers.build_alibi_tensor(every, module.num_heads, like.dtype)[:, 0]
        return bias * module.inv_norm_factor

    query, key, value = (part.transpose(1, 2) for part in module._split_heads(module.query_key_value(hidden_states)))
    if not alibi:
        query, key = helpers.apply_rotary_pos_emb(query, key, *given["position_embeddings"])
    key, value = _with_past(given.get("layer_past"), module, key, value)
    each = key.shape[1] // module.num_kv_heads
    bias = position_bias if alibi else None
    z = attend(query, key[:, ::each], value[:, ::each], scaling=module.inv_norm_factor, position_bias=bias)
    return module.dense(z.flatten(2)), None


def mpt(module: Any, attend: Attend, _: Any, hidden_states: Tensor, **given: Any) -> tuple[Tensor, None]:
    """MPT's attention, with ALiBi that is zero at the last key."""
    build = import_module("transformers.models.mpt.modeling_mpt").build_mpt_alibi_tensor

    def position_bias(keys: int, like: Tensor) -> Tensor:
        bias: Tensor = build(module.n_heads, keys, device=like.device)[:, 0]
        return bias

    fused = module.Wqkv(hidden_states)
    if module.clip_qkv:
        fused = fused.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    split = fused.unflatten(-1, (3, module.n_heads, module.head_dim)).permute(2, 0, 3, 1, 4)
    key, value = _with_past(given.get("past_key_values"), module, split[1], split[2])
    z = attend(split[0], key, value, scaling=module.softmax_scale, position_bias=position_bias)
    return module.out_proj(z.flatten(2)), None


def xglm(module: Any, attend: Attend, _: Any, hidden_states: Tensor, **given: Any) -> tuple[Tensor, None]:
    """XGLM's attention."""
    query, key, value = (
        part(hidden_states).unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)
        for part in (module.q_proj, module.k_proj, module.v_proj)
    )
    key, value = _with_past(given.get("past_key_values"), module, key, value)
    return module.out_proj(attend(query, key, value, scaling=module.scaling).flatten(2)), None


def _gpt_neo_settings(module: Any) -> dict[str, Any]:
    """Scores are not scaled; a local layer sees a window."""
    local = module.attention_type == "local"
    return {"scaling": 1.0, "sliding_window": module.config.window_size if local else None}


gpt_neo = within(_gpt_neo_settings)


def gpt_neox_japanese(module: Any, attend: Attend, own: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """GPT-NeoX-Japanese's attention, with the bias that its last block would add behind it."""
    output, pattern, bias = _neox_japanese(module, attend, own, *args, **kwargs)
    return output if bias is None else output + bias, pattern, None


_neox_japanese = within(lambda module: {"scaling": 1 / module.norm_factor})
gptj = codegen = within(lambda module: {"scaling": 1 / module.scale_attn})


class _Before:
    """A cache that holds so many positions and adds none: an attention module that counts them is told of no others."""

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def get_seq_length(self, *_: Any) -> int:
        """How many."""
        return self.positions

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The same keys and values."""
        return key, value


def llama4(module: Any, attend: Attend, own: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Llama 4's own forward, which scales queries by their position and takes chunks from its masks alone."""
    config = module.config
    chunked = config.layer_types[module.layer_idx] == "chunked_attention"
    if kwargs.get("past_key_values") is None:
        kwargs["past_key_values"] = _Before(attend.before)
    before, config._attn_implementation = config._attn_implementation, attend.name
    try:
        output: tuple[Any, ...] = own(
            *args, **kwargs, **attend.ours, chunk=config.attention_chunk_size if chunked else None
        )
    finally:
        config._attn_implementation = before
    return output
