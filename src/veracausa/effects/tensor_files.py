"""Tensors for units that a user keeps in a file: safetensors or NumPy's .npz, data only, nothing is ever unpickled.

A file holds a tensor a unit, by the unit's name ("r10", "a9.h6"); or `FILE:key` is one for every unit asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from veracausa.errors import FileError
from veracausa.storage.files import at
from veracausa.suggestions import not_known
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.kinds import KINDS, whole_kind
from veracausa.units.paths import Paths
from veracausa.units.table import Units

#: Endings of files that tensors are read from.
TENSOR_FILES = (".safetensors", ".npz")


@dataclass(frozen=True, eq=False)
class GivenTensors:
    """What a file holds: tensors by the names of units, or the `one` for all units that are asked for."""

    by_name: Mapping[str, Tensor]
    one: Tensor | None = None

    def of(self, units: Units) -> Mapping[str, Tensor]:
        """Unit → its tensor, as `vc.effects.Own` takes them."""
        return self.by_name if self.one is None else dict.fromkeys(whole_names(units), self.one)


def given_tensors(place: str) -> GivenTensors:
    """The tensors of "FILE" by their names, or one of them, "FILE:key".

    Raises:
        FileError: no such file, another format, damaged, empty, no such key.

    >>> given_tensors("vectors.safetensors:happy").one.shape
    torch.Size([576])
    """
    path, key = at(place), ""
    if not path.is_file() and ":" in place:
        before, _, key = place.rpartition(":")
        path = at(before)
    found = tensors_in(path)
    if not key:
        return GivenTensors(found)
    if key not in found:
        raise FileError(f"{path}: {not_known('key', key, list(found))}")
    return GivenTensors(found, found[key])


def tensors_in(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by their names; errors as for `given_tensors`."""
    if path.suffix not in TENSOR_FILES:
        raise FileError(
            f"{path} is no file of tensors: {' and '.join(TENSOR_FILES)} are read, and nothing is unpickled."
        )
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    found = (_safetensors if path.suffix == ".safetensors" else _npz)(path)
    if not found:
        raise FileError(f"{path} holds no tensor.")
    return found


def whole_names(units: Units) -> list[str]:
    """The names of units, each once and without its positions; of groups those of their members; of edges none.

    >>> whole_names(parse_names(lm, ["a9.h6@3", "a9.h6@5"]))
    ['a9.h6']
    """
    if isinstance(units, Edges | Paths):
        return []
    if isinstance(units, Groups):
        parts = [(one.kind, one.layer, one.index) for group in units.members for one in group]
    else:
        parts = [
            (units.kind, layer, index) for layer, index in zip(units.layer.tolist(), units.index.tolist(), strict=True)
        ]
    whole = [(whole_kind(kind) if index < 0 else kind, layer, index) for kind, layer, index in parts]
    return [KINDS[kind].called(layer, index) for kind, layer, index in dict.fromkeys(whole)]


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path} is no safetensors file, or is damaged or cut short ({error}).") from error


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays}
    except (BadZipFile, OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise FileError(f"{path} is no .npz file of numbers, or is damaged or cut short ({error}).") from error
