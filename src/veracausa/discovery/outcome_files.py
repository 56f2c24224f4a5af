"""Files of what circuits gave, pair by pair: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.storage.files import read_tensors, write_tensors
from veracausa.storage.schema import cost, many, number, reading, record, require_tensors, text, whole
from veracausa.tasks.measurement import Measurement

_CIRCUIT, _CURVE = "veracausa-faithfulness-2", "veracausa-curve-2"


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
    with reading(path):
        sizes = many(number(0, 1), least=1)(header["sizes"])
        if list(sizes) != sorted(set(sizes)) or len(found) != 2 * len(sizes):
            raise ValueError(f"{len(found)} circuits for {len(sizes)} rising sizes, twice")
        living = {name: many(whole(), len(sizes))(header["living"][name]) for name in ("signed", "abs")}
        return Curve(text(header["method"]), sizes, found[: len(sizes)], found[len(sizes) :], living)


def _pack(found: tuple[Faithfulness, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header = {
        "edges": [one.edges for one in found],
        "share": [one.share for one in found],
        "cost": found[0].cost.to_dict(),
        "ablation": found[0].ablation,
        "notes": list(found[0].notes),
        "settings": found[0].settings,
    }
    tensors = {
        "metric": torch.stack([one.metric for one in found]),
        "kl": torch.stack([one.kl for one in found]),
        "clean": found[0].measured.clean,
        "corrupted": found[0].measured.corrupted,
    }
    return header, tensors


_HEADER = record(
    edges=many(whole(), least=1),
    share=many(number(0, 1)),
    cost=cost,
    ablation=text,
    notes=many(text),
    settings=record(),
)


def _unpack(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> tuple[Faithfulness, ...]:
    with reading(path):
        told = _HEADER(header)
        wanted = {"metric": "finite circuits pairs", "kl": "finite circuits pairs"}
        wanted |= dict.fromkeys(("clean", "corrupted"), "finite pairs")
        if not require_tensors(tensors, wanted, circuits=len(told["edges"]))["pairs"]:
            raise ValueError("it has no pairs")
        measured = Measurement(tensors["clean"], tensors["corrupted"])
        rest = measured, told["cost"], told["ablation"], told["notes"], told["settings"]
        rows = zip(told["edges"], told["share"], tensors["metric"], tensors["kl"], strict=True)
        return tuple(Faithfulness(*row, *rest) for row in rows)  # type: ignore[arg-type]
