"""Figures and tables of a page, of which one that fails costs nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from veracausa.report.charts.figures import Figure
from veracausa.report.packing import Columns
from veracausa.report.tables import Column, Table
from veracausa.spared import spared

if TYPE_CHECKING:
    import pandas as pd


def spared_figures(name: str, title: str, make: Callable[[], Sequence[Figure]]) -> list[Figure]:
    """Figures, each of them sure to go onto the page; in place of those that fail, an empty one that says why."""

    def missing(sentence: str) -> list[Figure]:
        return [Figure(name, title, (), sentence)]

    made: list[Figure] = []
    for figure in spared(f"“{title}”", lambda: list(make()), missing):
        made += spared(f"“{figure.title}”", partial(_checked, figure), _missing(figure))
    return made


def _missing(figure: Figure) -> Callable[[str], list[Figure]]:
    """The place of a figure, as a list of one."""
    return lambda sentence: [Figure(figure.name, figure.title, (), sentence)]


def spared_tables(
    name: str, title: str, make: Callable[[], Sequence[Table]], bare: Callable[[], pd.DataFrame] | None = None
) -> list[Table]:
    """Tables, each of them sure to go onto the page; in their place one that says why, with `bare`'s rows if it can."""

    def checked() -> list[Table]:
        made = list(make())
        for table in made:
            for row in table.page_rows:
                _ = [(c.show(row.get(c.key)), c.key_of(row.get(c.key)) if c.numeric else "") for c in table.columns]
            json.dumps(table.records(Columns()), allow_nan=False)
        return made

    def instead(sentence: str) -> list[Table]:
        empty = Table(name, title, (), (), sentence)
        return [empty if bare is None else spared(f"“{title}” as it is", lambda: _bare(empty, bare()), lambda _: empty)]

    return spared(f"“{title}”", checked, instead)


def _bare(empty: Table, frame: pd.DataFrame) -> Table:
    """A table of a frame as it is, in the place of one that failed."""
    columns = tuple(Column(str(name), str(name)) for name in frame.columns)
    rows = tuple({str(key): value for key, value in row.items()} for row in frame.to_dict("records"))
    return replace(empty, columns=columns, rows=rows, shown=0)


def _checked(figure: Figure) -> list[Figure]:
    """The figure, as a list of one, if its specifications can be written."""
    if figure.parts:
        json.dumps([figure.specs(), figure.spec()], allow_nan=False)
    return [figure]
