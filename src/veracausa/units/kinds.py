"""Kinds of units, in words; a plain table."""

from __future__ import annotations

from typing import Literal

Kind = Literal["heads", "mlps", "attention", "neurons", "residual", "queries", "keys", "values", "edges"]

#: Kind → (place where its activation is, singular, meaning).
KINDS: dict[str, tuple[str, str, str]] = {
    "heads": ("z", "head", "attention heads (their value z, the input of the output projection)"),
    "mlps": ("mlp", "MLP", "MLPs (their output)"),
    "attention": ("z", "attention layer", "whole attention layers (all heads of a layer)"),
    "neurons": ("neurons", "neuron", "MLP neurons (post-activation: the input of the down projection)"),
    "residual": ("residual", "residual stream", "the residual stream at a layer (the input of a block)"),
    "queries": ("queries", "head", "queries of heads"),
    "keys": ("keys", "kv", "keys of key/value heads (a key changes all query heads of its group)"),
    "values": ("values", "kv", "values of key/value heads (before the attention pattern)"),
}

#: Kinds with several units a layer.
INDEXED = ("heads", "neurons", "queries", "keys", "values")
