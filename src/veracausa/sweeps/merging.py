"""Items of a cell put together: the result that one process would have given.

Numbers of a pair and a unit stand in one item each, so nothing is added up but costs: effects are those of one process
to the last bit where both ran in the same batches, and to rounding elsewhere (contract 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.errors import FileError
from veracausa.scores.convergence import UNCONVERGED, unconverged
from veracausa.scores.scores import UNPAIRED, Completeness, Scores
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.items import Item

if TYPE_CHECKING:
    from veracausa.result import Result


def merge(folder: Folder, cell: int) -> Result:
    """The result of a cell, of its items; saved beside the other results, and read from there where it is already.

    Raises:
        FileError: an item is not done, or its file is damaged: it is put away, and the sweep makes it anew.
    """
    path = folder.result(cell)
    if path.exists():
        return _read(path)
    items = folder.of_cell(cell)
    if lacking := [item for item in items if not folder.done(item)]:
        raise FileError(
            f"{len(lacking)} of {len(items)} items of {folder.cells[cell].name} are not done. Run the sweep again to "
            "make them."
        )
    found = [_opened(folder, item) for item in items]
    result = found[0]
    if len(items) > 1:
        result = _joined(_read(folder.frame(cell)), [item.pairs for item in items], found, folder.places[cell])
    result.save(path)
    return result


def _read(path: Path) -> Any:
    return through("Sweep.result", path)


def _opened(folder: Folder, item: Item) -> Any:
    path = folder.shard(item)
    try:
        return _read(path)
    except FileError as error:
        path.rename(path.with_suffix(".damaged"))
        raise FileError(
            f"{error} It is put away as {path.with_suffix('.damaged').name}; run the sweep again."
        ) from error


def _joined(
    frame: Scores, pairs: Sequence[tuple[int, ...] | None], parts: list[Scores], places: Sequence[int | str]
) -> Scores:
    """Scores of parts as one: `frame` has all units, the task and its settings, `pairs` is whose numbers each part has.

    A part lacks units that none of its pairs has; so do they have no number. `places`: see `Asked`.
    """
    n, first = int(frame.task["n"]), parts[0]
    place = {name: column for column, name in enumerate(frame.units.names)}
    rows = [list(range(n)) if some is None else [*some] for some in pairs]
    columns = [torch.tensor([place[name] for name in part.units.names]) for part in parts]

    def laid(of: str) -> Tensor | None:
        if getattr(first, of) is None:
            return None
        made = first.values.new_full((n, len(frame.units)), float("nan"))
        for own, where, part in zip(rows, columns, parts, strict=True):
            made[torch.tensor(own)[:, None], where] = getattr(part, of)
        return made

    def ends(of: str) -> Tensor:
        made = getattr(first, of).new_zeros(n)
        for own, part in zip(rows, parts, strict=True):
            made[own] = getattr(part, of)
        return made

    values, completeness = laid("values"), _completeness(n, rows, parts)
    assert values is not None
    made = replace(
        first,
        values=values,
        units=frame.units,
        settings=first.settings | frame.settings,
        model=frame.model,
        task=frame.task,
        clean=ends("clean"),
        corrupted=ends("corrupted"),
        cost=_cost(rows, parts),
        completeness=completeness,
        draw_stderr=laid("draw_stderr"),
    )
    return replace(made, notes=_notes(made, parts, places))


def _notes(made: Scores, parts: list[Scores], places: Sequence[int | str]) -> tuple[str, ...]:
    """The notes of all parts; what they say of sums that miss is said of the whole anew."""
    said = list(dict.fromkeys(note for part in parts for note in part.notes))
    at = next((i for i, note in enumerate(said) if note.startswith(UNCONVERGED)), len(said))
    kept = [note for note in said if not note.startswith(UNCONVERGED)]
    gap = None if made.unit == UNPAIRED else made.gap
    own = unconverged(made.completeness, gap, places, int(made.settings.get("nodes", 1)))
    return (*kept[:at], *own, *kept[at:])


def _cost(rows: list[list[int]], parts: list[Scores]) -> Cost:
    """What all parts cost together; in passes over all pairs."""
    whole = {tuple(own): part.cost.full for own, part in zip(rows, parts, strict=True)}
    return replace(sum((part.cost for part in parts), Cost()), full=sum(whole.values()))


def _completeness(n: int, rows: list[list[int]], parts: list[Scores]) -> Completeness | None:
    first = parts[0].completeness
    if first is None:
        return None
    sides: dict[str, Tensor] = {}
    for name in ("claimed", "true"):
        made = torch.zeros(len(first.claimed), n, dtype=first.claimed.dtype)
        for own, part in zip(rows, parts, strict=True):
            made[:, own] = getattr(part.completeness, name)
        sides[name] = made
    return Completeness(**sides)
