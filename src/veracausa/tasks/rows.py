"""A table of pairs: its rows, where each stands, and its columns; of a file, or of what is in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veracausa.arguments import is_list, is_table, kind_and_value, shown
from veracausa.errors import TaskError

#: Where a row stands ("line 3"), and its cells by column.
Row = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """Rows with named cells.

    `where`: what it is, for messages. `columns`: those of all rows, and `header` where they stand; None: every row has
    its own. `cut`: what separates several answers in a cell of text, if anything does.
    """

    where: str
    rows: Sequence[Row]
    columns: Sequence[str] | None = None
    header: str = ""
    cut: str = ""


def is_rows(data: Any) -> bool:
    """Whether something in memory is a table: it has named columns.

    >>> is_rows([{"clean": "a"}]), is_rows(["a text"])
    (True, False)
    """
    if isinstance(data, (str, os.PathLike, type)):
        return False
    if isinstance(data, Mapping) or any(hasattr(data, name) for name in ("column_names", "to_dicts", "to_pylist")):
        return True
    listed = is_list(data) and hasattr(data, "__len__") and len(data) > 0
    return is_table(data) or (listed and all(isinstance(one, Mapping) for one in data))


def table_in_memory(data: Any) -> Table:
    """The table that a DataFrame (pandas, polars), a dataset of Hugging Face, records or a dict of columns is.

    Raises:
        TaskError: something that is no table, several tables, or columns of different lengths.
    """
    rows = [
        (f"row {number}", {str(name): cell for name, cell in row.items()}) for number, row in enumerate(_records(data))
    ]
    columns = list(data) if isinstance(data, Mapping) else getattr(data, "column_names", getattr(data, "columns", None))
    return Table("the table", rows, None if columns is None else [str(name) for name in columns], "its columns")


def _records(data: Any) -> Any:
    if isinstance(data, Mapping):
        return _of_mapping(data)
    if not is_rows(data):
        return _refused(data)
    if hasattr(data, "to_dicts"):  # polars
        return data.to_dicts()
    if hasattr(data, "to_pylist"):  # Arrow
        return data.to_pylist()
    if is_table(data):  # pandas
        return data.to_dict("records")
    return data  # a dataset, records


def _refused(data: Any) -> Any:
    raise TaskError(
        f"vc.task: data is a table of pairs (a file, a DataFrame, a dataset, records), but this is "
        f"{kind_and_value(data)}; prompts of your own go to vc.task(lm, clean=…, corrupted=…, correct=…)."
    )


def _of_mapping(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns by name as rows; several tables by name are refused."""
    if data and all(is_rows(one) for one in data.values()):
        first = next(iter(data))
        raise TaskError(f"vc.task: data holds several tables: {', '.join(map(str, data))}. Give one: data[{first!r}].")
    lengths = {name: len(one) for name, one in data.items() if is_list(one) and hasattr(one, "__len__")}
    if len(lengths) < len(data) or len(set(lengths.values())) > 1:
        raise TaskError(f"vc.task: data is a dict whose columns are no lists of one length: {shown(lengths or data)}.")
    return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
