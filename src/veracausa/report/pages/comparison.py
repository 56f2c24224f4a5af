"""The page of a comparison: how A and B were made, what differs, and the map, panel and marks of a study's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from veracausa.circuits.comparison import CircuitComparison
from veracausa.report.charts.comparison import compared_figures
from veracausa.report.charts.data import identifier
from veracausa.report.charts.figures import Figure
from veracausa.report.instrument.bundle import bundle
from veracausa.report.instrument.laid import laid
from veracausa.report.instrument.marking import marked
from veracausa.report.packing import Columns
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.frame import About, framed
from veracausa.report.pages.library import asset, flush
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.scores.comparison import Compared, Comparison
from veracausa.storage.files import at, write_text

_METHODS = (
    (
        "Differences",
        "B − A, unit by unit. Standard errors are over pairs; of shares of the gap to first order (each pair’s part "
        "in numerator and denominator). Over the same pairs they are of the differences of pairs, and the test is "
        "Student’s; over other pairs both errors add up, and the test is Welch’s, if there are 16 or "
        "more on each side: at 5% it is wrong in 5% of draws of normal numbers, in up to 14% of very skewed ones.",
    ),
    (
        "Significance",
        "p is corrected by Holm’s method over all units that are compared together; a unit differs significantly at "
        "0.05. With few pairs little can: absence of a mark says that chance cannot be ruled out, no more.",
    ),
    (
        "Ranks",
        "By size, whatever the sign; rank 1 is the largest. Ranks of weak units change by chance.",
    ),
)
_READING = (
    ("Colours of A and B", "As on a study’s page: blue supports the behaviour, orange works against it."),
    ("Colours of B − A", "Green: the number is higher in B; purple: higher in A. That is not the same as more support: "
                         "where negative effects support, purple does."),
)  # fmt: skip


def write_page(found: Comparison, path: str | Path) -> Path:
    """Write the page as one offline file (public as `Comparison.page`).

    Raises:
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found))


def page(found: Comparison) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    named = [(f"{i}-{identifier(one.title)[:80]}", one) for i, one in enumerate(found.compared, 1)]
    sections = [_drawn(name, one) for name, one in named]
    figures = [figure for section in sections for figure in section["figures"]]
    tables = [table for section in sections for table in section["tables"]]
    units = {unit for one in found.compared for unit in one.names}
    return framed_beside(
        "comparison.html",
        found,
        figures,
        tables,
        title="Two results side by side",
        question="What differs between A and B?",
        both=[(name, *_told(found, name)) for name in "AB"],
        units=units,
        methods=_METHODS,
        reading=_READING,
        instrument=lambda columns: laid(named, columns),
        sections=sections,
    )


def framed_beside(
    template: str,
    found: Comparison | CircuitComparison,
    figures: Sequence[Figure],
    tables: Sequence[Table],
    /,
    *,
    title: str,
    units: set[str],
    instrument: Callable[[Columns], dict[str, Any]],
    **parts: Any,
) -> str:
    """A page of two results as text, from a template that extends beside.html: its frame, and how both were made.

    `units`: those that sentences name, which are marked. `instrument`: what the page's scripts are given.

    Raises:
        FileError: it cannot be made.
    """
    made = spared_tables("made", "How both were made", lambda: [_made(found.mismatches)]) if found.mismatches else []
    return framed(
        template,
        figures,
        [*made, *tables],
        shown=About.now(title, found.model),
        summary=found.sentences,
        notes=(),
        kicker=title.lower(),
        warnings=found.warnings,
        made=made,
        mark=partial(marked, units=units, done=set()),
        cost=0,
        looks=Markup(flush(asset("instrument.css"))),
        instrument=Markup(flush(bundle())),
        beside=lambda columns: {"instrument": instrument(columns)},
        **parts,
    )


def _drawn(name: str, one: Compared) -> dict[str, Any]:
    figures = spared_figures(name, one.title, lambda: compared_figures(one, name))
    tables = spared_tables(f"{name}-units", f"{one.title}: every unit", lambda: [_units(one, name)])
    heading = f"{one.title[:1].upper()}{one.title[1:]}"
    return {
        "name": name,
        "title": one.title,
        "heading": heading,
        "said": _bare(one),
        "figures": figures,
        "tables": tables,
    }


def _bare(one: Compared) -> list[str]:
    """Its sentences under a heading that says what it is."""
    first, *rest = one.sentences
    text = first.removeprefix(f"{one.title}: ")
    return [f"{text[:1].upper()}{text[1:]}", *rest]


def _told(found: Comparison, name: str) -> tuple[str, str, str]:
    """Method, model and task of A or of B."""
    scores = getattr(found.compared[0], {"A": "one", "B": "other"}[name])
    return scores.method, scores.model["source"], scores.task["description"]


def _made(mismatches: Sequence[tuple[str, str, str]]) -> Table:
    """How A and B were made: what differs."""
    rows = tuple({"what": what, "A": one, "B": other} for what, one, other in mismatches)
    return Table(
        "made", "How both were made: what differs", (Column("what", "what"), Column("A", "A"), Column("B", "B")), rows
    )


def _units(one: Compared, name: str) -> Table:
    """Every unit, what differs significantly first, then by size of the difference."""
    frame = Comparison((one,)).largest(len(one.names))
    frame = frame.assign(differs=np.where(frame["differs"], "yes", "no"))
    place = list(frame.columns)[1 : list(frame.columns).index("A")]
    columns = (
        Column("name", "unit"), *(Column(c, c, "index" if frame[c].dtype.kind == "i" else "text") for c in place),
        Column("A", "A", "signed", 4), Column("B", "B", "signed", 4), Column("difference", "B − A", "signed", 4),
        Column("stderr", "± SE", "plain", 4), Column("p", "p", "p", csv_only=True),
        Column("p (Holm)", "p", "p", help="Holm-corrected"), Column("differs", "differs"),
        Column("rank in A", "rank in A", "whole"), Column("rank in B", "rank in B", "whole"),
        Column("change of rank", "rises by", "signed", 0),
    )  # fmt: skip
    note = f"{one.unit[:1].upper()}{one.unit[1:]}; what differs significantly first, then by the size of B − A."
    shown = min(SHOWN, len(frame))
    title = f"The {shown} largest differences" if shown < len(frame) else "All differences"
    return Table(f"{name}-units", title, columns, tuple(rows_of(frame)), note, shown)
