"""A sweep's folder: what it is cut into, which items are done, failed or in hand, and the results.

sweep.json                  the cells and their items, written once
sweep-copy.json             the same: without it no item could be told from another
frames/0.safetensors        what the scores of a cell are about: units, task, settings; one row without numbers
frames/0-estimate.safetensors  the same of the estimate that a receipt or a curve is about
items/<id>.safetensors      an item's numbers, whole or absent
items/<id>.json             of a study or a discovery: that some stages are done, and what they took
failed/<id>-1.json          why an item failed, try by try
claims/<id>                 who has an item in hand (`claims`)
taken/<worker>.csv          how many seconds a worker's items took it: id,seconds
pieces/<id>/                what an item that can go on has finished
results/0-….safetensors     a cell's result, merged
results/0-…/                of a study or a discovery: its folder, which its items fill
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veracausa.errors import FileError
from veracausa.storage.files import at, make_folder, read_json, write_bytes, write_json
from veracausa.sweeps.items import Item
from veracausa.sweeps.plan import Cell, Plan
from veracausa.sweeps.verbs import STAGED

_FORMAT = "veracausa-sweep-4"
MANIFEST, _COPY = "sweep.json", "sweep-copy.json"


@dataclass(frozen=True, eq=False)
class Folder:
    """A sweep on the disk. `models`, `tasks`: of each cell, what a result says of them; `tries`: of every item.

    `seconds`: how long an item might take when the sweep was cut.
    `facts`: what else is to be known of a cell: bytes of its model's weights, and what merging it needs (`facts_of`).
    """

    path: Path
    plan: str
    cells: tuple[Cell, ...]
    models: tuple[Mapping[str, Any], ...]
    tasks: tuple[Mapping[str, Any], ...]
    facts: tuple[Mapping[str, Any], ...]
    items: tuple[Item, ...]
    tries: int
    seconds: float

    @classmethod
    def open(cls, path: str | Path) -> Folder:
        """The sweep in a folder.

        Raises:
            FileError: there is none, or its list of items is damaged.
        """
        path = at(path)
        if not (path / MANIFEST).is_file():
            raise FileError(
                f"{path} holds no sweep: there is no {MANIFEST}. `veracausa sweep PLAN --out {path}` makes it."
            )
        body = _body(path)
        if body.get("format") != _FORMAT:
            raise FileError(f"{path / MANIFEST} is not of a sweep that this version of veracausa reads.")
        return cls(
            path,
            body["plan"],
            tuple(Cell(**cell) for cell in body["cells"]),
            tuple(body["models"]),
            tuple(body["tasks"]),
            tuple(body["facts"]),
            tuple(Item.from_dict(item) for item in body["items"]),
            body["tries"],
            body["seconds"],
        )

    @classmethod
    def begin(cls, path: Path, plan: Plan, items: list[Item], **of_cells: list[Any]) -> Folder:
        """Write the list of items down, unless another process was faster, and open what is there.

        `of_cells`: the models, tasks and facts, cell by cell.
        """
        body = {"format": _FORMAT, "plan": plan.digest(), "tries": plan.tries, "seconds": plan.seconds}
        body |= {"cells": plan.to_list(), **of_cells, "items": [item.to_dict() for item in items]}
        beside = write_json(path / f".{MANIFEST}.{os.getpid()}", body)
        try:
            os.link(beside, path / MANIFEST)  # whole, and only if there is none
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not (path / MANIFEST).exists():
                write_json(path / MANIFEST, body)
        finally:
            beside.unlink()
        found = cls.of(path, plan)
        write_bytes(path / _COPY, (path / MANIFEST).read_bytes())
        return found

    @classmethod
    def of(cls, path: str | Path, plan: Plan) -> Folder:
        """The sweep in a folder, which must be that of the plan.

        Raises:
            FileError: it is another one's.
        """
        found = cls.open(path)
        if found.plan != plan.digest():
            raise FileError(
                f"{found.path} holds another sweep{_differing(found.cells, plan.cells)}. Choose another folder."
            )
        return found

    def shard(self, item: Item) -> Path:
        """Where an item's numbers are."""
        return self.path / "items" / f"{item.id}{'.json' if self._staged(item.cell) else '.safetensors'}"

    def frame(self, cell: int, step: str = "") -> Path:
        """Where it is kept what the scores of a cell, or of one of its steps, are about."""
        return self.path / "frames" / f"{cell}{'-estimate' if step == 'estimate' else ''}.safetensors"

    def pieces(self, item: Item) -> Path:
        """Where an item keeps what it has finished on its way."""
        return self.result(item.cell) if self._staged(item.cell) else self.path / "pieces" / item.id

    def result(self, cell: int) -> Path:
        """Where a cell's result is."""
        words = "".join(c if c.isalnum() else "-" for c in self.cells[cell].name)
        short = "-".join(filter(None, words.split("-"))).encode()[:120].decode(errors="ignore")  # names have 255 bytes
        return self.path / "results" / f"{cell}-{short}{'' if self._staged(cell) else '.safetensors'}"

    def _staged(self, cell: int) -> bool:
        return self.cells[cell].ask in STAGED

    def of_cell(self, cell: int, step: str | None = None) -> list[Item]:
        """The items of a cell, or of one of its steps."""
        return [item for item in self._by_cell[cell] if step is None or item.step == step]

    @cached_property
    def _by_cell(self) -> list[list[Item]]:
        found: list[list[Item]] = [[] for _ in self.cells]
        for item in self.items:
            found[item.cell].append(item)
        return found

    @cached_property
    def by_id(self) -> dict[str, Item]:
        """The items by their ids."""
        return {item.id: item for item in self.items}

    def done(self, item: Item) -> bool:
        """Whether an item's numbers are there."""
        return self.shard(item).exists()

    def set_aside(self, item: Item) -> bool:
        """Whether an item has failed so often that it is no longer tried."""
        return self._failure(item.id, self.tries).exists()

    def _failure(self, name: str, number: int) -> Path:
        return self.path / "failed" / f"{name}-{number}.json"

    def failures(self, item: Item) -> list[dict[str, Any]]:
        """Why an item failed, try by try."""
        paths = (self._failure(item.id, number) for number in itertools.count(1))
        return [read_json(path, "a failure") for path in itertools.takewhile(Path.exists, paths)]

    def failed(self, item: Item, why: str, worker: str) -> None:
        """Write down that an item failed, as its next try."""
        number = next(n for n in itertools.count(1) if not self._failure(item.id, n).exists())
        write_json(self._failure(item.id, number), {"item": item.id, "why": why, "worker": worker})

    def seen(self) -> Seen:
        """What there is now: each folder is listed once, however many items there are."""
        done = frozenset(name for ending in (".safetensors", ".json") for name in _named(self.path / "items", ending))
        tries = Counter(name.rpartition("-")[0] for name in _named(self.path / "failed", ".json"))
        aside = frozenset(name for name, count in tries.items() if count >= self.tries) - done
        return Seen(done, aside, frozenset(_named(self.path / "claims", "")) - done, tries.keys() - done - aside)

    def took(self, item: Item, seconds: float, worker: str) -> None:
        """Write down how long an item took; a failure to do so costs nothing but that."""
        with suppress(OSError), (make_folder(self.path / "taken") / f"{worker}.csv").open("a") as file:
            file.write(f"{item.id},{seconds:.3f}\n")

    def taken(self) -> dict[str, float]:
        """Seconds of every item that says so."""
        found: dict[str, float] = {}
        for path in (self.path / "taken").glob("*.csv"):
            rows = (line.split(",") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
            found |= {row[0]: float(row[1]) for row in rows if len(row) == 2 and row[1].replace(".", "", 1).isdigit()}
        return found

    def open_items(self) -> list[Item]:
        """Items that are neither done nor set aside."""
        return self.seen().left(self.items)


@dataclass(frozen=True)
class Seen:
    """Ids of items when the folder was looked at: done, set aside, in a worker's hand, failed and to be tried again."""

    done: Set[str]
    aside: Set[str]
    hand: Set[str]
    failed: Set[str]

    def state(self, items: Sequence[Item]) -> str:
        """A word for some items together: done, set aside, running, failed (to be tried again), begun or waiting."""
        ids = {item.id for item in items}
        if ids <= self.done:
            return "done"
        for word, some in (("set aside", self.aside), ("running", self.hand), ("failed", self.failed)):
            if ids & some:
                return word
        return "begun" if ids & self.done else "waiting"

    def left(self, items: Sequence[Item]) -> list[Item]:
        """Those of a sweep's items that are neither, and that do not wait for one that is set aside."""
        stuck: dict[int, int] = {}
        for item in items:
            if item.id in self.aside:
                stuck[item.cell] = min(item.turn, stuck.get(item.cell, item.turn))
        gone = self.done | self.aside
        return [item for item in items if item.id not in gone and item.turn <= stuck.get(item.cell, item.turn)]


def _body(path: Path) -> dict[str, Any]:
    """The list of items; where it is damaged, its copy, which then takes its place."""
    what = "a sweep's list of items"
    try:
        return read_json(path / MANIFEST, what)
    except FileError:
        if not (path / _COPY).is_file():
            raise
    body = read_json(path / _COPY, what)
    with suppress(FileError):
        write_bytes(path / MANIFEST, (path / _COPY).read_bytes())
    return body


def _differing(there: Sequence[Cell], here: Sequence[Cell]) -> str:
    """The first cell that only one of two sweeps has, in words."""
    for some, others, said in ((here, there, "does not ask"), (there, here, "asks, and this plan does not,")):
        lacking = [cell.name for cell in some if cell.asked() not in [other.asked() for other in others]]
        if lacking:
            return f": it {said} “{lacking[0]}”"
    return ": its cells are in another order"


def _named(folder: Path, ending: str) -> list[str]:
    """The files of a folder with some ending, without it; none where there is no folder."""
    try:
        return [name.removesuffix(ending) for name in os.listdir(folder) if name.endswith(ending)]
    except FileNotFoundError:
        return []
