"""The command that lays two saved results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veracausa.cli.command import BEGUN
from veracausa.cli.opening import Saved
from veracausa.cli.options import Json, Out, Rows
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.errors import FileError
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.scores.comparison import Comparison

SameParts = Annotated[
    bool,
    typer.Option(
        "--corresponding",
        help="Units of the same name are the same part, though the models’ configurations differ (one is tuned).",
    ),
]
SamePairs = Annotated[
    bool | None,
    typer.Option(
        "--paired/--unpaired", help="Whether both have the same pairs in the same order. Default: as they say."
    ),
]


def compare_pages(
    one: Saved,
    other: Saved,
    corresponding: SameParts = False,
    paired: SamePairs = None,
    rows: Rows = 10,
    out: Out = None,
    json: Json = False,
) -> None:
    """Two saved results side by side: what differs in how they were made, and what in what they found.

    Scores, receipts or folders of studies: other methods, models, seeds or corruptions. No model is loaded. The folder
    --out has a page (report.html), the comparison, and its table as CSV.
    """
    from veracausa.opening import open as read
    from veracausa.studies.laying import beside

    for path in (one, other):
        if not path.exists():
            raise FileError(f"There is no file or folder {path}.")
    BEGUN.set(True)
    found = beside(read(one), read(other), paired=paired, corresponding=corresponding)

    def show() -> None:
        echo(found.describe())
        for sentence in found.sentences:
            echo(f"• {sentence}")
        echo(f"\n{found.largest(rows).round(4).to_string(index=False, na_rep='–')}")

    finish(json, show, lambda: body_of(found), lambda folder: _kept(found, folder), out, " and report.html")


def _kept(found: Comparison, folder: Path) -> Path:
    """Write everything; says where the comparison is."""
    path = with_csv(found.save(folder / "comparison.safetensors"), found.table())
    found.page(folder / "report.html")
    return path
