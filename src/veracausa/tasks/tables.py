"""From a table to pairs: which columns are which, and what stands in their cells."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from veracausa.arguments import is_list, kind_and_value, shown
from veracausa.errors import TaskError
from veracausa.storage.files import at
from veracausa.tasks.chat import is_chat
from veracausa.tasks.columns import COLUMNS, Layout, layout
from veracausa.tasks.files import table_of
from veracausa.tasks.finding import Sought, sought
from veracausa.tasks.pairs import Pair
from veracausa.tasks.rows import Table, table_in_memory

#: Columns that say where spans are: one for each, or one for all.
_SPAN, _SPANS = "span ", "spans"


@dataclass(frozen=True)
class Given:
    """Pairs as they were given. `name`: what a task of them is called; `rows`: (where it stands, pair); `options`: what
    the task says about where they are from. `ids`: whether answers are token ids.
    """

    name: str
    rows: list[tuple[str, Pair]]
    options: dict[str, Any]
    ids: bool


def read_pairs(data: Any, columns: Mapping[str, str] | None = None, without: Collection[str] = ("incorrect",)) -> Given:
    """The pairs of a file or of a table in memory, before any model is asked; `columns` as in `vc.task`.

    `without`: what a pair need not have; without "corrupted" there is no counterpart.

    Raises:
        FileError: a missing or damaged file. TaskError: a missing column, an empty cell, no rows. Both say where.
    """
    file = isinstance(data, (str, os.PathLike))
    table = table_of(at(data)) if file else table_in_memory(data)
    required = tuple(column for column in COLUMNS if column not in without)
    layouts: dict[tuple[str, ...], Layout] = {}

    def read(names: tuple[str, ...], where: str) -> Layout:
        if names not in layouts:
            layouts[names] = layout(names, columns or {}, required, where)
        return layouts[names]

    if table.columns is not None:
        read(tuple(table.columns), f"{table.where}, {table.header}")
    rows = []
    for place, row in table.rows:
        where = f"{table.where}, {place}"
        found = read(tuple(row), where)
        pair = _pair(found, row, required, where, place, table)
        rows.append((where, replace(pair, corrupted=None) if "corrupted" in without else pair))
    if not rows:
        raise TaskError(
            f"{table.where} has no examples; it needs one row per pair, with the columns {', '.join(required)}"
        )
    named = sorted({one.name for one in layouts.values() if one.name})
    options = ({"file": at(data).name} if file else {}) | ({"as": " and ".join(named)} if named else {})
    ids = any(one.ids for one in layouts.values())
    return Given(at(data).stem if file else "table", rows, options, ids)


def _pair(
    found: Layout, row: Mapping[str, Any], required: tuple[str, ...], where: str, place: str, table: Table
) -> Pair:
    try:
        row = found.read(row)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error
    cells: dict[str, Any] = {}
    for column in COLUMNS:
        value, here = row.get(column), f"{where}, column {column!r}"
        if isinstance(value, float) and math.isnan(value):  # an empty cell of a DataFrame
            value = None
        if column in ("correct", "incorrect"):
            value = _answers(value, here, table.cut, column in found.ids)
        else:
            value = _messages(value)
            if value is not None and not isinstance(value, str) and not is_chat(value):
                raise TaskError(f"{here}: a prompt is text or a list of messages, but this is {kind_and_value(value)}")
        if column in required and not (value.strip() if isinstance(value, str) else value):
            raise TaskError(f"{here} is empty")
        cells[column] = value
    spans, taken = _spans(row, where)
    kept = {k: v for k, v in row.items() if k not in (*COLUMNS, *taken) and isinstance(v, (str, int, float))}
    return Pair(**cells, info={**kept, "row": place}, spans=spans)


def _spans(row: Mapping[str, Any], where: str) -> tuple[dict[str, Sought], list[str]]:
    """What a row says to look for, in "span …" columns or in one "spans" column, and the columns that say it."""
    taken = [column for column in row if column == _SPANS or column.startswith(_SPAN)]
    said = _object(row.get(_SPANS))
    if said is not None and not isinstance(said, Mapping):
        raise TaskError(f"{where}, column {_SPANS!r}: spans are name → what to look for, but this is {shown(said)}")
    apart = {name.removeprefix(_SPAN).strip(): row[name] for name in taken if name != _SPANS}
    if twice := [name for name in apart if not _blank(apart[name]) and name in (said or {})]:
        raise TaskError(f"{where}: the span {twice[0]!r} has a column of its own and stands in {_SPANS!r}; say it once")
    cells = {**(said or {}), **apart}
    asked = {name: _one(cell) for name, cell in cells.items() if not _blank(cell)}
    return sought(asked, 1, f"{where}, spans")[0], taken


def _one(cell: Any) -> Any:
    """What a cell says of one pair, as `sought` takes it: [first, end] are tokens, a dict says both prompts apart."""
    cell = _object(cell)
    if isinstance(cell, Mapping):
        return {side: _one(value) for side, value in cell.items()}
    ends = list(cell) if is_list(cell) else []
    return [range(*ends) if len(ends) == 2 and all(type(one) is int for one in ends) else cell]


def _object(cell: Any) -> Any:
    """What a cell of JSON holds, where it is an object or a list; any other cell as it is."""
    if not isinstance(cell, str) or cell.lstrip()[:1] not in ("{", "["):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _blank(cell: Any) -> bool:
    """Whether a cell says nothing: this pair lacks the span."""
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and cell != cell)


def _messages(value: Any) -> Any:
    """The messages of a cell that holds a chat, as JSON or in an array; any other cell as it is."""
    if is_list(value) and str(getattr(value, "dtype", "")) == "object":  # as pandas reads them from Parquet
        return list(value) if any(isinstance(one, Mapping) for one in value) else value
    if not isinstance(value, str) or not value.lstrip().startswith("[{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if is_chat(found) and all({"role", "content"} <= set(one) for one in found) else value


def _answers(value: Any, where: str, cut: str, ids: bool) -> tuple[str | int, ...]:
    """The answers of a cell, one or a list; a text may hold several, with `cut` between them; `ids`: token ids."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, str):
        value = value.split(cut) if cut else [value]
    answers = list(value) if is_list(value) else [value]
    if ids:
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in answers):
            raise TaskError(f"{where}: answers are token ids here, but this is {kind_and_value(value)}")
        return tuple(answers)
    if not all(isinstance(one, str) and one.strip() for one in answers):
        raise TaskError(
            f"{where}: answers are a text or a list of texts, none of them empty, but this is {kind_and_value(value)}"
        )
    return tuple(answers)
