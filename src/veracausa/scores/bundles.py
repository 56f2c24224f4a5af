"""Results that hold several `Scores`: one safetensors file with a JSON header, whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from veracausa.scores.files import unpack_scores
from veracausa.scores.packed import pack_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import reading, record, text


def write_all(
    path: str | Path,
    kind: str,
    header: Mapping[str, Any],
    scores: Mapping[str, Scores],
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a header, any number of named scores, and tensors beside them to one file."""
    packed = {name: pack_scores(one) for name, one in scores.items()}
    parts = {f"{name}/{key}": value for name, (_, own) in packed.items() for key, value in own.items()}
    whole = {"own": dict(header), "scores": {name: head for name, (head, _) in packed.items()}}
    return write_tensors(path, kind, whole, parts | dict(tensors or {}))


def read_all(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Scores]]:
    """What `write_all` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    return read_with_tensors(path, kind)[:2]


def read_with_tensors(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Scores], dict[str, Tensor]]:
    """The same, with the tensors that stand beside the scores."""
    whole, tensors = read_tensors(path, kind)
    with reading(at(path)):
        scores = {
            text(name): unpack_scores(
                head,
                {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")},
                at(path),
            )
            for name, head in whole["scores"].items()
        }
        return record()(whole["own"]), scores, {key: one for key, one in tensors.items() if "/" not in key}
