"""What a command prints and keeps: text or JSON on standard output, files first, and nothing lost by a failing step."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from veracausa.cli.command import FAILED
from veracausa.errors import FileError
from veracausa.progress import duration
from veracausa.storage.files import csv_text, write_text
from veracausa.terminal import echo, say

if TYPE_CHECKING:
    import pandas as pd


def print_json(body: Any) -> None:
    """One JSON value on standard output, in ASCII, so that nothing in it gives a terminal orders; NaN is null."""
    echo(json.dumps(_plain(body), indent=1, allow_nan=False))


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as JSON has it: one object per row."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def body_of(result: Any) -> dict[str, Any]:
    """A result as JSON has it."""
    cost = result.cost
    return {
        "result": type(result).__name__,
        "model": result.model,
        "task": result.task,
        "settings": result.settings,
        "cost": None if cost is None else cost.to_dict(),
        "sentences": result.sentences,
        "table": rows_of(result.table()),
    }


def finish(
    as_json: bool,
    show: Callable[[], object],
    body: Callable[[], Mapping[str, Any]],
    save: Callable[[Path], Path] | None = None,
    out: Path | None = None,
    note: str = "",
) -> None:
    """End a command that computed something: keep it (`save` into `out`), then print it, then say where it is.

    `note`: what to say behind the path. Where it cannot be kept in `out`, or not even be printed, it is kept in a
    folder for temporary files, and the command ends with status 1.

    Raises:
        FileError: it can be written nowhere.
    """
    path, failed = None, False
    if save is not None and out is not None:
        path, failed = _kept(save, out)
    try:
        if as_json:
            print_json({**body(), "saved": None if path is None else str(path.resolve())})
        else:
            show()
    except Exception:
        if path is None and save is not None:
            _rescued(save)
        raise
    finally:
        if path is not None:
            (say if as_json else echo)(f"\nSaved {path.resolve()}{note}")
    if failed:
        raise typer.Exit(FAILED)


def took(seconds: float) -> str:
    """How long the work took, and what that leaves out."""
    return f"{duration(seconds)}, besides loading the model and drawing the page."


def with_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as CSV beside a file that was just written; returns the path of that file."""
    write_text(path.with_suffix(".csv"), csv_text(table))
    return path


def _kept(save: Callable[[Path], Path], out: Path) -> tuple[Path, bool]:
    """Where a result was kept, and whether that is not where it was meant to be."""
    try:
        return save(out), False
    except FileError as error:
        say(f"FileError: {error}")
        path = _rescued(save)
        if path is None:
            raise
        return path, True


def _rescued(save: Callable[[Path], Path]) -> Path | None:
    """Keep a result in a folder for temporary files, and say so; None where that fails, too."""
    try:
        path = save(Path(tempfile.mkdtemp(prefix="veracausa-")))
    except (OSError, FileError):
        return None
    say(f"What was computed is in {path.parent} instead. Finished pieces stay where they could be written.")
    return path


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: no NaN, no numpy, no tensors; what has no such form as text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):  # of numpy and torch
        return _plain(value.tolist())
    if isinstance(value, Iterable):
        return [_plain(one) for one in value]
    return str(value)
