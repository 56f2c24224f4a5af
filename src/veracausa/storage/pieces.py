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

from veracausa.cost import Cost
from veracausa.errors import FileError
from veracausa.storage.files import keep, make_folder, read_tensors, write_tensors
from veracausa.storage.origin import Named, require_same_ends
from veracausa.storage.schema import cost, reading, require_tensors

#: Seconds between two writes.
_KEEP_EVERY = 5.0
_FORMAT = "veracausa-pieces-2"


@dataclass
class Checkpoint:
    """Values [examples, units], which of them are `done`, and what they have cost, backed by one file.

    `ends`: the bare model's metric of the clean and the corrupted run when the first piece was made, [2, examples].
    """

    path: Path
    header: dict[str, Any]
    values: Tensor
    done: Tensor
    cost: Cost = field(default_factory=Cost)
    ends: Tensor | None = None
    written: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls, folder: str | Path, name: str, header: dict[str, Any], shape: tuple[int, int], dtype: torch.dtype
    ) -> Checkpoint:
        """The pieces of the computation that `header` describes, in `folder`; new ones if there are none yet.

        Raises:
            FileError: the file is there but damaged, or nothing can be written there (found before anything is run).
        """
        folder = make_folder(folder)
        key = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]
        path = folder / f"{name}-{key}.pieces.safetensors"
        fresh = cls(path, header, torch.full(shape, float("nan"), dtype=dtype), torch.zeros(shape, dtype=torch.bool))
        if not path.exists():
            fresh._write()
            return fresh
        found, tensors = read_tensors(path, _FORMAT)
        if found.get("header") != json.loads(json.dumps(header)):
            raise FileError(f"{path} holds pieces of another computation. Delete it, or choose another folder.")
        with reading(path):
            sizes = {"examples": shape[0], "units": shape[1]}
            ends = tensors.get("ends")
            wanted = {"values": "float examples units", "done": "flag examples units"}
            require_tensors(tensors, wanted | ({} if ends is None else {"ends": "float runs pairs"}), **sizes, runs=2)
            if tensors["values"].dtype != dtype:
                raise ValueError(f"its values are {tensors['values'].dtype}")
            return cls(path, header, tensors["values"], tensors["done"].bool(), cost(found["cost"]), ends)

    def require_behaviour(self, lm: Named, clean: Tensor, corrupted: Tensor) -> None:
        """The bare model's metrics now are those that it had when the first of these pieces was made.

        Weights, configuration and hooks are in the pieces' header; this finds what no header can name.

        Raises:
            FileError: they differ by more than rounding.
        """
        now = torch.stack([clean, corrupted])
        if self.ends is None:
            self.ends = now
        else:
            require_same_ends(lm, self.ends, now, self.path)

    def keep(self, *, force: bool = False) -> None:
        """Write what is done, if the last write was a while ago (or `force`); a failure is said, and is no end."""
        if force or time.monotonic() - self.written > _KEEP_EVERY:
            keep(self._write)
            self.written = time.monotonic()

    def _write(self) -> None:
        tensors = {"values": self.values, "done": self.done.to(torch.uint8)}
        if self.ends is not None:
            tensors["ends"] = self.ends
        write_tensors(self.path, _FORMAT, {"header": self.header, "cost": self.cost.to_dict()}, tensors)
