"""The command that lays two saved results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.cli.command import BEGUN
from veracausa.cli.opening import Saved
from veracausa.cli.options import Json, Out, Rows
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.errors import FileError
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.circuits.comparison import CircuitComparison
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

    Scores, receipts or folders of studies; circuits or folders of discoveries: other methods, models, seeds or
    corruptions. No model is loaded. The folder --out has a page (report.html), the comparison, and its table as CSV.
    """
    from veracausa.opening import open as read

    for path in (one, other):
        if not path.exists():
            raise FileError(f"There is no file or folder {path}.")
    BEGUN.set(True)
    found = _laid(read(one), read(other), paired=paired, corresponding=corresponding)

    def show() -> None:
        echo(found.describe())
        for sentence in found.sentences:
            echo(f"• {sentence}")
        echo(f"\n{found.largest(rows).round(4).to_string(index=False, na_rep='–')}")

    finish(json, show, lambda: body_of(found), lambda folder: _kept(found, folder), out, " and report.html")


def _laid(one: Any, other: Any, **how: bool | None) -> Comparison | CircuitComparison:
    """Circuits and discoveries by their edges, all else by its scores."""
    from veracausa.circuits.circuit import Circuit
    from veracausa.discovery import laying as circuits
    from veracausa.discovery.results import Discovery
    from veracausa.studies import laying as scores

    if isinstance(one, Circuit | Discovery) or isinstance(other, Circuit | Discovery):
        return circuits.beside(one, other, **how)  # type: ignore[arg-type]
    return scores.beside(one, other, **how)  # type: ignore[arg-type]


def _kept(found: Comparison | CircuitComparison, folder: Path) -> Path:
    """Write everything; says where the comparison is."""
    ending = "safetensors" if hasattr(found, "compared") else "json"
    path = with_csv(found.save(folder / f"comparison.{ending}"), found.table())
    found.page(folder / "report.html")
    return path
