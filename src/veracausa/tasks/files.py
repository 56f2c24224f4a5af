"""Tables in files: CSV, JSON, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from veracausa.errors import FileError
from veracausa.extras import require_extra
from veracausa.tasks.rows import Row, Table


def table_of(path: Path) -> Table:
    """The table of a file; blank lines are passed over.

    Raises:
        FileError: no such file, another kind, damaged, or not UTF-8.

    >>> table_of(Path("pairs.csv")).columns
    ['clean', 'corrupted', 'correct', 'incorrect']
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise FileError(f"{path} is none of {', '.join(_READERS)} by its name, so it cannot be read as prompt pairs")
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        return read(path)
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is damaged or not UTF-8 text: {error}") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error}") from error


def _csv(path: Path) -> Table:
    # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] = []
        first, start = "line 1", 1
        rows: list[Row] = []
        try:
            for cells in reader:
                place, start = f"line {start}", reader.line_num + 1
                if not cells:
                    continue
                if not header:
                    header, first = [c.strip() for c in cells], place
                    if len(set(header)) < len(header):  # which is refused for all kinds of tables alike
                        break
                    continue
                if len(cells) != len(header):
                    raise FileError(
                        f"{path}, {place}: {len(cells)} cells in a table of {len(header)} columns; a cell with a comma "
                        'needs quotes ("…")'
                    )
                rows.append((place, dict(zip(header, cells, strict=True))))
        except csv.Error as error:
            raise FileError(f"{path}, line {start}: not readable as CSV: {error}") from error
    return Table(str(path), rows, header or None, first, cut="|")


def _lines(path: Path) -> Table:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FileError(f"{path}, line {number}: not readable as JSON: {error}") from error
            if not isinstance(row, dict):
                raise FileError(
                    f"{path}, line {number}: a row is a JSON object with columns, but this is {line.strip()[:60]!r}"
                )
            rows.append((f"line {number}", row))
    return Table(str(path), rows)


def _json(path: Path) -> Table:
    """A list of objects, alone or the only one in an object; else an object a line, as some sets' .json has."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError):
        return _lines(path)
    if isinstance(whole, dict):
        lists = [one for one in whole.values() if isinstance(one, list) and one and isinstance(one[0], dict)]
        whole = lists[0] if len(lists) == 1 and "format" not in whole else None
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise FileError(
            f"{path} is JSON, but no list of objects with a pair each. A task that veracausa saved is read by vc.open."
        )
    return Table(str(path), [(f"row {number}", row) for number, row in enumerate(whole)])


def _parquet(path: Path) -> Table:
    require_extra("parquet")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{path} is damaged or not a Parquet file: {error}") from error
    rows = [(f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]
    return Table(str(path), rows, table.column_names, "the header")


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _csv, ".json": _json, ".jsonl": _lines, ".ndjson": _lines, ".parquet": _parquet,
}  # fmt: skip
#: How a file of pairs is called.
ENDINGS = tuple(_READERS)
