"""Score files: safetensors with a JSON header. Data only, never code; whole or absent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.graph import Graph
from veracausa.attribution.edges import Edges
from veracausa.attribution.scores import Completeness, Scores
from veracausa.attribution.units import KINDS, Units
from veracausa.engine.cost import Cost
from veracausa.errors import FileError
from veracausa.storage.files import read_tensors, write_tensors
from veracausa.storage.origin import require_same_ends

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

_FORMAT = "veracausa-scores-2"


def save_scores(scores: Scores, path: str | Path) -> Path:
    """See `Scores.save`."""
    return write_tensors(path, _FORMAT, *pack_scores(scores))


def load_scores(path: str | Path) -> Scores:
    """Read scores that `Scores.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or not a score file.

    >>> vc.load_scores("heads.safetensors").top(5)
    """
    return unpack_scores(*read_tensors(path, _FORMAT), Path(path))


def confirmed(scores: Scores, lm: Model, task: Task, path: Path) -> Scores:
    """Scores read from a folder of pieces, if the bare model still gives the metric that they were made with.

    Raises:
        FileError: it does not.
    """
    measured = lm.measure(task)
    now = torch.stack([measured.clean, measured.corrupted])
    require_same_ends(lm, torch.stack([scores.clean, scores.corrupted]), now, path)
    return scores


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
