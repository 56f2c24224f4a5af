"""The chart of every kind of result: what `result.chart()` draws where a result has no chart of its own."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from veracausa.report.charts.charts import alone, together
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.scatters import against_exact, padded
from veracausa.report.charts.strengths import overlap_view
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import METRIC
from veracausa.scores.stable import Stability
from veracausa.words import plain


def result_chart(result: Any, *, width: float | None = None, height: float | None = None) -> Any:
    """See `Result.chart`."""
    drawn = drawing(result)
    if isinstance(drawn, Figure):
        return together(drawn, width=width, height=height)
    return alone(drawn, width=width, height=height)


@singledispatch
def drawing(result: Any) -> Part | Figure:
    """What is drawn of a result; each kind has its own."""
    raise TypeError(f"there is no drawing of a {type(result).__name__}")


@drawing.register
def _agreement(found: Agreement) -> Part:
    data = Datasets(inline=True)
    titles = None if found.unit == METRIC else ("exact, share of the gap", f"{found.method}, {found.unit}")
    view = against_exact(data, found, frozenset(), "agreement", padded([found.exact, found.estimate]), titles)
    first, *rest = found.describe().splitlines()
    return Part(f"{found.method} against exact effects", view, data, first, "\n".join(rest))


@drawing.register
def _stability(found: Stability) -> Part:
    data = Datasets(inline=True)
    curves = {"independent sets": found.fresh, "bootstrap": found.bootstrap}
    view = overlap_view(data, "stability", curves, found.bar)
    heading = f"{found.scores.method}: do other examples name the same {found.top} strongest?"
    said = f"Jaccard {plain(found.jaccard, 2)} between bootstrap draws of {found.n}; dashed: {found.bar:g}"
    return Part(heading, view, data, f"Line chart. {said}", said)
