"""Names of linear maps within a block as numbers, so that tables and files of units hold them as they hold heads.

"q_proj" is a number of its own; so is "mlp.c_proj", where a block has two of the name; other names are read as digits
(`dictionaries.words`), as long as those have room.
"""

from __future__ import annotations

import re

from veracausa.dictionaries.words import LONGEST, WORD, index_word, word_index

#: A linear map's name, with that of what it is in if a block has several of the name.
NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?"
#: Known names, and names of what maps are in. Tables in files hold the places: add at the end alone.
_KNOWN = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj", "out_proj",
    "in_proj", "x_proj", "dt_proj", "c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h",
    "dense_4h_to_h", "fc1", "fc2", "fc_in", "fc_out", "Wqkv", "linear_out", "linear_x", "linear_y", "input_linear",
    "output_linear", "w1", "w2", "w3", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "in_proj_qkvz",
    "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "a_proj", "b_proj", "g_proj", "router", "gate",
    "shared_expert_gate", "query", "key", "value", "attn", "attention", "self_attn", "self_attention", "mlp", "ffn",
    "feed_forward", "shared_expert", "shared_experts", "shared_mlp", "mixer", "mamba", "conv", "linear_attn",
    "temporal_block", "mlp_block", "block_sparse_moe", "fc", "proj", "layer1", "layer2", "wi", "wo", "gate_proj_2",
)  # fmt: skip
_ROOM = 1 << 10


def module_index(name: str) -> int | None:
    """The number of a name; None of one that has none.

    >>> module_name(module_index("mlp.c_proj"))
    'mlp.c_proj'
    """
    if re.fullmatch(NAME, name) is None:
        return None
    owner, _, own = name.rpartition(".")
    if own in _KNOWN and (not owner or owner in _KNOWN):
        return _KNOWN.index(own) + (_ROOM * (1 + _KNOWN.index(owner)) if owner else 0)
    if owner or len(own) > LONGEST or not WORD.fullmatch(own):
        return None
    return _ROOM**2 + word_index(own)


def module_name(index: int) -> str:
    """The name of a number; of one that is no name's, some other word."""
    if index >= _ROOM**2:
        return index_word(index - _ROOM**2)
    owner, own = divmod(index, _ROOM)
    parts = [_KNOWN[(owner - 1) % len(_KNOWN)]] if owner else []
    return ".".join([*parts, _KNOWN[own % len(_KNOWN)]])
