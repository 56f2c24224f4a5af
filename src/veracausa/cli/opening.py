"""The command that opens saved results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.cli.command import BEGUN
from veracausa.cli.listing import listing
from veracausa.cli.options import Csv, Json, Rows
from veracausa.cli.output import body_of, print_json, rows_of
from veracausa.errors import FileError, MethodError
from veracausa.storage.files import at, csv_text, format_of
from veracausa.terminal import echo, say
from veracausa.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.tasks.task import Task

Saved = Annotated[
    Path, typer.Argument(metavar="FILE|FOLDER", help="What a command or `save` wrote with --out.", parser=at)
]

Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="FILE.html", help="Also write the result's page there, if it has one.", parser=at),
]


def open_(path: Saved, rows: Rows = 10, json: Json = False, csv: Csv = False, page: Page = None) -> None:
    """Show any saved result: what it is, what it found, and the head of its table. No model is loaded."""
    from veracausa.opening import kind_of_folder
    from veracausa.opening import open as read
    from veracausa.tasks.task import Task

    if json and csv:
        raise MethodError("--json and --csv are two forms of one result; give one of them.")
    if path.is_dir() and not kind_of_folder(path) and (inside := _results_in(path)):
        _list(path, inside, json)
        return
    if not path.exists():
        raise FileError(f"There is no file or folder {path}.")
    BEGUN.set(True)
    found = read(path)
    if page is not None:
        say(f"Page: {_page_of(found, page).resolve()}")
    table = _pairs(found) if isinstance(found, Task) else found.table()
    if csv:
        echo(csv_text(table).removesuffix("\n"))
    elif json:
        print_json({**_task_body(found), "table": rows_of(table)} if isinstance(found, Task) else body_of(found))
    else:
        echo(found.describe())
        for sentence in getattr(found, "sentences", ()):
            echo(f"• {sentence}")
        _head(_strongest_first(table), rows)


def _page_of(found: Any, page: Path) -> Path:
    """Write a result's page.

    Raises:
        MethodError: it has none of its own.
    """
    if not hasattr(found, "page"):
        raise MethodError(
            f"A {type(found).__name__} has no page that stands alone. A study's and a discovery's folder hold theirs "
            "(report.html); of other results there is found.chart()."
        )
    written: Path = found.page(page)
    return written


def _strongest_first(table: pd.DataFrame) -> pd.DataFrame:
    """A table of effects from the strongest on; any other as it is."""
    return table.sort_values("effect", key=abs, ascending=False, kind="stable") if "effect" in table else table


def _head(table: pd.DataFrame, rows: int) -> None:
    if rows and len(table):
        echo(f"\n{table[:rows].to_string(index=False, na_rep='–', float_format='{:+.4g}'.format)}")
    if len(table) > rows:
        echo(f"… {len(table) - rows:,} more rows: --rows, --csv, --json")


def _results_in(folder: Path) -> dict[str, str]:
    """Name → kind of the results in a folder that is no result itself."""
    from veracausa.opening import READERS

    found = {}
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*/*.safetensors"))):
        try:
            kind = format_of(path)
        except FileError:
            continue
        if kind in READERS:
            found[str(path.relative_to(folder))] = kind.removeprefix("veracausa").strip("-.").rstrip("-0123456789")
    return found


def _list(folder: Path, inside: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json([{"file": str(folder / name), "result": kind} for name, kind in inside.items()])
        return
    rows = [(kind, name) for name, kind in inside.items()]
    echo(listing(f"{folder} holds {counted(len(rows), 'result')}. Open one of them:", rows))


def _pairs(task: Task) -> pd.DataFrame:
    import pandas as pd

    answers = [task.answer_strings(i) for i in range(len(task))]
    return pd.DataFrame(
        {
            "clean": task.clean_text,
            "corrupted": task.corrupted_text,
            "correct": ["|".join(correct) for correct, _ in answers],
            "incorrect": ["|".join(incorrect) for _, incorrect in answers],
        }
    )


def _task_body(task: Task) -> dict[str, Any]:
    return {"result": "Task", "task": task.describe(), "metric": task.metric, "settings": dict(task.options)}
