"""Files of locations: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from veracausa.causes.locations import _FORMAT, _TENSORS, _WATCHED, Locations
from veracausa.causes.saturation import Saturation
from veracausa.scores.files import unpack_units
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, maybe, number, reading, record, require_tensors, text

_HEADER = record(kinds=many(text, least=1), laid=record(), model=MODEL, task=TASK, cost=cost)
_WATCH = record(head=text, alphas=many(number(), least=1), texts=many(many(text, 3)))


def load_locations(path: str | Path) -> Locations:
    """Read locations that `Locations.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("locations.safetensors")["a20.h0"].cause
    """
    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        found, units = _HEADER(header), unpack_units(header["unit_kind"], tensors)
        layers, kinds = tensors["heads"].shape[1], found["kinds"]
        wanted = {
            "runs": "finite units choices examples",
            "sublayers": "finite units places examples",
            "heads": "finite units layers heads examples",
            "clean": "finite examples",
            "corrupted": "finite examples",
        }
        sizes = {"units": len(units), "choices": 1 << len(kinds), "places": 2 * layers + 2}
        examples = require_tensors(tensors, wanted, **sizes)["examples"]
        watched = many(maybe(_WATCH), len(units))(header["saturation"])
        parts: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
        parts |= {name: found[name] for name in ("laid", "model", "task", "cost")}
        return Locations(
            units,
            kinds,
            saturation=tuple(_saturation(one, i, tensors, examples) for i, one in enumerate(watched)),
            **parts,
        )


def _saturation(one: dict[str, Any] | None, i: int, tensors: dict[str, Tensor], examples: int) -> Saturation | None:
    if one is None:
        return None
    parts = {name: tensors[f"{i}.{name}"] for name in _WATCHED}
    wanted = dict.fromkeys(("entropy", "largest"), "finite examples points") | {"key": "index examples points"}
    wanted |= dict.fromkeys(("query", "visible"), "index examples")
    require_tensors(parts, wanted, examples=examples, points=2 + len(one["alphas"]))
    if len(one["texts"]) != examples:
        raise ValueError(f"{len(one['texts'])} texts for {examples} examples")
    return Saturation(one["head"], one["alphas"], **parts, texts=one["texts"])
