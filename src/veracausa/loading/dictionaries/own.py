"""Dictionaries as this library keeps them: one safetensors file, with plain tensors and a header that says the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veracausa.dictionaries import Dictionary
from veracausa.errors import FileError
from veracausa.loading.dictionaries.files import tensors_of
from veracausa.loading.dictionaries.parts import Parts
from veracausa.loading.dictionaries.plain import of_tensors
from veracausa.storage.files import write_bytes

#: Under which name the header lies in a file's metadata.
HEADER = "veracausa.dictionary"
_SETTINGS = ("activation", "k", "norm", "norm_eps")


def save(
    dic: Dictionary, path: str | Path, *, dtype: torch.dtype | None = None, told: Mapping[str, Any] | None = None
) -> Path:
    """Write a dictionary; `vc.dictionary(lm, path)` reads it (public as `dic.save`).

    Args:
        dic: the dictionary.
        path: the file, whose name ends in .safetensors.
        dtype: precision to keep it in, such as torch.float16; default its own.
        told: what else the header says, such as the model, and how good it is.

    Raises:
        FileError: it cannot be written, or has another ending.
    """
    from safetensors.torch import save as packed

    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise FileError(f"{path}: a dictionary is written to a file whose name ends in .safetensors.")
    if dic.onward is not None:
        raise FileError(f"{dic!r} writes to several layers: it is kept in the files that it was read from.")
    e = dic.encoder
    found = {"W_enc": e.weight, "W_dec": dic.weight, "b_enc": e.bias, "b_dec": dic.bias, "before": e.before,
             "threshold": e.threshold, "r_mag": e.log_scale, "b_mag": e.magnitude_bias, "W_skip": dic.skip}  # fmt: skip
    kept = {
        key: value.detach().cpu().to(dtype or value.dtype).contiguous()
        for key, value in found.items()
        if value is not None
    }
    for key, value in kept.items():
        if not torch.isfinite(value).all():
            raise FileError(f"{path}: {key} does not fit into {dtype}. Keep it in float32.")
    header = {key: getattr(e, key) for key in _SETTINGS} | {"reads": dic.reads.name, "writes": dic.writes.name}
    header |= {"labels": list(dic.labels), "source": dic.source} | dict(told or {})
    text = json.dumps(header)
    return write_bytes(path, packed(kept, metadata={HEADER: text}))


def header_of(path: Path) -> dict[str, Any] | None:
    """The header of a file of this library; None of any other."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
        return None if text is None else dict(json.loads(text))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise FileError(f"{path} cannot be read as safetensors ({error}). Fetch it again.") from error


def read(path: Path, header: Mapping[str, Any], dtype: torch.dtype) -> Parts:
    """A file of this library."""
    given: dict[str, Any | Tensor] = dict(tensors_of(path, dtype).found)
    given |= {key: header[key] for key in _SETTINGS if header.get(key) is not None}
    parts = of_tensors(given | {"labels": header.get("labels", ())}, path=path)
    return replace(
        parts,
        reads=header["reads"],
        writes=header["writes"],
        model=str(header.get("model", "")),
        source=str(header.get("source") or path.name),
    )


def packaged_names() -> tuple[str, ...]:
    """Dictionaries that come with this library."""
    folder = files("veracausa.loading.dictionaries") / "data"
    found = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    return tuple(name.removesuffix(".safetensors") for name in found if name.endswith(".safetensors"))


def packaged_file(name: str) -> Path:
    """Where a file that comes with this library lies."""
    with as_file(files("veracausa.loading.dictionaries") / "data" / name) as path:
        return Path(path)
