"""Tensors and settings from files, without running anything of them: safetensors, npz, pt, json, yaml."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.errors import FileError
from veracausa.loading.dictionaries.parts import Tensors

#: Endings of files that hold tensors.
ENDINGS = (".safetensors", ".npz", ".pt")


def tensors_of(path: Path, dtype: torch.dtype) -> Tensors:
    """All tensors of a file, on the CPU; numbers with a decimal point in the precision that they are used in.

    Raises:
        FileError: it is not whole, is no such file, or would have to run code to be read.
    """
    readers = {".safetensors": _safetensors, ".npz": _npz, ".pt": _pt}
    if path.suffix not in readers:
        raise FileError(
            f"{path}: tensors are read from {', '.join(ENDINGS)} files. Files of other endings may run code when they "
            "are read; save the tensors anew with safetensors."
        )
    found = readers[path.suffix](path)
    for key, value in found.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise FileError(f"{path}: {key} has NaN or infinite numbers. The file is damaged, or was saved too narrow.")
    return Tensors(path, {key: value.to(dtype) if value.is_floating_point() else value for key, value in found.items()})


def mapped(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file as they lie there, mapped into memory: what is not looked at is not read.

    Raises:
        FileError: it cannot be read.
    """
    return _safetensors(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} cannot be read as safetensors ({error}). Fetch it again.") from error


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise FileError(f"{path} cannot be read as npz without running code ({error}). Fetch it again.") from error


def beside_tensors(path: Path) -> dict[str, Any]:
    """What a `.pt` file holds beside tensors: settings, by name; nothing of other files."""
    if path.suffix != ".pt":
        return {}
    return {key: value for key, value in _loaded(path).items() if not isinstance(value, Tensor)}


def _pt(path: Path) -> dict[str, Tensor]:
    tensors = {key: value for key, value in _loaded(path).items() if isinstance(value, Tensor)}
    prefix = "_orig_mod."  # of a compiled module
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def _loaded(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} holds more than tensors, and reading it would run code of its own, which is not done "
            f"({' '.join(str(error).split())[:160]}). If you trust it, save its state_dict as safetensors."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} cannot be read as a file of torch ({error}). Fetch it again.") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise FileError(f"{path} holds {shown(found)}, but a dictionary is a state_dict: names and tensors.")
    return found


def settings_of(path: Path) -> dict[str, Any]:
    """A JSON or YAML file with settings.

    Raises:
        FileError: it cannot be read, or holds no table of names and values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise FileError(f"{path} holds {shown(found)}, but settings are a table of names and values.")
    return found


def _yaml(text: str) -> Any:
    import yaml  # comes with transformers

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def setting(settings: dict[str, Any], path: Path, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """One setting, of its type.

    Raises:
        FileError: it is missing (and has no default), or of another type.
    """
    value = settings.get(key, default)
    if value is ...:
        raise FileError(f"{path} does not say {key}, which this format needs. Is it the settings of another format?")
    if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is int)):
        raise FileError(f"{path} says {key}={shown(value)}, which is none that is known.")
    return value
