"""A cell's items as they lie on the disk, one after the other: what is merged, added up or exported goes by here.

One item is in memory at a time. An item says its units in its own file; which columns of the cell they are is worked
out once for all items that have the same ones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from veracausa.doors import through
from veracausa.errors import FileError, MethodError
from veracausa.scores.files import load_scores, unpack_scores
from veracausa.scores.packed import FORMAT
from veracausa.scores.scores import Scores
from veracausa.storage.files import read_tensors
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.items import Item
from veracausa.sweeps.verbs import SCORED

T = TypeVar("T")
#: Tensors of a file of scores that say which units they are about.
_UNITS = ("layer", "index", "position", "key", "span")


@dataclass(frozen=True, eq=False)
class Shard:
    """An item's numbers: `rows` are its pairs and `columns` its units, as places in the cell's.

    `tensors`: "values" [rows, columns], "clean" and "corrupted" [rows]; see `scores.files`.
    """

    item: Item
    rows: np.ndarray
    columns: np.ndarray
    header: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Shards:
    """The items of a cell, or of a step of it, that hold scores; walk through them once or more.

    `about`: what they are scores of, where the folder cannot know it.

    >>> sum(shard.tensors["values"].numel() for shard in Shards(folder, 0))
    """

    folder: Folder
    cell: int
    step: str = ""
    about: Scores | None = None

    @property
    def items(self) -> list[Item]:
        """The items."""
        return self.folder.of_cell(self.cell, self.step)

    @cached_property
    def frame(self) -> Scores:
        """What the scores are about: all units, the task, the settings; the numbers in it mean nothing.

        Raises:
            MethodError: the cell's answer is no scores.
        """
        if self.about is not None:
            return self.about
        if self.folder.cells[self.cell].ask not in SCORED and not self.step:
            name = self.folder.cells[self.cell].name
            raise MethodError(f"{name} has no scores to add up: open its result instead (`sweep[{self.cell}]`).")
        path = self.folder.frame(self.cell, self.step)
        return load_scores(path) if path.exists() else opened(self.folder, self.items[0], load_scores)

    @property
    def pairs(self) -> int:
        """How many pairs the cell has."""
        return int(self.frame.task["n"])

    def __iter__(self) -> Iterator[Shard]:
        place = {name: column for column, name in enumerate(self.frame.units.names)}
        known: dict[str, np.ndarray] = {}
        everyone = np.arange(self.pairs)
        for item in self.items:
            header, tensors = opened(self.folder, item, lambda path: read_tensors(path, FORMAT))
            key = _units_key(header, tensors)
            if key not in known:
                names = unpack_scores(header, tensors, self.folder.shard(item)).units.names
                known[key] = np.array([place[name] for name in names])
            yield Shard(item, everyone if item.pairs is None else np.array(item.pairs), known[key], header, tensors)


def _units_key(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """A hash of what a file says its units are."""
    digest = hashlib.sha256(json.dumps([header.get(name) for name in ("kind", "groups", "paths", "spans")]).encode())
    for name in _UNITS:
        if name in tensors:
            digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def require_done(folder: Folder, cell: int) -> None:
    """Raise FileError unless every item of a cell is done."""
    items, done = folder.of_cell(cell), folder.seen().done
    if lacking := sum(item.id not in done for item in items):
        raise FileError(
            f"{lacking} of {len(items)} items of {folder.cells[cell].name} are not done. Run the sweep again to make "
            "them."
        )


def opened(folder: Folder, item: Item, read: Callable[[Path], T]) -> T:
    """An item's file, read.

    Raises:
        FileError: it is damaged: it is put away, and the sweep makes it anew.
    """
    return _read(folder.shard(item), read)


def in_folder(folder: Folder, cell: int) -> Any:
    """A study or a discovery, read; errors as `opened`."""
    return _read(folder.result(cell), result_in, [folder.shard(item) for item in folder.of_cell(cell)])


def _read(path: Path, read: Callable[[Path], T], done: Sequence[Path] = ()) -> T:
    """A file or a folder, read, or put away with the files that say that it is `done`."""
    try:
        return read(path)
    except FileError as error:
        beside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(beside, ignore_errors=True)
        said = _put_away(path, beside)
        for other in done:
            with suppress(OSError):
                other.unlink()
        raise FileError(f"{error} {said}") from error


def _put_away(path: Path, beside: Path) -> str:
    """Rename what is damaged, so that it is made anew; what is to be done then."""
    try:
        path.rename(beside)
    except FileNotFoundError:
        return "Run the sweep again."
    except OSError as error:
        return f"It cannot be put away ({error.strerror}): do so, and run the sweep again."
    return f"It is put away as {beside.name}; run the sweep again."


def result_in(path: Path) -> Any:
    """Any result, read from its file."""
    return through("Sweep.result", path)
