"""Finished pieces of a long computation, kept on disk, so that a killed run continues where it was.

The file holds the values that are there so far and a header that says what they belong to. It is replaced as a whole
(written beside, then renamed), so a kill at any moment leaves either the older or the newer state.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veracausa.attribution.files import make_folder, read_tensors, write_tensors
from veracausa.engine.cost import Cost
from veracausa.errors import FileError

#: Seconds between two writes.
_KEEP_EVERY = 5.0
_FORMAT = "veracausa-pieces-1"


@dataclass
class Checkpoint:
    """Values [examples, units], which of them are `done`, and what they have cost, backed by one file."""

    path: Path
    header: dict[str, Any]
    values: Tensor
    done: Tensor
    cost: Cost = field(default_factory=Cost)
    written: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls, folder: Path, name: str, header: dict[str, Any], shape: tuple[int, int], dtype: torch.dtype
    ) -> Checkpoint:
        """The pieces of the computation that `header` describes, in `folder`; new ones if there are none yet.

        Raises:
            FileError: the file is there but damaged.
        """
        make_folder(folder)
        key = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]
        path = folder / f"{name}-{key}.pieces.safetensors"
        fresh = cls(path, header, torch.full(shape, float("nan"), dtype=dtype), torch.zeros(shape, dtype=torch.bool))
        if not path.exists():
            return fresh
        found, tensors = read_tensors(path, _FORMAT)
        values, done = tensors.get("values"), tensors.get("done")
        if found.get("header") != header or values is None or done is None or values.shape != shape:
            raise FileError(f"{path} holds pieces of another computation. Delete it, or choose another folder.")
        return cls(path, header, values, done.bool(), Cost.from_dict(found["cost"]))

    def keep(self, *, force: bool = False) -> None:
        """Write what is done, if the last write was a while ago (or `force`)."""
        if force or time.monotonic() - self.written > _KEEP_EVERY:
            write_tensors(
                self.path,
                _FORMAT,
                {"header": self.header, "cost": self.cost.to_dict()},
                {"values": self.values, "done": self.done.to(torch.uint8)},
            )
            self.written = time.monotonic()
