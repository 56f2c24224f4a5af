"""Plain tensors: a dict, or a file with the same names, in the field's commonest notation.

pre = (x − before) W_enc + b_enc,   f = activation(pre),   ŷ = f W_dec + b_dec (+ x W_skip)

W_dec may be [features, layers, width]: of one layer of a cross-layer transcoder, what features write to their own
layer's MLP and to those behind it, one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import kind_and_value, shown
from veracausa.dictionaries.encoder import Activation, Norm
from veracausa.dictionaries.onward import Onward
from veracausa.errors import MethodError
from veracausa.loading.dictionaries.parts import Parts, Tensors

#: Names of tensors → what they are in `Parts`.
_NAMES = {
    "W_enc": "encoder", "W_dec": "decoder", "b_enc": "encoder_bias", "b_dec": "decoder_bias", "before": "before",
    "threshold": "threshold", "r_mag": "log_scale", "b_mag": "magnitude_bias", "W_skip": "skip",
}  # fmt: skip
#: Names of settings beside them.
_SETTINGS = ("activation", "k", "norm", "norm_eps", "labels", "subtract_b_dec")


def of_tensors(given: Mapping[str, Any], *, path: Path | str = "The dict", k: int | None = None) -> Parts:
    """What a dict says: tensors or arrays under `W_enc`, `W_dec`, …, and how they are used.

    Without an `activation` it is topk where there is a k, jumprelu where there is a threshold, gated where there are
    `r_mag` and `b_mag`, else relu. `subtract_b_dec`: b_dec comes off the input first.

    Raises:
        MethodError: a name is not known, or a value is none of its kind.
    """
    strange = sorted(str(key) for key in given if key not in _NAMES and key not in _SETTINGS)
    if strange:
        raise MethodError(
            f"{path} has {', '.join(strange[:6])}, which is not known. A dictionary of plain tensors has W_enc and "
            f"W_dec, and may have {', '.join((*list(_NAMES)[2:], *_SETTINGS))}."
        )
    tensors = Tensors(
        path, {key: tensor_of(key, value) for key, value in given.items() if key in _NAMES and value is not None}
    )
    encoder, decoder = tensors.one("W_enc", what="encoder"), tensors.one("W_dec", what="decoder")
    onward = Onward(decoder) if decoder.ndim == 3 and decoder.shape[1] else None
    decoder = decoder if onward is None else decoder[:, 0]
    _require_matrices(encoder, decoder)
    parts = {name: tensors.get(key) for key, name in _NAMES.items()} | {"decoder": decoder}
    for name, size in (("encoder_bias", encoder.shape[1]), ("decoder_bias", decoder.shape[1])):
        parts[name] = encoder.new_zeros(size) if parts[name] is None else parts[name]
    if given.get("subtract_b_dec"):
        parts["before"] = parts["decoder_bias"]
    threshold = parts["threshold"]
    if threshold is not None and threshold.numel() == 1:
        parts["threshold"] = torch.full((encoder.shape[1],), float(threshold))
    chosen = given.get("k") if k is None else k
    chosen = chosen.item() if isinstance(chosen, (Tensor, np.ndarray)) and chosen.ndim == 0 else chosen
    activation = _activation(given, parts, chosen)
    _require_used(given, parts, chosen, activation)
    assert chosen is None or isinstance(chosen, int)
    return Parts(
        **cast("Any", parts),
        activation=activation,
        k=chosen,
        norm=_among(given.get("norm", "none"), get_args(Norm), "norm"),
        norm_eps=given.get("norm_eps", 1e-5),
        labels=tuple(given.get("labels") or ()),
        onward=onward,
        source="tensors" if isinstance(path, str) else f"tensors, {path}",
    )


def _require_used(given: Mapping[str, Any], parts: Mapping[str, Any], k: Any, activation: Activation) -> None:
    """Refuse settings that are none of their kind, and tensors that the activation would leave out silently."""
    if k is not None and (isinstance(k, bool) or not isinstance(k, int)):
        raise MethodError(f"k is a whole number, but this is {kind_and_value(k)}.")
    eps, labels, off = given.get("norm_eps", 1e-5), given.get("labels") or (), given.get("subtract_b_dec", False)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1:
        raise MethodError(f"norm_eps is a small number of 0 or more, but this is {kind_and_value(eps)}.")
    if isinstance(labels, str) or not all(isinstance(one, str) for one in labels):
        raise MethodError(f"labels are names, one a feature, but this is {kind_and_value(labels)}.")
    if not isinstance(off, (bool, np.bool_)):
        raise MethodError(f"subtract_b_dec is True or False, but this is {kind_and_value(off)}.")
    if off and "before" in given:
        raise MethodError("before and subtract_b_dec both say what comes off the input. Give one of them.")
    used = {"k": ["topk"], "threshold": ["jumprelu"], "log_scale": ["gated"], "magnitude_bias": ["gated"]}
    for name, by in used.items():
        value = k if name == "k" else parts[name]
        if value is not None and activation not in by:
            called = next((key for key, role in _NAMES.items() if role == name), name)
            raise MethodError(
                f"{called} belongs to activation={by[0]!r}, but this dictionary's is {activation!r}. Leave it out, "
                "or say activation=."
            )


def tensor_of(key: str, value: Any) -> Tensor:
    """A tensor of what a user gives: a tensor, an array, numbers.

    Raises:
        MethodError: it is none, or has NaN or infinite numbers.
    """
    found = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    found = torch.tensor(found) if isinstance(found, (int, float, list, tuple)) else found
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.layout != torch.strided:
        raise MethodError(f"{key} is a tensor of numbers with a decimal point, but this is {kind_and_value(value)}.")
    if not torch.isfinite(found).all():
        raise MethodError(f"{key} has NaN or infinite numbers.")
    return found.detach()


def _require_matrices(encoder: Tensor, decoder: Tensor) -> None:
    if encoder.ndim != 2 or decoder.ndim != 2 or encoder.shape[1] != decoder.shape[0]:
        raise MethodError(
            f"W_enc is [width, features] and W_dec [features, width], but these are {list(encoder.shape)} and "
            f"{list(decoder.shape)}. Transpose what lies the other way."
        )


def _activation(given: Mapping[str, Any], parts: Mapping[str, Any], k: Any) -> Activation:
    if "activation" in given:
        return cast("Activation", _among(given["activation"], get_args(Activation), "activation"))
    if k is not None:
        return "topk"
    if parts["log_scale"] is not None:
        return "gated"
    return "relu" if parts["threshold"] is None else "jumprelu"


def _among(value: Any, known: tuple[str, ...], what: str) -> Any:
    if value not in known:
        raise MethodError(f"{what}={shown(value)} is not known: {', '.join(known)}.")
    return value
