"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named by its hookpoint.

u = x − b_dec (of a transcoder: x),   f = the k largest of ReLU(u Wᵀ + b),   ŷ = f W_dec + b_dec (+ x W_skipᵀ)
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from veracausa.arguments import shown
from veracausa.errors import FileError
from veracausa.loading.dictionaries.files import setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
#: A folder's name that says where: a number of a layer stands in it.
_HOOK = re.compile(r"(^|\.)\d+(\.|$)")
#: Settings that change features and are not done here.
_OTHER = ("embed_skip", "gram_lookup", "signed")


def read(folder: Path, dtype: torch.dtype) -> Parts:
    """A folder of sparsify; its name is the hookpoint, such as `layers.10.mlp`.

    Raises:
        FileError: a file is not whole, or says something that is not done here.
    """
    path = folder / CONFIG
    told, tensors = settings_of(path), tensors_of(folder / WEIGHTS, dtype)
    if (activation := setting(told, path, "activation", str, "topk")) != "topk":
        raise FileError(f"{path} says activation={shown(activation)}; known is topk.")
    for key in _OTHER:
        if told.get(key):
            raise FileError(f"{path} says {key}={shown(told[key])}, which needs more than this file has.")
    tensors.only(("encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip"), "dictionary of sparsify")
    transcodes = setting(told, path, "transcode", bool, False)
    bias, skip = tensors.one("b_dec", what="decoder bias"), tensors.get("W_skip")
    hook = folder.name if _HOOK.search(folder.name) else None
    return Parts(
        tensors.one("encoder.weight", what="encoder").T,
        tensors.one("W_dec", what="decoder"),
        tensors.one("encoder.bias", what="encoder bias"),
        bias,
        "topk",
        k=setting(told, path, "k", int),
        before=None if transcodes else bias,
        skip=None if skip is None else skip.T,
        reads=f"{hook}.input" if hook and transcodes else hook,
        writes=hook if transcodes else None,
        source=f"sparsify, {folder}",
    )
