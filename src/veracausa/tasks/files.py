"""Tasks from the user's files: CSV, JSON lines or Parquet with the columns clean, corrupted, correct, incorrect."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from veracausa.arguments import kind_and_value
from veracausa.choices import MetricName
from veracausa.errors import FileError, TaskError
from veracausa.extras import require_extra
from veracausa.storage.files import at
from veracausa.tasks.chat import is_chat
from veracausa.tasks.custom import from_pairs
from veracausa.tasks.metrics import metric as metric_of
from veracausa.tasks.pairs import Pair
from veracausa.tasks.task import Task

COLUMNS = ("clean", "corrupted", "correct", "incorrect")
#: How a file of pairs is called.
ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet")
# a row, and where it stands in the file ("line 3")
Row = tuple[str, Mapping[str, Any]]


def from_file(lm: Any, path: str | Path, *, metric: MetricName = "logit_diff", name: str | None = None) -> Task:
    """A task from a .csv, .jsonl or .parquet file with one example per row.

    Columns: clean and corrupted (text), correct and incorrect (answers with their leading space; several are
    separated by "|" in CSV and are lists in JSONL and Parquet); incorrect may be absent for metrics that don't need
    it. A prompt may be a chat: a list of messages {"role": "user", "content": "…"}, in CSV as JSON; the model's own
    template makes it text, see `vc.task`. Other columns are kept in `info`. Blank lines are skipped. Raises FileError
    for a missing or damaged file, TaskError for a missing column, an empty cell or an empty file, PromptError and
    AnswerError for a pair that cannot be used; each names the file, the line and the column. Parquet needs pyarrow.

    >>> task = vc.tasks.from_file(lm, "pairs.csv", metric="logit_diff")
    """
    path = at(path)
    rows = read_pairs(path, metric)
    return from_pairs(lm, rows, metric=metric, name=name or path.stem, file=path.name)


def read_pairs(path: str | Path, metric: MetricName = "logit_diff") -> list[tuple[str, Pair]]:
    """The pairs of a file with the places where they stand in it, before any model is asked; errors as `from_file`."""
    path = at(path)
    needs_incorrect = metric_of(metric).needs_incorrect
    kinds = dict(zip(ENDINGS, (_csv, _jsonl, _jsonl, _parquet), strict=True))
    read = kinds.get(path.suffix.lower())
    if read is None:
        raise FileError(f"{path} is none of {', '.join(kinds)} by its name, so it cannot be read as prompt pairs")
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    required = COLUMNS if needs_incorrect else COLUMNS[:3]
    try:
        rows = [
            (f"{path}, {place}", _pair(row, required, f"{path}, {place}", place)) for place, row in read(path, required)
        ]
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is damaged or not UTF-8 text: {error}") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise TaskError(f"{path} has no examples; it needs one row per pair, with the columns {', '.join(required)}")
    return rows


def _pair(row: Mapping[str, Any], required: tuple[str, ...], where: str, place: str) -> Pair:
    cells: dict[str, Any] = {}
    for column in COLUMNS:
        value = row.get(column)
        at = f"{where}, column {column!r}"
        if column in ("correct", "incorrect"):
            value = _answers(value, at)
        else:
            value = _messages(value)
            if value is not None and not isinstance(value, str) and not is_chat(value):
                raise TaskError(f"{at}: a prompt is text or a list of messages, but this is {kind_and_value(value)}")
        if column in required and not (value.strip() if isinstance(value, str) else value):
            raise TaskError(f"{at} is empty")
        cells[column] = value
    kept = {k: v for k, v in row.items() if k not in COLUMNS and isinstance(v, (str, int, float))}
    return Pair(**cells, info={"row": place, **kept})


def _messages(value: Any) -> Any:
    """The messages of a cell that holds a chat as JSON; any other cell as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if is_chat(found) and all({"role", "content"} <= set(one) for one in found) else value


def _answers(value: Any, at: str) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    answers = (value,) if isinstance(value, str) else value
    if not isinstance(answers, (list, tuple)) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise TaskError(f"{at}: answers are a text or a list of texts, none of them empty, but this is {value!r}")
    return tuple(answers)


def _check_columns(path: Path, found: list[str], required: tuple[str, ...], place: str) -> None:
    if twice := sorted({c for c in found if found.count(c) > 1}):
        raise TaskError(f"{path}, {place}: column {', '.join(map(repr, twice))} is there twice")
    if missing := [c for c in required if c not in found]:
        has = ", ".join(map(repr, found)) or "no column"
        raise TaskError(f"{path}, {place}: column {', '.join(map(repr, missing))} is missing; the file has {has}")


def _csv(path: Path, required: tuple[str, ...]) -> Iterator[Row]:
    # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        start = 1
        try:
            for cells in reader:
                place, start = f"line {start}", reader.line_num + 1
                if not cells:
                    continue
                if header is None:
                    header = [c.strip() for c in cells]
                    _check_columns(path, header, required, place)
                    continue
                if len(cells) != len(header):
                    raise FileError(
                        f"{path}, {place}: {len(cells)} cells in a table of {len(header)} columns; a cell with a comma "
                        'needs quotes ("…")'
                    )
                row: dict[str, Any] = dict(zip(header, cells, strict=True))
                for column in ("correct", "incorrect"):
                    text = row.get(column, "")
                    row[column] = text.split("|") if text.strip() else ()
                yield place, row
        except csv.Error as error:
            raise FileError(f"{path}, line {start}: not readable as CSV: {error}") from error


def _jsonl(path: Path, required: tuple[str, ...]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FileError(f"{path}, line {number}: not readable as JSON: {error}") from error
            if not isinstance(row, dict):
                raise FileError(
                    f"{path}, line {number}: a row is a JSON object with columns, but this is {line.strip()[:60]!r}"
                )
            _check_columns(path, list(row), required, f"line {number}")
            yield f"line {number}", row


def _parquet(path: Path, required: tuple[str, ...]) -> Iterator[Row]:
    require_extra("parquet")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{path} is damaged or not a Parquet file: {error}") from error
    _check_columns(path, table.column_names, required, "the header")
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", row
