"""The page of two circuits side by side: how both were made, what they share, one drawing of both, f at equal sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veracausa.circuits.comparison import CircuitComparison
from veracausa.report.charts.circuit_comparison import circuit_comparison_figures
from veracausa.report.instrument.laid_circuits import PLACE, laid_circuits
from veracausa.report.pages.comparison import framed_beside
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.storage.files import at, write_text

_METHODS = (
    (
        "What both keep",
        "Edges by name, in one graph. Jaccard is the number that both keep over the number that either keeps. Two "
        "random sets of these sizes would share |A| · |B| / N of the graph’s N edges.",
    ),
    (
        "f at equal sizes",
        "Circuits of the same ranking with as many edges, where both were run. Standard errors are over pairs, to "
        "first order; on the same pairs the test is Student’s on their differences, on others Welch’s, if there are "
        "16 or more on each side; p is corrected by Holm’s method over all sizes.",
    ),
    (
        "Ranks",
        "By |importance|, among all edges that were scored; of a circuit that is no discovery, among those that it "
        "keeps. Importances of two methods or metrics need not be on one scale: they stand beside each other, and no "
        "difference is taken. Ranks of weak edges change by chance.",
    ),
)
_READING = (
    ("Colours of edges", "Grey: both keep it; purple: A only; green: B only, as on every page of two results."),
    ("f", "The share of the gap that a circuit brings back: 1 is the whole model, 0 the corrupted run."),
)


def write_page(found: CircuitComparison, path: str | Path) -> Path:
    """Write the page as one offline file (public as `CircuitComparison.page`).

    Raises:
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found))


def page(found: CircuitComparison) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    figures = spared_figures("circuits", "Both circuits", lambda: circuit_comparison_figures(found, "circuits"))
    edges = spared_tables("edges", "Edges that either keeps", lambda: [_edges(found)])
    sizes = spared_tables("sizes", "f at equal sizes", lambda: [_sizes(found)]) if found.sizes else []
    return framed_beside(
        "circuits.html",
        found,
        figures,
        [*edges, *sizes],
        title="Two circuits side by side",
        question="Which edges do A and B share?",
        both=_both(found),
        units={*found.edges.names, *found.one.nodes, *found.other.nodes},
        methods=_METHODS,
        reading=_READING,
        instrument=lambda columns: laid_circuits(found, columns),
        found=found.found,
        place=PLACE,
        edges=edges,
        charts=figures,
        sizes=sizes,
    )


def _both(found: CircuitComparison) -> list[tuple[str, str, str, str]]:
    """A's and B's letter, method with size, model and task."""
    return [
        (name, f"{one.method}, {len(one):,} edges", one.model["source"], one.task["description"])
        for name, one in zip("AB", (found.one, found.other), strict=True)
    ]


def _edges(found: CircuitComparison) -> Table:
    """Every edge that either keeps, the best rank first."""
    columns = (
        Column("name", "edge"), Column("kept by", "kept by"), Column("A", "A", "signed", 4),
        Column("B", "B", "signed", 4), Column("rank in A", "rank in A", "whole"),
        Column("rank in B", "rank in B", "whole"), Column("change of rank", "rises by", "signed", 0),
    )  # fmt: skip
    rows: tuple[dict[str, Any], ...] = tuple(rows_of(found.table()))
    note = "Importance in A and in B, and ranks by its size; the best rank first."
    return Table("edges", "Edges that either keeps", columns, rows, note, min(SHOWN, len(rows)))


def _sizes(found: CircuitComparison) -> Table:
    names = {"signed": "signed importance", "abs": "|importance|"}
    frame = found.by_size()
    frame["ranking"] = [names[one] for one in frame["ranking"]]
    columns = (
        Column("ranking", "strongest by"), Column("edges", "edges", "whole"), Column("f of A", "f of A", "signed"),
        Column("± A", "± SE", "plain"), Column("f of B", "f of B", "signed"), Column("± B", "± SE", "plain"),
        Column("B − A", "B − A", "signed"), Column("stderr", "± SE", "plain"), Column("p", "p", "p", csv_only=True),
        Column("p (Holm)", "p", "p", help="Holm-corrected"),
    )  # fmt: skip
    return Table("sizes", "f at equal sizes", columns, tuple(rows_of(frame)))
