"""circuit-tracer's transcoders: `config.yaml` and one `layer_10.safetensors` a layer.

    f = activation(x W_encᵀ + b_enc),   ŷ = f W_dec + b_dec (+ x W_skipᵀ),   W_enc [L, d], W_dec [L, d]

The activation is a JumpReLU where the file has thresholds, else ReLU. Cross-layer transcoders (`W_enc_10`, `W_dec_10`
[L, layers written, d]) write to several layers at once, which a dictionary of one site cannot.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from veracausa.arguments import shown
from veracausa.errors import FileError, MethodError
from veracausa.loading.dictionaries.files import setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts

CONFIG = "config.yaml"
_THRESHOLD = ("activation_function.threshold", "threshold")


def read(path: Path, dtype: torch.dtype, layer: int | None) -> Parts:
    """One layer of a folder, or one file of it.

    Raises:
        FileError: a file is not whole, of a cross-layer transcoder, or says something that is not done here.
        MethodError: the folder has several layers, and none was chosen.
    """
    folder = path if path.is_dir() else path.parent
    told = settings_of(folder / CONFIG) if (folder / CONFIG).exists() else {}
    require_single(folder, told)
    file = _file(folder, layer) if path.is_dir() else path
    tensors = tensors_of(file, dtype)
    at = re.fullmatch(r"layer_(\d+)", file.stem)
    tensors.only(("W_enc", "W_dec", "b_enc", "b_dec", "W_skip", *_THRESHOLD), "transcoder of circuit-tracer")
    threshold = next((tensors.found[key] for key in _THRESHOLD if key in tensors), None)
    function = told.get("activation_function", told.get("act_fn"))
    if function not in (None, "relu", "jump_relu", "jumprelu") or (function == "relu" and threshold is not None):
        raise FileError(f"{folder / CONFIG} says activation_function={shown(function)}; known are relu and jump_relu.")
    if function in ("jump_relu", "jumprelu") and threshold is None:
        tensors.one(*_THRESHOLD, what="thresholds")
    if threshold is not None and bool((threshold < 0).any()):
        raise FileError(f"{file} has thresholds below 0, so features below 0, which are not done here.")
    skip = tensors.get("W_skip")
    return Parts(
        tensors.one("W_enc", what="encoder").T,
        tensors.one("W_dec", what="decoder"),
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
    )


def require_single(folder: Path, told: dict[str, Any]) -> None:
    """Refuse cross-layer transcoders.

    Raises:
        FileError: it is one.
    """
    if told.get("model_kind") == "cross_layer_transcoder" or any(folder.glob("W_dec_*.safetensors")):
        raise FileError(
            f"{folder} is a cross-layer transcoder: each feature writes to its own layer's MLP output and to all later "
            "ones, and a dictionary here writes at one site. Take transcoders of single layers (model_kind: "
            "transcoder_set)."
        )


def _file(folder: Path, layer: int | None) -> Path:
    """The file of one layer; the only one where none is named."""
    files = {
        int(m[1]): file for file in folder.glob("layer_*.safetensors") if (m := re.fullmatch(r"layer_(\d+)", file.stem))
    }
    if layer is None and len(files) == 1:
        return next(iter(files.values()))
    if layer is None:
        raise MethodError(f"{folder} has transcoders of layers {_said(sorted(files))}; say layer=….")
    if layer not in files:
        raise FileError(f"{folder} has no transcoder of layer {layer}, but of layers {_said(sorted(files))}.")
    return files[layer]


def _said(layers: list[int]) -> str:
    return ", ".join(map(str, layers)) or "none at all"
