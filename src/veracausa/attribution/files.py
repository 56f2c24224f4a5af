"""Score files: safetensors with a JSON header. Data only, never code; whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from veracausa.anatomy.graph import Graph
from veracausa.attribution.edges import Edges
from veracausa.attribution.scores import Completeness, Scores
from veracausa.attribution.units import KINDS, Units
from veracausa.engine.cost import Cost
from veracausa.errors import FileError

_FORMAT = "veracausa-scores-1"


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents.

    Raises:
        FileError: there is a file of that name, or it cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder} cannot be a folder for results ({error.strerror}). Choose another one.") from error


def write_tensors(path: Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors and a JSON header to a file beside `path`, then rename it: never half a file."""
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            beside,
            metadata={"format": kind, "veracausa": json.dumps(header)},
        )
        # safetensors writes files that only their owner can read; give them the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o666 & ~mask)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that `write_tensors` wrote.

    Raises:
        FileError: there is no such file, it is damaged or cut short, or it is of another kind.
    """
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise FileError(
                    f"{path} is not a {kind} file (its header says {metadata.get('format')!r}). "
                    "Was it written by another program, or by another call?"
                )
            return json.loads(metadata["veracausa"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise FileError(f"{path} is damaged or cut short ({error}). Delete it and compute it again.") from error


def save_scores(scores: Scores, path: str | Path) -> Path:
    """See `Scores.save`."""
    return write_tensors(Path(path), _FORMAT, *pack_scores(scores))


def load_scores(path: str | Path) -> Scores:
    """Read scores that `Scores.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or not a score file.

    >>> vc.load_scores("heads.safetensors").top(5)
    """
    return unpack_scores(*read_tensors(Path(path), _FORMAT), Path(path))


def pack_scores(scores: Scores) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Scores as the header and the tensors of a file."""
    from veracausa import __version__

    header = {
        "version": __version__,
        "kind": scores.units.kind,
        "graph": asdict(scores.units.graph) if isinstance(scores.units, Edges) else None,
        "method": scores.method,
        "settings": scores.settings,
        "model": scores.model,
        "task": scores.task,
        "cost": scores.cost.to_dict(),
        "signed": scores.signed,
        "verified": scores.verified,
        "notes": list(scores.notes),
    }
    tensors = {
        "values": scores.values,
        "clean": scores.clean,
        "corrupted": scores.corrupted,
        "layer": torch.from_numpy(scores.units.layer.astype("int64")),
        "index": torch.from_numpy(scores.units.index.astype("int64")),
        "position": torch.from_numpy(scores.units.position.astype("int64")),
    }
    if scores.completeness is not None:
        tensors |= {"claimed": scores.completeness.claimed, "true": scores.completeness.true}
    if scores.draw_stderr is not None:
        tensors["draw_stderr"] = scores.draw_stderr
    return header, tensors


def unpack_scores(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Scores:
    """What `pack_scores` packed; `path` is for messages.

    Raises:
        FileError: something is missing, or does not fit together.
    """
    try:
        units = _units(header, tensors, path)
        completeness = Completeness(tensors["claimed"], tensors["true"]) if "claimed" in tensors else None
        cost = Cost.from_dict(header["cost"])
        _require_fitting(tensors, completeness)
        return Scores(
            values=tensors["values"],
            units=units,
            method=header["method"],
            settings=header["settings"],
            model=header["model"],
            task=header["task"],
            clean=tensors["clean"],
            corrupted=tensors["corrupted"],
            cost=cost,
            completeness=completeness,
            signed=header["signed"],
            draw_stderr=tensors.get("draw_stderr"),
            verified=header["verified"],
            notes=tuple(header["notes"]),
        )
    except KeyError as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} does not hold together ({error}): it was not written by veracausa.") from error


def _units(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Units:
    layer, index, position = (tensors[name].numpy() for name in ("layer", "index", "position"))
    if header["kind"] == "edges":
        return Edges("edges", layer, index, position, Graph(**header["graph"]))
    if header["kind"] not in KINDS:
        raise FileError(f"{path} holds scores of {header['kind']!r}, which this version does not know.")
    return Units(header["kind"], layer, index, position)


def _require_fitting(tensors: dict[str, Tensor], completeness: Completeness | None) -> None:
    """Raise ValueError unless the tensors' sizes belong to one table of scores."""
    examples, units = tensors["values"].shape
    wanted = {"clean": (examples,), "corrupted": (examples,), **dict.fromkeys(("layer", "index", "position"), (units,))}
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, but values are {examples} × {units}")
    if completeness is not None and (
        completeness.claimed.shape != completeness.true.shape or completeness.true.shape[1:] != (examples,)
    ):
        raise ValueError(f"completeness is {list(completeness.true.shape)}, but there are {examples} examples")
