"""The page of a sweep: a grid of its cells, what each costs and took, and the findings of those that are done."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from veracausa.progress import duration
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.frame import About, framed
from veracausa.report.tables import Column, Table
from veracausa.storage.environment import command, versions
from veracausa.storage.files import at, write_text
from veracausa.sweeps.results import Sweep
from veracausa.sweeps.verbs import SCORED, STAGED
from veracausa.words import counted, whole

if TYPE_CHECKING:
    import pandas as pd

#: Rows of a result that its cell shows.
_ROWS = 20
#: Scores with more numbers than this are not merged for a page, but added up (`Sweep.totals`).
_LARGE = 50_000_000
_METHODS = (
    (
        "Cells and items",
        "A cell is one question about one task of one model. It is cut into items that workers do; its result is put "
        "together of all its items, and is what one process would have given.",
    ),
)
_READING = (
    ("Pages", "Cells of studies and discoveries have a page of their own: “its page”."),
    ("States", "done: every item is there. running: a worker has one in hand. begun: some are there, none in hand. "
               "failed: an item will be tried again. set aside: an item failed too often. waiting: nothing yet."),
    ("Forecast and taken", "Seconds of one worker: of all items, by the rates of the machine that cut the sweep; and "
                           "those that the finished items took, on the machines that did them."),
)  # fmt: skip


def write_page(sweep: Sweep, path: str | Path) -> Path:
    """Write the page (public as `Sweep.page`).

    Raises:
        FileError: it cannot be written, or an item of a cell that is done is damaged.
    """
    path = at(path)
    return write_text(path, page(sweep, path.parent))


def page(sweep: Sweep, where: Path) -> str:
    """The page as text, for a file in the folder `where`, from which it links to the results."""
    state = sweep.table().to_dict("records")
    found = [_found(sweep, cell, where) for cell in range(len(sweep)) if sweep.done(cell)]
    columns, rows = _grid(sweep, state, where)
    return framed(
        "sweep.html",
        [],
        [_table(state), *(one["table"] for one in found)],
        shown=_shown(sweep, state),
        summary=list(sweep.sentences),
        notes=[],
        methods=_METHODS,
        reading=_READING,
        cost=int(sum(row["token-layers"] for row in state)),
        columns=columns,
        rows=rows,
        found=found,
    )


def _table(state: list[dict[str, Any]]) -> Table:
    """The same as a table, for downloads."""
    columns = [Column(name, name, "text" if name in ("cell", "state") else "plain") for name in state[0]]
    return Table("cells", "The cells", tuple(columns), tuple(state))


def _grid(sweep: Sweep, state: list[dict[str, Any]], where: Path) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Questions, and for each model and task its cells, one a question (None: not asked)."""
    names = [name.rpartition(" · ") for name in sweep.names]
    columns = list(dict.fromkeys(question for *_, question in names))
    rows: dict[str, dict[str, Any]] = {}
    for cell, (about, _, question) in enumerate(names):
        rows.setdefault(about, {})[question] = _cell(sweep, cell, state[cell], where)
    return columns, [(about, [cells.get(question) for question in columns]) for about, cells in rows.items()]


def _cell(sweep: Sweep, cell: int, row: dict[str, Any], where: Path) -> dict[str, str]:
    word, forecast = str(row["state"]), row["seconds"]
    foretold = "no forecast" if forecast is None or forecast != forecast else f"forecast {duration(forecast)}"
    why = dict(reversed(sweep.failures)).get(sweep.names[cell], "") if word == "set aside" else ""
    own = _link(sweep.folder.result(cell) / "report.html", where) if sweep.folder.cells[cell].ask in STAGED else ""
    return {
        "state": word,
        "look": word.rpartition(" ")[2],
        "counted": f"{whole(row['done'])} of {counted(row['items'], 'item')}",
        "time": f"{foretold}, took {duration(row['taken'])}" if row["done"] else foretold,
        "why": why,
        "link": f"#cell-{cell}" if word == "done" else "",
        "page": own if word == "done" else "",
    }


def _found(sweep: Sweep, cell: int, where: Path) -> dict[str, Any]:
    """What a cell that is done found: sentences, its first rows, its file."""
    folder = sweep.folder
    numbers = sum(len(item.pairs or ()) for item in folder.of_cell(cell))
    about: dict[str, Any] = {"name": f"cell-{cell}", "title": sweep.names[cell]}
    if folder.cells[cell].ask in SCORED and numbers and not folder.result(cell).exists():
        totals = sweep.totals(cell)
        if totals.n * len(totals.about.units) > _LARGE:
            table = _rows(totals.top(10), cell)
            told = f"{totals.n:,} pairs × {len(totals.about.units):,} units: too large to be merged for a page."
            return about | {"sentences": [told], "table": table, "file": _link(folder.path / "items", where)}
    result = sweep[cell]
    shown = _rows(getattr(result, "head", result.table)()[:_ROWS], cell)
    path = folder.result(cell)
    file = path / "report.html" if folder.cells[cell].ask in STAGED else path
    return about | {"sentences": result.sentences, "table": shown, "file": _link(file, where)}


def _rows(frame: pd.DataFrame, cell: int) -> Table:
    """Some rows of a result as a table of the page; lists and objects as text."""
    forms = {"f": "plain", "i": "index", "u": "index"}
    columns = tuple(Column(str(name), str(name), forms.get(frame[name].dtype.kind, "text"), 4) for name in frame)
    return Table(f"cell-{cell}-rows", "Strongest first", columns, tuple(rows_of(frame.rename(columns=str))))


def _link(path: Path, where: Path) -> str:
    return quote(Path(os.path.relpath(path, where)).as_posix())


def _shown(sweep: Sweep, state: list[dict[str, Any]]) -> About:
    models = list(dict.fromkeys(str(model["source"]) for model in sweep.folder.models))
    about = {"name": counted(len(models), "model"), "source": ", ".join(models), "identity": ""}
    title = f"A sweep of {counted(len(sweep), 'cell')}"
    took, today = sum(row["taken"] for row in state), datetime.date.today().isoformat()
    return About(title, about, command(), today, "each cell's own", took, versions())
