"""SAELens' own files: `cfg.json` and `sae_weights.safetensors`, of version 6 and before.

    u = norm(x) − b_dec [apply_b_dec_to_input],   pre = u W_enc + b_enc,   x̂ = unnorm(f W_dec + b_dec)

| architecture | f |
|---|---|
| standard | ReLU(pre) |
| gated | 1[u W_enc + b_gate > 0] · ReLU(u W_enc e^r_mag + b_mag) |
| jumprelu | ReLU(pre) · 1[pre > threshold]; so are trained batchtopk ones saved |
| topk | ReLU of the k largest of pre |
| transcoder, skip_transcoder, jumprelu_transcoder | the same, without b_dec at the input; + x W_skipᵀ |

`rescale_acts_by_decoder_norm`: pre times ‖W_dec,i‖ before the activation, f through the decoder of unit rows.
`normalize_activations`: "expected_average_only_in" multiplies inputs with one factor, which is not in the files;
"constant_norm_rescale" and "layer_norm" are done token by token (`Encoder.norm`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from veracausa.arguments import shown
from veracausa.dictionaries.encoder import Activation, Norm
from veracausa.errors import FileError, MethodError
from veracausa.loading.dictionaries.files import setting, settings_of, tensors_of
from veracausa.loading.dictionaries.parts import Parts, Tensors, decoder_norms

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

#: Architecture → activation; transcoders' names end so.
_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu", "gated": "gated", "jumprelu": "jumprelu", "topk": "topk", "transcoder": "relu",
    "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
_NORMS: dict[str, Norm] = {
    "none": "none", "constant_norm_rescale": "constant_norm", "layer_norm": "layer_norm",
    "expected_average_only_in": "none",
}  # fmt: skip
#: Names that settings had before version 6.
_OLD = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn"}  # fmt: skip
_KNOWN = ("W_enc", "W_dec", "b_enc", "b_dec", "b_gate", "b_mag", "r_mag", "threshold", "W_skip", "scaling_factor",
          "finetuning_scaling_factor")  # fmt: skip


def read(folder: Path, dtype: torch.dtype, *, norm_factor: float | None) -> Parts:
    """A folder of SAELens.

    Raises:
        FileError: a file is not whole, or of an architecture that is not known here.
        MethodError: the inputs' factor is needed and not given, or given and not needed.
    """
    path = folder / CONFIG
    told, tensors = _settings(path), tensors_of(folder / WEIGHTS, dtype)
    architecture = setting(told, path, "architecture", str, "standard")
    if told.get("activation_fn") == "topk" and architecture == "standard":
        architecture = "topk"
    if architecture not in _ACTIVATIONS:
        known = "a trained one is saved as jumprelu; save it for inference" if "batchtopk" in architecture else (
            f"known are {', '.join(_ACTIVATIONS)}")  # fmt: skip
        raise FileError(f"{path} says architecture={shown(architecture)}: {known}.")
    tensors.only(_KNOWN, architecture)
    _require_plain(told, tensors, path)
    parts = _parts(told, path, tensors, architecture)
    return _normed(parts, told, path, norm_factor)


def _settings(path: Path) -> dict[str, Any]:
    """The settings with what version 6 put aside as metadata, under version 6's names."""
    told = {_OLD.get(key, key): value for key, value in settings_of(path).items()}
    for key in ("meta", "metadata"):
        more = told.get(key)
        told |= {name: value for name, value in more.items() if name not in told} if isinstance(more, dict) else {}
    return told


def _require_plain(told: dict[str, Any], tensors: Tensors, path: Path) -> None:
    """Refuse what would change features and is not done here."""
    if told.get("hook_head_index") is not None:
        raise FileError(
            f"{path}: trained on head {told['hook_head_index']} alone, which is no site here; a dictionary of all "
            "heads reads z10."
        )
    function = told.get("activation_fn") or "relu"
    architecture = told.get("architecture") or "standard"
    if function == "topk" and architecture not in ("standard", "topk"):
        raise FileError(f"{path} says activation_fn='topk' of a {shown(architecture)}, which is not read here.")
    if "transcoder" in str(architecture) and told.get("apply_b_dec_to_input"):
        raise FileError(
            f"{path} is a transcoder with apply_b_dec_to_input, whose bias is of another site than it reads. Hand its "
            "tensors over as a dict."
        )
    if told.get("normalize_activations") is not None and not isinstance(told["normalize_activations"], str | bool):
        raise FileError(f"{path} says normalize_activations={shown(told['normalize_activations'])}, which is no word.")
    if function not in ("relu", "topk"):
        raise FileError(f"{path} says activation_fn={shown(function)}, which is none that is known: relu, topk.")
    for key in ("scaling_factor", "finetuning_scaling_factor"):
        scale = tensors.get(key)
        if scale is not None and not bool((scale == 1).all()):
            raise FileError(
                f"{path.parent / WEIGHTS} has a {key} other than 1, of a finetuned decoder, which is not read here."
            )


def _parts(told: dict[str, Any], path: Path, tensors: Tensors, architecture: str) -> Parts:
    transcodes = "transcoder" in architecture
    decoder, bias = tensors.one("W_dec", what="decoder"), tensors.one("b_dec", what="decoder bias")
    subtracts = setting(told, path, "apply_b_dec_to_input", bool, not transcodes) and not transcodes
    gated, activation = architecture == "gated", _ACTIVATIONS[architecture]
    skip = tensors.one("W_skip", what="skip") if "skip" in architecture else tensors.get("W_skip")
    parts = Parts(
        tensors.one("W_enc", what="encoder"),
        decoder,
        tensors.one("b_gate" if gated else "b_enc", what="encoder bias"),
        bias,
        activation,
        before=bias if subtracts else None,
        threshold=tensors.one("threshold", what="thresholds") if activation == "jumprelu" else None,
        k=_k(told, path) if activation == "topk" else None,
        log_scale=tensors.one("r_mag", what="r_mag") if gated else None,
        magnitude_bias=tensors.one("b_mag", what="b_mag") if gated else None,
        skip=None if skip is None else skip.T,
        reads=setting(told, path, "hook_name", (str, type(None)), None),
        writes=setting(told, path, "hook_name_out", (str, type(None)), None) or None if transcodes else None,
        model=setting(told, path, "model_name", (str, type(None)), None) or "",
        source=f"SAELens {architecture}, {path.parent}",
    )
    if transcodes and parts.writes is None:
        raise FileError(f"{path}: a transcoder that does not say where it writes (hook_name_out).")
    centred = _centred(told, parts.reads)
    normed = told.get("normalize_activations") in ("constant_norm_rescale", "layer_norm")
    if centred and (parts.skip is not None or (normed and str(parts.reads).endswith("hook_z"))):
        what = "a skip" if parts.skip is not None else "normalize_activations at hook_z"
        raise FileError(
            f"{path}: trained on processed weights, with {what}: what was taken off before is not put back here. Hand "
            "over tensors that are fitted to the model's own activations, as a dict."
        )
    rescaled = setting(told, path, "rescale_acts_by_decoder_norm", bool, False)
    parts = parts.scaled_features(decoder_norms(decoder)) if rescaled else parts
    return replace(parts, centred=centred)


def _k(told: dict[str, Any], path: Path) -> int:
    """How many features a token has; before version 6 among the activation's arguments."""
    more = told.get("activation_fn_kwargs")
    k: int = setting(told | (more if isinstance(more, dict) else {}), path, "k", int)
    return k


def _centred(told: dict[str, Any], hook: str | None) -> bool | None:
    """Whether it was trained on processed weights, as far as the settings say."""
    if told.get("model_class_name") not in (None, "HookedTransformer"):
        return False
    how = told.get("model_from_pretrained_kwargs")
    key = "fold_value_biases" if hook is not None and hook.endswith("hook_z") else "center_writing_weights"
    found = how.get(key) if isinstance(how, dict) else None
    return found if isinstance(found, bool) else None


def _normed(parts: Parts, told: dict[str, Any], path: Path, norm_factor: float | None) -> Parts:
    how = told.get("normalize_activations") or "none"
    how = {False: "none", True: "expected_average_only_in"}.get(how, how) if isinstance(how, bool) else how
    if how not in _NORMS:
        raise FileError(f"{path} says normalize_activations={shown(how)}; known are {', '.join(_NORMS)}.")
    if norm_factor is not None and how != "expected_average_only_in":
        raise MethodError(f"norm_factor: {path} says normalize_activations={how!r}, which takes no factor.")
    if how == "none":
        return parts
    if parts.writes is not None:
        raise FileError(
            f"{path} is a transcoder with normalize_activations={how!r}: whether its outputs are normed back is "
            "not said anywhere. Fold the factors into its tensors and hand those over as a dict."
        )
    if how != "expected_average_only_in":
        return replace(parts, norm=_NORMS[how], norm_eps=1e-5)
    if norm_factor is None:
        raise MethodError(
            f"{path} says normalize_activations={how!r}: inputs were multiplied with one factor, √d / (mean ‖x‖ over "
            "the training text), which is not in the files. Say norm_factor=… (SAELens' registry has it as "
            "norm_scaling_factor)."
        )
    return parts.input_scaled(norm_factor)
