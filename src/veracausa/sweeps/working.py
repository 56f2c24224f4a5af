"""A worker: takes items that nobody has in hand, one after the other, until none is left.

Any number of workers, on any number of machines, may work in one folder at once; the folder alone tells them what is
to be done. A model is loaded once for all its items that follow each other.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from veracausa.arguments import bytes_of
from veracausa.engine.budget import within
from veracausa.engine.guard import shared
from veracausa.engine.identity import difference
from veracausa.errors import FileError
from veracausa.sweeps.asking import Asked, model_of
from veracausa.sweeps.claims import claimed, give_up_stale
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.items import Item, item_id
from veracausa.sweeps.joining import joined
from veracausa.sweeps.shards import Shards

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.scores.scores import Scores

#: Seconds between two looks at what others have in hand.
_LOOK = 1.0


def work_through(
    folder: Folder, *, memory: float | str | None = None, told: Callable[[Item], None] = lambda item: None
) -> None:
    """Do what is left of a sweep, beside whoever else does; returns when all items are done or set aside.

    `told`: called with every item that this worker has finished.

    Raises:
        FileError: a model or task is not what it was when the sweep was cut, or an item cannot be written.
    """
    with ExitStack() as held:
        bench = _Bench(folder, memory, held)
        while left := folder.open_items():
            if not sum(_tried(bench, item, told) for item in _ready(left)):
                for name, why in give_up_stale(folder.path):
                    _record(folder, name, why)
                time.sleep(_LOOK)


def _ready(left: list[Item]) -> list[Item]:
    """Those that wait for no item of an earlier turn."""
    first: dict[int, int] = {}
    for item in left:
        first[item.cell] = min(item.turn, first.get(item.cell, item.turn))
    return [item for item in left if item.turn == first[item.cell]]


def _tried(bench: _Bench, item: Item, told: Callable[[Item], None]) -> bool:
    """Whether this worker had the item in hand."""
    folder = bench.folder
    if folder.done(item) or folder.set_aside(item):
        return False
    with claimed(folder.path, item.id) as mine:
        if not mine or folder.done(item):
            return False
        asked, began = bench.asked(item), time.monotonic()
        try:
            result = asked.run(item.part, folder.pieces(item), bench.memory)
        except Exception as error:
            folder.failed(item, f"{type(error).__name__}: {error}", _name())
            bench.give_back()
            return True
        result.save(folder.shard(item))
        folder.took(item, time.monotonic() - began, f"{socket.gethostname()}-{os.getpid()}")
        if not asked.staged:  # whose folder is the result
            shutil.rmtree(folder.pieces(item), ignore_errors=True)
        told(item)
        return True


def _record(folder: Folder, name: str, why: str) -> None:
    item = folder.by_id.get(name)
    if item is not None and not folder.done(item):
        folder.failed(item, why, _name())


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@dataclass(eq=False)
class _Bench:
    """The model and the tasks that a worker has loaded.

    The model is `held` from item to item, with what it recorded: parts of a cell that are about the same pairs, and
    cells about the same task, find it there, and what an engine's run is checked against is checked once.
    """

    folder: Folder
    memory: float | str | None
    held: ExitStack
    _model: tuple[str, Model] | None = None
    _holds: bool = False
    _asked: dict[tuple[int, str], Asked] = field(default_factory=dict)

    def asked(self, item: Item) -> Asked:
        """What an item is a part of, with its model, as it was when the sweep was cut.

        Raises:
            FileError: model or task are others now, or an item of the estimate that it is about is damaged.
        """
        key, whole = (item.cell, item.step), self._cell(item.cell)
        if item_id(whole, item.part, item.step, self.folder.models[item.cell]["identity"]) != item.id:
            raise FileError(
                f"{self.folder.path} was cut by another version of veracausa, or for a reference set whose file has "
                "changed since. Choose another folder."
            )
        if key not in self._asked:
            estimate = item.step == "estimate"
            self._asked[key] = whole.estimate if estimate else whole.checking(self._estimate(item.cell))
        if not self._holds:
            with within(bytes_of(self.memory)):
                self.held.enter_context(shared(whole.lm.decoder))
            self._holds = True
        return self._asked[key]

    def _estimate(self, cell: int) -> Scores:
        return joined(Shards(self.folder, cell, "estimate"))

    def give_back(self) -> None:
        """Hold the model no longer: it is as it was when it was loaded, also where an item failed."""
        self.held.close()
        self._holds = False

    def _cell(self, cell: int) -> Asked:
        if (cell, "") not in self._asked:
            own, folder = self.folder.cells[cell], self.folder
            key = json.dumps(dict(own.model), sort_keys=True)
            if self._model is None or self._model[0] != key:
                self.give_back()
                self._asked.clear()
                self._model = None  # the old one goes before the new one comes
                self._model = key, model_of(own)
            made = Asked.of(own, self._model[1])
            _require_same(folder.path, made, folder.models[cell]["identity"], folder.tasks[cell]["digest"])
            self._asked[cell, ""] = made
        return self._asked[cell, ""]


def _require_same(path: Path, asked: Asked, identity: str, digest: str) -> None:
    if differing := difference(identity, asked.lm.identity):
        raise FileError(
            f"{path} was cut for {asked.lm.name} with other {differing} than it has now. Choose another folder."
        )
    if asked.task.digest() != digest:
        raise FileError(
            f"{path} was cut for other pairs of {asked.task.name!r} than there are now. Choose another folder."
        )
