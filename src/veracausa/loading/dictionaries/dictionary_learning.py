"""dictionary_learning: `ae.pt` and `config.json`.

| class | f | ŷ |
|---|---|---|
| AutoEncoder | ReLU((x − bias) Wᵀ + b) | f Dᵀ + bias |
| AutoEncoderNew | ReLU(x Wᵀ + b) | f Dᵀ + decoder.bias |
| GatedAutoEncoder | n · 1[u Wᵀ + gate_bias > 0] · ReLU(e^r_mag · u Wᵀ + mag_bias), u = x − decoder_bias | (f / n) Dᵀ + decoder_bias |
| AutoEncoderTopK | the k largest of ReLU((x − b_dec) Wᵀ + b) | f Dᵀ + b_dec |
| BatchTopKSAE, MatryoshkaBatchTopKSAE | ReLU(pre) where it is above one threshold | f Dᵀ + b_dec |
| JumpReluAutoEncoder | n · ReLU(pre · 1[pre > threshold]), pre = x W_enc + b_enc | (f / n) W_dec + b_dec |

n: the norm of the feature's row of the decoder, ‖D_i‖, in which features are counted there.
"""  # noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from veracausa.arguments import shown
from veracausa.errors import FileError
from veracausa.loading.dictionaries.files import setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts, Tensors, decoder_norms

WEIGHTS, CONFIG = "ae.pt", "config.json"
_BATCHED = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "MatroyshkaBatchTopKSAE")
#: Class → keys that it has; the first whose keys are there is meant where the settings name none.
_KEYS = {
    "JumpReluAutoEncoder": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "GatedAutoEncoder": ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"),
    "AutoEncoderTopK": ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k"),
    "AutoEncoder": ("encoder.weight", "encoder.bias", "decoder.weight", "bias"),
    "AutoEncoderNew": ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"),
}


def read(folder: Path, dtype: torch.dtype) -> Parts:
    """A folder of dictionary_learning.

    Raises:
        FileError: a file is not whole, or of a class that is not known here.
    """
    tensors, path = tensors_of(folder / WEIGHTS, dtype), folder / CONFIG
    told = (settings_of(path).get("trainer") or {}) if path.exists() else {}
    kind = _class(told, tensors, path)
    known = _KEYS["AutoEncoderTopK" if kind in _BATCHED else kind]
    tensors.only((*known, "threshold", "active_groups", "group_sizes"), kind)
    made = _jumprelu(tensors) if kind == "JumpReluAutoEncoder" else _linear(kind, tensors)
    return Parts(
        **made,
        reads=_hook(told, path),
        model=setting(told, path, "lm_name", str, ""),
        source=f"dictionary_learning {kind}, {folder}",
    )


def _class(told: dict[str, Any], tensors: Tensors, path: Path) -> str:
    named = str(told.get("dict_class") or "").rsplit(".", 1)[-1].rstrip("'>")
    if named:
        if named not in _KEYS and named not in _BATCHED:
            raise FileError(f"{path} says dict_class={shown(named)}; known are {', '.join((*_KEYS, *_BATCHED))}.")
        return named
    found = next((name for name, keys in _KEYS.items() if all(key in tensors for key in keys)), None)
    if found == "AutoEncoderTopK":
        raise FileError(
            f"{tensors.path}: a TopK or a BatchTopK dictionary, which have the same tensors; only {CONFIG} "
            "(trainer: dict_class) tells them apart. Put it beside."
        )
    if found is None:
        raise FileError(
            f"{tensors.path} has {', '.join(sorted(tensors.found))}: no class of dictionary_learning that is known "
            f"here, {', '.join((*_KEYS, *_BATCHED))}."
        )
    return found


def _jumprelu(tensors: Tensors) -> dict[str, Any]:
    decoder = tensors.one("W_dec", what="decoder")
    parts = Parts(
        tensors.one("W_enc", what="encoder"),
        decoder,
        tensors.one("b_enc", what="encoder bias"),
        tensors.one("b_dec", what="decoder bias"),
        "jumprelu",
        threshold=tensors.one("threshold", what="thresholds"),
    )
    return _made(parts.scaled_features(decoder_norms(decoder)))


def _linear(kind: str, tensors: Tensors) -> dict[str, Any]:
    encoder, decoder = tensors.one("encoder.weight", what="encoder").T, tensors.one("decoder.weight", what="decoder").T
    bias = tensors.one(
        *{"AutoEncoder": ("bias",), "AutoEncoderNew": ("decoder.bias",), "GatedAutoEncoder": ("decoder_bias",)}.get(
            kind, ("b_dec",)
        ),
        what="decoder bias",
    )
    if kind == "GatedAutoEncoder":
        gates = [tensors.one(key, what=key) for key in ("gate_bias", "r_mag", "mag_bias")]
        parts = Parts(
            encoder, decoder, gates[0], bias, "gated", before=bias, log_scale=gates[1], magnitude_bias=gates[2]
        )
        return _made(parts.scaled_features(decoder_norms(decoder)))
    own = tensors.one("encoder.bias", what="encoder bias")
    if kind in _BATCHED:
        return _made(Parts(encoder, decoder, own, bias, "jumprelu", before=bias, threshold=_threshold(tensors, own)))
    if kind == "AutoEncoderTopK":
        k = int(tensors.one("k", what="k"))
        return _made(Parts(encoder, decoder, own, bias, "topk", before=bias, k=k))
    return _made(Parts(encoder, decoder, own, bias, "relu", before=bias if kind == "AutoEncoder" else None))


def _threshold(tensors: Tensors, like: torch.Tensor) -> torch.Tensor:
    found = float(tensors.one("threshold", what="threshold"))
    if found < 0:
        raise FileError(
            f"{tensors.path}: its threshold was never learned (it is {found:g}), so which features are active would "
            "depend on which tokens run together. Train it longer, or hand the tensors over with k, as a topk."
        )
    return torch.full_like(like, found)


def _made(parts: Parts) -> dict[str, Any]:
    """The tensors that a formula gave."""
    names = ("encoder", "decoder", "encoder_bias", "decoder_bias", "activation", "before", "threshold", "k",
             "log_scale", "magnitude_bias")  # fmt: skip
    return {name: getattr(parts, name) for name in names}


def _hook(told: dict[str, Any], path: Path) -> str | None:
    """Where it was trained: the settings' layer, of the stream behind it unless a submodule is named."""
    if "layer" not in told:
        return None
    layer = setting(told, path, "layer", int)
    named = str(told.get("submodule_name") or f"resid_post_layer_{layer}")
    kinds = {"resid_post": f"blocks.{layer}.hook_resid_post", "resid_pre": f"blocks.{layer}.hook_resid_pre",
             "mlp_out": f"layers.{layer}.mlp", "attn_out": f"layers.{layer}.self_attn"}  # fmt: skip
    return next((hook for key, hook in kinds.items() if named.startswith(key)), f"layer {layer}, {named}")
