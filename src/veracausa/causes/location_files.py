"""Files of locations: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from veracausa.attribution.units import KINDS, Units
from veracausa.causes.locations import Locations
from veracausa.causes.saturation import Saturation
from veracausa.engine.cost import Cost
from veracausa.errors import FileError
from veracausa.storage.files import read_tensors, write_tensors

_FORMAT = "veracausa-locations-1"
_TENSORS = ("runs", "sublayers", "heads", "clean", "corrupted")
_WATCHED = ("entropy", "largest", "key", "query", "visible")


def save_locations(found: Locations, path: str | Path) -> Path:
    """See `Locations.save`."""
    import torch

    tensors: dict[str, Tensor] = {name: getattr(found, name) for name in _TENSORS}
    for column in ("layer", "index", "position"):
        tensors[column] = torch.from_numpy(getattr(found.units, column).astype("int64"))
    watched: list[dict[str, Any] | None] = []
    for i, one in enumerate(found.saturation):
        watched.append(None if one is None else {"head": one.head, "alphas": one.alphas, "texts": one.texts})
        tensors |= {} if one is None else {f"{i}.{name}": getattr(one, name) for name in _WATCHED}
    header = {
        "unit_kind": found.units.kind,
        "kinds": found.kinds,
        "model": found.model,
        "task": found.task,
        "cost": found.cost.to_dict(),
        "saturation": watched,
    }
    return write_tensors(path, _FORMAT, header, tensors)


def load_locations(path: str | Path) -> Locations:
    """Read locations that `Locations.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.load_locations("locations.safetensors")["a20.h0"].cause
    """
    path = Path(path)
    header, tensors = read_tensors(path, _FORMAT)
    try:
        if header["unit_kind"] not in KINDS:
            raise FileError(f"{path} holds {header['unit_kind']!r}, which this version does not know.")
        columns = (tensors[name].numpy() for name in ("layer", "index", "position"))
        units = Units(header["unit_kind"], *columns)
        watched = [
            None
            if one is None
            else Saturation(
                one["head"],
                tuple(one["alphas"]),
                **{name: tensors[f"{i}.{name}"] for name in _WATCHED},
                texts=tuple((a, b, c) for a, b, c in one["texts"]),
            )
            for i, one in enumerate(header["saturation"])
        ]
        if not len(units) == len(watched) == len(tensors["runs"]) == len(tensors["sublayers"]) == len(tensors["heads"]):
            raise FileError(f"{path} does not hold together: its parts are of different numbers of units.")
        return Locations(
            units,
            tuple(header["kinds"]),
            **{name: tensors[name] for name in _TENSORS},
            saturation=tuple(watched),
            model=header["model"],
            task=header["task"],
            cost=Cost.from_dict(header["cost"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error
