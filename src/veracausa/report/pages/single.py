"""Pages of one result: its sentences, its facts, its charts and its tables, under each other (single.html)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from veracausa.report.pages.frame import About, framed

if TYPE_CHECKING:
    from veracausa.cost import Cost
    from veracausa.report.charts.figures import Figure
    from veracausa.report.tables import Table

#: A name and what is said of it.
Named = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Single:
    """What is particular to one kind of page. `counted`: what its cost is of, after a comma."""

    kicker: str
    title: str
    heading: str
    description: str
    facts: Sequence[tuple[str, str]]
    summary: Sequence[str]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    methods: Named
    reading: Named
    notes: Sequence[str] = ()
    counted: str = ""
    files: str = "All numbers are in this page. found.save(…) keeps them whole (vc.open reads them)."


def single(told: Single, model: dict[str, str], cost: Cost) -> str:
    """The page as text: everything it needs is in it, nothing is fetched. FileError: it cannot be made."""
    return framed(
        "single.html",
        told.figures,
        told.tables,
        shown=About.now(told.title, model, cost.seconds),
        drawn=told.figures,
        listed=told.tables,
        cost=cost.token_layers,
        **{name: getattr(told, name) for name in _PARTS},
    )


_PARTS = ("summary", "notes", "facts", "description", "methods", "reading", "kicker", "heading", "counted", "files")
