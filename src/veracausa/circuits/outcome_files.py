"""Files of what circuits gave, pair by pair: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veracausa.circuits.curve import Curve
from veracausa.circuits.faithfulness import Faithfulness
from veracausa.engine.cost import Cost
from veracausa.engine.measure import Measurement
from veracausa.errors import FileError
from veracausa.storage.files import read_tensors, write_tensors

_CIRCUIT, _CURVE = "veracausa-faithfulness-1", "veracausa-curve-1"


def save_faithfulness(found: Faithfulness, path: Path) -> Path:
    """Write what a circuit's run gave."""
    return write_tensors(path, _CIRCUIT, *_pack((found,)))


def load_faithfulness(path: Path) -> Faithfulness:
    """Read what `save_faithfulness` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, _CIRCUIT)
    return _unpack(header, tensors, path)[0]


def save_curve(curve: Curve, path: Path) -> Path:
    """Write a curve with all its circuits' outcomes."""
    header, tensors = _pack((*curve.signed, *curve.absolute))
    header |= {"method": curve.method, "sizes": list(curve.sizes)}
    header["living"] = {name: list(counts) for name, counts in curve.living.items()}
    return write_tensors(path, _CURVE, header, tensors)


def load_curve(path: Path) -> Curve:
    """Read what `save_curve` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, _CURVE)
    found = _unpack(header, tensors, path)
    try:
        half = len(header["sizes"])
        if len(found) != 2 * half:
            raise FileError(f"{path} does not hold together: {len(found)} circuits for {half} sizes, twice.")
        living = {name: tuple(counts) for name, counts in header["living"].items()}
        return Curve(str(header["method"]), tuple(header["sizes"]), found[:half], found[half:], living)
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error


def _pack(found: tuple[Faithfulness, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header = {
        "edges": [one.edges for one in found],
        "share": [one.share for one in found],
        "cost": found[0].cost.to_dict(),
        "ablation": found[0].ablation,
        "notes": list(found[0].notes),
    }
    tensors = {
        "metric": torch.stack([one.metric for one in found]),
        "kl": torch.stack([one.kl for one in found]),
        "clean": found[0].measured.clean,
        "corrupted": found[0].measured.corrupted,
    }
    return header, tensors


def _unpack(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> tuple[Faithfulness, ...]:
    try:
        measured = Measurement(tensors["clean"], tensors["corrupted"])
        cost = Cost.from_dict(header["cost"])
        how = str(header["ablation"]), tuple(header["notes"])
        rows = zip(header["edges"], header["share"], tensors["metric"], tensors["kl"], strict=True)
        found = tuple(Faithfulness(edges, share, metric, kl, measured, cost, *how) for edges, share, metric, kl in rows)
        if any(one.metric.shape != measured.clean.shape or one.kl.shape != measured.clean.shape for one in found):
            raise ValueError("its rows have different numbers of pairs")
    except KeyError as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise FileError(f"{path} does not hold together ({error}): it was not written by veracausa.") from error
    return found
