"""Folders of sweeps whose numbers are given, so that how they are read can be tested and timed without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up import MODEL, task_header

from veracausa.cost import Cost
from veracausa.scores.packed import FORMAT, pack_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import write_tensors
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.items import Item
from veracausa.sweeps.plan import Cell, Plan
from veracausa.units.table import Units

#: The numbers of some pairs in a cell: effects [pairs, units], and both ends of each pair.
Numbers = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
Cut = Sequence[tuple[Sequence[int] | None, tuple[int, int] | None]]


def neurons(count: int) -> Units:
    """So many neurons of one layer."""
    return Units("neurons", np.zeros(count, int), np.arange(count), np.full(count, -1))


def scores(ask: str, units: Units, numbers: tuple[np.ndarray, ...], pairs: int) -> Scores:
    """What an item of `pairs` pairs holds of given numbers."""
    values, clean, corrupted = map(torch.from_numpy, numbers)
    method = {"exact": "exact", "attribute": "atp"}[ask]
    baseline = {"ablation": "counterfactual"} if ask == "exact" else {"baseline": "corrupted"}
    settings = {"direction": "noising"} | baseline
    about = {"model": MODEL, "task": task_header(pairs, lengths=[5, 5])}
    cost = Cost(forward=values.numel(), full=len(values))
    return Scores(values, units, method, settings, **about, clean=clean, corrupted=corrupted, cost=cost)


def lay(path: Path, units: Units, pairs: int, cells: dict[str, tuple[Numbers, Cut]]) -> Folder:
    """A sweep whose items are all done: what it asks → the numbers of its cell, and how that is cut.

    An item leaves out units of which it has no number, as parts of positions beyond their prompts' ends do.
    """
    listed = tuple(Cell({"name": "made-up"}, {"name": "ioi"}, ask, {}) for ask in cells)
    items = [
        Item(f"{number:x}{place:015x}", number, None if rows is None else tuple(rows), ranged, 1.0, 1.0, 1)
        for number, (_, cut) in enumerate(cells.values())
        for place, (rows, ranged) in enumerate(cut)
    ]
    of_cells: dict[str, list[Any]] = {"models": [MODEL] * len(cells), "tasks": [task_header(pairs)] * len(cells)}
    folder = Folder.begin(path, Plan(listed), items, **of_cells, facts=[{"places": []}] * len(cells))
    for number, (ask, (numbers, _)) in enumerate(cells.items()):
        one = (np.full((1, len(units)), np.nan), np.zeros(1), np.zeros(1))
        scores(ask, units, one, pairs).save(folder.frame(number))
        packed: dict[tuple[bytes, int], tuple[dict[str, Any], dict[str, torch.Tensor]]] = {}
        for item in folder.of_cell(number):
            rows = np.arange(pairs) if item.pairs is None else np.array(item.pairs)
            values, *ends = numbers(rows)
            columns = np.arange(len(units))[slice(*item.units) if item.units else slice(None)]
            columns = columns[~np.isnan(values[:, columns]).all(0)]
            own = (np.ascontiguousarray(values[:, columns]), *ends)
            key = columns.tobytes(), len(rows)
            if key not in packed:  # items of the same units differ in their numbers alone
                packed[key] = pack_scores(scores(ask, units[columns], own, pairs))
            header, tensors = packed[key]
            named = zip(("values", "clean", "corrupted"), map(torch.from_numpy, own), strict=True)
            write_tensors(folder.shard(item), FORMAT, header, tensors | dict(named))
    return folder
