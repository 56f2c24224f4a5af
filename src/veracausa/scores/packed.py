"""Scores as the header and the tensors of a file; `files` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veracausa.scores.scores import Scores
from veracausa.storage.files import write_tensors
from veracausa.units.at_spans import SpanUnits
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.paths import Paths
from veracausa.units.table import Units

FORMAT = "veracausa-scores-2"


def save_scores(scores: Scores, path: str | Path) -> Path:
    """See `Scores.save`."""
    return write_tensors(path, FORMAT, *pack_scores(scores))


def pack_units(units: Units) -> dict[str, Tensor]:
    """The columns of a table of units as tensors of a file; `files.unpack_units` makes the table of them."""
    columns = {"layer": units.layer, "index": units.index, "position": units.position}
    return {name: torch.from_numpy(column.astype("int64")) for name, column in columns.items()}


def pack_scores(scores: Scores) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Scores as the header and the tensors of a file."""
    from veracausa.version import __version__

    header = {
        "version": __version__,
        "kind": scores.units.kind,
        "graph": scores.units.graph.header if isinstance(scores.units, Edges | Paths) else None,
        **({str(scores.units.kind): scores.units.to_list()} if isinstance(scores.units, Groups | Paths) else {}),
        **_laid(scores.units),
        **({"spans": list(scores.units.named)} if isinstance(scores.units, SpanUnits) else {}),
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
        **pack_units(scores.units),
    }
    if scores.units.cells is not None:
        tensors["key"] = torch.from_numpy(scores.units.cells.astype("int64"))
    if isinstance(scores.units, SpanUnits):
        numbers = {name: number for number, name in enumerate(scores.units.named)}
        tensors["span"] = torch.tensor([numbers[name] for name in scores.units.spans])
    if scores.completeness is not None:
        tensors |= {"claimed": scores.completeness.claimed, "true": scores.completeness.true}
    if scores.draw_stderr is not None:
        tensors["draw_stderr"] = scores.draw_stderr
    return header, tensors


def _laid(units: Units) -> dict[str, Any]:
    """The dictionaries that paths go through: kind, layer and sites of each; nothing of other units."""
    laid = units.laid if isinstance(units, Paths) else {}
    names = ("kind", "layer", "reads", "writes")
    return {"laid": [dict(zip(names, (*key, *sites), strict=True)) for key, sites in laid.items()]} if laid else {}
