"""circuit-tracer's transcoders: `config.yaml` and one `layer_10.safetensors` a layer; of cross-layer ones two files.

    f = activation(x W_encᵀ + b_enc),   ŷ = f W_dec + b_dec (+ x W_skipᵀ),   W_enc [L, d], W_dec [L, d]

The activation is a JumpReLU where the file has thresholds, else ReLU. Of a cross-layer one `W_enc_10.safetensors`
has `W_enc_10`, `b_enc_10`, `b_dec_10` (and `threshold_10`), and `W_dec_10.safetensors` has `W_dec_10`, [L, layers, d]:
what features of layer 10 write to the MLPs of layer 10, 11, … to the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.dictionaries import Onward
from veracausa.errors import FileError, MethodError
from veracausa.loading.dictionaries.files import mapped, setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts, Tensors

CONFIG = "config.yaml"
_THRESHOLD = ("activation_function.threshold", "threshold")


def read(path: Path, dtype: torch.dtype, layer: int | None) -> Parts:
    """One layer of a folder, or one file of it; of a cross-layer transcoder with what it writes to later layers.

    Raises:
        FileError: a file is not whole, or says something that is not done here.
        MethodError: the folder has several layers, and none was chosen.
    """
    folder = path if path.is_dir() else path.parent
    told = settings_of(folder / CONFIG) if (folder / CONFIG).exists() else {}
    crossing = is_cross_layer(folder, told)
    if crossing and not path.is_dir():
        raise MethodError(f"{path} is a part of a cross-layer transcoder: give its folder, {folder}, and layer=….")
    layer = _chosen(folder, layer) if path.is_dir() else layer
    file = layers_in(folder)[layer] if layer is not None and path.is_dir() else path
    tensors = tensors_of(file, dtype)
    at = re.fullmatch(r"layer_(\d+)", file.stem)
    if crossing:
        tensors = Tensors(file, {key.removesuffix(f"_{layer}"): value for key, value in tensors.found.items()})
    tensors.only(("W_enc", "W_dec", "b_enc", "b_dec", "W_skip", *_THRESHOLD), "transcoder of circuit-tracer")
    threshold = next((tensors.found[key] for key in _THRESHOLD if key in tensors), None)
    _require_function(folder, told, tensors, threshold)
    skip = tensors.get("W_skip")
    if crossing and skip is not None:
        raise FileError(f"{file} has a W_skip, which circuit-tracer's cross-layer transcoders have not.")
    onward = _onward(folder, int(layer or 0)) if crossing else None
    return Parts(
        tensors.one("W_enc", what="encoder").T,
        tensors.one("W_dec", what="decoder") if onward is None else onward.whole[:, 0].to(dtype),
        tensors.one("b_enc", what="encoder bias"),
        tensors.one("b_dec", what="decoder bias"),
        "relu" if threshold is None else "jumprelu",
        threshold=threshold if threshold is None else threshold.flatten(),
        skip=None if skip is None else skip.T,
        reads=setting(told, folder / CONFIG, "feature_input_hook", (str, type(None)), None),
        writes=setting(told, folder / CONFIG, "feature_output_hook", (str, type(None)), None),
        layer=int(at[1]) if at else layer,
        model=setting(told, folder / CONFIG, "model_name", (str, type(None)), None) or "",
        source=f"circuit-tracer, {file}",
        onward=onward,
    )


def is_cross_layer(folder: Path, told: Mapping[str, Any]) -> bool:
    """Whether a folder's transcoder writes to several layers."""
    return told.get("model_kind") == "cross_layer_transcoder" or any(folder.glob("W_dec_*.safetensors"))


def layers_in(folder: Path) -> dict[int, Path]:
    """Layer → the file with its encoder, of all layers that a folder has."""
    found = {}
    for file in folder.glob("*.safetensors"):
        if match := re.fullmatch(r"(?:layer|W_enc)_(\d+)", file.stem):
            found[int(match[1])] = file
    return dict(sorted(found.items()))


def _require_function(folder: Path, told: Mapping[str, Any], tensors: Tensors, threshold: Tensor | None) -> None:
    """FileError unless the settings' activation function is the one of these tensors."""
    function = told.get("activation_function", told.get("act_fn"))
    if function not in (None, "relu", "jump_relu", "jumprelu") or (function == "relu" and threshold is not None):
        raise FileError(f"{folder / CONFIG} says activation_function={shown(function)}; known are relu and jump_relu.")
    if function in ("jump_relu", "jumprelu") and threshold is None:
        tensors.one(*_THRESHOLD, what="thresholds")
    if threshold is not None and bool((threshold < 0).any()):
        raise FileError(f"{tensors.path} has thresholds below 0, so features below 0, which are not done here.")


def _onward(folder: Path, layer: int) -> Onward:
    """What features of a layer write to all layers from their own on, as it lies in its file."""
    path, name = folder / f"W_dec_{layer}.safetensors", f"W_dec_{layer}"
    if not path.exists():
        raise FileError(f"{folder} has the encoder of layer {layer}, but no {path.name}. Is the download whole?")
    tensors = Tensors(path, mapped(path))
    tensors.only((name,), "decoder of a cross-layer transcoder")
    found = tensors.one(name, what="decoder")
    if found.ndim != 3:
        raise FileError(
            f"{path} has a decoder {list(found.shape)}; that of a cross-layer one is [features, layers, d]."
        )
    return Onward(found)


def _chosen(folder: Path, layer: int | None) -> int:
    """The layer that was asked for; the only one where none is named."""
    known = [*layers_in(folder)]
    if layer is None and len(known) == 1:
        return known[0]
    said = ", ".join(map(str, known)) or "none at all"
    if layer is None:
        raise MethodError(
            f"{folder} has transcoders of layers {said}; say layer=…, or take all of them with vc.transcoders."
        )
    if layer not in known:
        raise FileError(f"{folder} has no transcoder of layer {layer}, but of layers {said}.")
    return layer
