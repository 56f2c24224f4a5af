"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors` and `config.json`).

    f = ReLU(pre) · 1[pre > threshold],   pre = x W_enc + b_enc,   ŷ = f W_dec + b_dec (+ x affine_skip_connection)

The first names its site by its folder (`layer_10/width_16k/average_l0_82` of a collection "…-res", "-mlp", "-att" or
"-transcoders"); the second's settings say `hf_hook_point_in` and `_out`, modules of the Hugging Face model.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from veracausa.arguments import shown
from veracausa.errors import FileError
from veracausa.loading.dictionaries.files import setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts

FIRST, SECOND, CONFIG = "params.npz", "params.safetensors", "config.json"
#: What the collection is called → hooks that its dictionaries read and write.
_COLLECTIONS = {
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"), "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None), "att": ("attn.hook_z", None),
}  # fmt: skip
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
