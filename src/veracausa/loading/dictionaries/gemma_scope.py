"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors` and `config.json`).

    f = ReLU(pre) · 1[pre > threshold],   pre = x W_enc + b_enc,   ŷ = f W_dec + b_dec (+ x affine_skip_connection)

The second's cross-layer transcoders are folders of `params_layer_10.safetensors`, one a layer, whose `w_dec` is
[L, layers, d]: what features of layer 10 write to every layer (nothing to those below) or, in files cut to them, to
layer 10, 11, … to the last; `affine_skip_connection` is of layer 10's own MLP.

The first names its site by its folder (`layer_10/width_16k/average_l0_82` of a collection "…-res", "-mlp", "-att" or
"-transcoders"); the second's settings say `hf_hook_point_in` and `_out`, modules of the Hugging Face model.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from veracausa.arguments import shown
from veracausa.dictionaries import Onward
from veracausa.errors import FileError, MethodError
from veracausa.loading.dictionaries.files import mapped, setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts, Tensors

FIRST, SECOND, CONFIG = "params.npz", "params.safetensors", "config.json"
#: What the collection is called → hooks that its dictionaries read and write.
_COLLECTIONS = {
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"), "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None), "att": ("attn.hook_z", None),
}  # fmt: skip
#: What its cross-layer transcoders read and write, as modules of layer {0}.
_ENDS = {"in": "model.layers.{0}.pre_feedforward_layernorm.output",
         "out": "model.layers.{0}.post_feedforward_layernorm.output"}  # fmt: skip
_LAYER = re.compile(r"layers\.(\d+|\{[a-z_]*\}|\*)\.")
_KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def read_first(path: Path, dtype: torch.dtype) -> Parts:
    """`params.npz`, in a folder whose path says layer and collection, as far as it does.

    Raises:
        FileError: it is not whole, or of the embeddings.
    """
    tensors = tensors_of(path, dtype)
    tensors.only((*_KEYS, *(key.lower() for key in _KEYS)), "dictionary of Gemma Scope")
    whole = str(path.parent.absolute())
    if re.search(r"(^|/)embedding(/|$)", whole):
        raise FileError(f"{path}: a dictionary of the embeddings, which are no site of veracausa.")
    layers = re.findall(r"(?:^|/)layer_(\d+)(?=/|$)", whole)
    layer = layers[-1] if layers else None
    kind = re.search(r"gemma-scope-(\w+)-(?:pt|it)-(transcoders|res|mlp|att)", whole)
    reads, writes = _COLLECTIONS[kind[2]] if kind else (None, None)
    hooks = [None if hook is None or layer is None else f"blocks.{layer}.{hook}" for hook in (reads, writes)]
    return Parts(
        tensors.one("W_enc", "w_enc", what="encoder"),
        tensors.one("W_dec", "w_dec", what="decoder"),
        tensors.one("b_enc", what="encoder bias"),
        tensors.one("b_dec", what="decoder bias"),
        "jumprelu",
        threshold=tensors.one("threshold", what="thresholds"),
        reads=hooks[0],
        writes=hooks[1],
        model=f"gemma-2-{kind[1]}" if kind else "",
        source=f"Gemma Scope, {path}",
    )


def read_second(folder: Path, dtype: torch.dtype) -> Parts:
    """`params.safetensors` with its settings.

    Raises:
        FileError: a file is not whole, of several layers at once, or of another architecture.
    """
    tensors, path = tensors_of(folder / SECOND, dtype), folder / CONFIG
    encoder = tensors.one("w_enc", "W_enc", what="encoder")
    if encoder.ndim != 2:
        raise FileError(
            f"{tensors.path}: an encoder {list(encoder.shape)} of several layers (a crosscoder or cross-layer "
            "transcoder) does not fit a dictionary of one site. Take one that reads a single layer."
        )
    tensors.only(("w_enc", "w_dec", *_KEYS, "affine_skip_connection"), "dictionary of Gemma Scope 2")
    told = settings_of(path) if path.exists() else {}
    if (architecture := setting(told, path, "architecture", str, "jump_relu")) not in ("jump_relu", "jumprelu"):
        raise FileError(f"{path} says architecture={shown(architecture)}; known is jump_relu.")
    reads, writes = (setting(told, path, f"hf_hook_point_{end}", (str, type(None)), None) for end in ("in", "out"))
    skip = tensors.get("affine_skip_connection")
    if told.get("affine_connection") and skip is None:
        raise FileError(f"{path} says that it has an affine connection, but {tensors.path} has none.")
    parts = Parts(
        encoder,
        tensors.one("w_dec", "W_dec", what="decoder"),
        tensors.one("b_enc", what="encoder bias"),
        tensors.one("b_dec", what="decoder bias"),
        "jumprelu",
        threshold=tensors.one("threshold", what="thresholds"),
        skip=skip,  # x @ affine_skip_connection: [width read, width written] already
        reads=reads,
        writes=writes,
        model=setting(told, path, "model_name", (str, type(None)), None) or "",
        source=f"Gemma Scope 2, {folder}",
    )
    bias = parts.decoder_bias if told.get("apply_b_dec_to_input") else None
    return replace(parts, before=bias)


def layers_in(folder: Path) -> dict[int, Path]:
    """Layer → its file, of all layers that a folder has of a cross-layer transcoder."""
    found = {}
    for file in folder.glob("params_layer_*.safetensors"):
        if match := re.fullmatch(r"params_layer_(\d+)", file.stem):
            found[int(match[1])] = file
    return dict(sorted(found.items()))


def read_layer(folder: Path, dtype: torch.dtype, layer: int | None, layers: int) -> Parts:
    """One layer of a cross-layer transcoder, of a model with so many `layers`.

    Raises:
        FileError: a file is not whole, or says something that is not done here. MethodError: several layers, and none
            was chosen.
    """
    known, path = layers_in(folder), folder / CONFIG
    said = ", ".join(map(str, known))
    if layer is None:
        raise MethodError(f"{folder} has layers {said}; say layer=…, or take all of them with vc.transcoders.")
    if layer not in known:
        raise FileError(f"{folder} has no transcoder of layer {layer}, but of layers {said}.")
    tensors = Tensors(known[layer], mapped(known[layer]))
    tensors.only(("w_enc", "w_dec", "b_enc", "b_dec", "threshold", "affine_skip_connection"),
                 "cross-layer transcoder of Gemma Scope 2")  # fmt: skip
    told = settings_of(path) if path.exists() else {}
    if (architecture := setting(told, path, "architecture", str, "jump_relu")) not in ("jump_relu", "jumprelu"):
        raise FileError(f"{path} says architecture={shown(architecture)}; known is jump_relu.")
    skip, onward = tensors.get("affine_skip_connection"), _onward(tensors, layer, layers)
    if told.get("affine_connection") and skip is None:
        raise FileError(f"{path} says that it has an affine connection, but {tensors.path} has none.")
    threshold = tensors.one("threshold", what="thresholds").to(dtype)
    if bool((threshold < 0).any()):
        raise FileError(f"{tensors.path} has thresholds below 0, so features below 0, which are not done here.")
    reads, writes = (_end(told, path, end, layer) for end in ("in", "out"))
    return Parts(
        tensors.one("w_enc", what="encoder").to(dtype),
        onward.whole[:, 0].to(dtype),
        tensors.one("b_enc", what="encoder bias").to(dtype),
        tensors.one("b_dec", what="decoder bias").to(dtype),
        "jumprelu",
        threshold=threshold,
        skip=None if skip is None else skip.to(dtype),
        reads=reads,
        writes=writes,
        layer=layer,
        model=setting(told, path, "model_name", (str, type(None)), None) or "",
        source=f"Gemma Scope 2, {tensors.path}",
        onward=onward,
    )


def _onward(tensors: Tensors, layer: int, layers: int) -> Onward:
    """What the features write from their own layer on: decoders are of all layers, or cut to those."""
    found = tensors.one("w_dec", what="decoder")
    if found.ndim != 3 or found.shape[1] not in (layers, layers - layer):
        raise FileError(
            f"{tensors.path} has a decoder {list(found.shape)}; that of layer {layer} of a model with {layers} layers "
            f"is [features, {layers}, d], or [features, {layers - layer}, d] from its own layer on."
        )
    return Onward(found[:, layer:] if found.shape[1] == layers else found)


def _end(told: dict[str, Any], path: Path, end: str, layer: int) -> str:
    """Where it reads or writes; FileError where the settings say another place than the one known."""
    known = _ENDS[end].format(layer)
    said = setting(told, path, f"hf_hook_point_{end}", (str, list, type(None)), None)
    given = said if isinstance(said, list) else [said] if said else []
    other = next((one for one in given if _LAYER.sub(f"layers.{layer}.", str(one)) != known), None)
    if other is not None:
        raise FileError(f"{path} says hf_hook_point_{end}={shown(other)}; of cross-layer transcoders {known} is known.")
    return known
