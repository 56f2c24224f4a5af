"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`.

    pre = c_in · x W_Eᵀ + b_E,   f = pre · 1[pre · n > θ],   ŷ = (f W_Dᵀ + b_D) / c_out

c = √d / (average norm over the training text), of inputs and of outputs; n = ‖W_D,i‖ where the sparsity includes the
decoder's norm (the default), else 1. θ is one number for all features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from veracausa.arguments import shown
from veracausa.errors import FileError
from veracausa.loading.dictionaries.files import setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts, decoder_norms

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_NUMBER = (int, float)


def read(folder: Path, dtype: torch.dtype) -> Parts:
    """A folder of Llama Scope.

    Raises:
        FileError: a file is not whole, or says something that is not done here.
    """
    path = folder / CONFIG
    told, tensors = settings_of(path), tensors_of(folder / WEIGHTS, dtype)
    _require_known(told, path)
    tensors.only(("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"), "dictionary of Llama Scope")
    encoder, decoder = tensors.one("encoder.weight", what="encoder").T, tensors.one("decoder.weight", what="decoder").T
    norms = decoder_norms(decoder)
    included = setting(told, path, "sparsity_include_decoder_norm", bool, True)
    level = float(setting(told, path, "jump_relu_threshold", _NUMBER))
    bias = tensors.get("decoder.bias")
    reads = setting(told, path, "hook_point_in", str)
    writes = setting(told, path, "hook_point_out", (str, type(None)), None)
    parts = Parts(
        encoder,
        decoder,
        tensors.one("encoder.bias", what="encoder bias"),
        decoder.new_zeros(decoder.shape[1]) if bias is None else bias,
        "jumprelu",
        threshold=level / norms if included else torch.full_like(norms, level),
        reads=reads,
        writes=writes,
        model="Llama-3.1-8B" if encoder.shape[0] == 4096 else "",
        source=f"Llama Scope, {folder}",
    )
    return parts.input_scaled(*_factors(told, path, encoder.shape[0]))


def _require_known(told: dict[str, Any], path: Path) -> None:
    if (function := setting(told, path, "act_fn", str, "jumprelu")).lower() != "jumprelu":
        raise FileError(f"{path} says act_fn={shown(function)}; known is jumprelu.")
    for key in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if told.get(key):
            raise FileError(f"{path} says {key}={shown(told[key])}, which is not done here.")


def _factors(told: dict[str, Any], path: Path, width: int) -> tuple[float, float]:
    """√d / average norm, of inputs and of outputs."""
    how = setting(told, path, "norm_activation", str, "dataset-wise")
    if how not in ("dataset-wise", "inference"):
        raise FileError(f"{path} says norm_activation={shown(how)}; known are dataset-wise and inference (folded).")
    if how == "inference":
        return 1.0, 1.0
    norms = setting(told, path, "dataset_average_activation_norm", dict)
    into, out = (float(setting(norms, path, key, _NUMBER)) for key in ("in", "out"))
    return width**0.5 / into, width**0.5 / out
