"""The chart of every kind of result: what `result.chart()` draws where a result has no chart of its own."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from veracausa.effects.learned_constants import OptimalConstants
from veracausa.receipts.receipts import Receipt
from veracausa.report.charts.charts import alone, together
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.scatters import against_exact, padded
from veracausa.report.charts.strengths import bars_view, overlap_view
from veracausa.report.pages.discovery_figures import receipt_figure
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import METRIC
from veracausa.scores.stable import Stability
from veracausa.words import plain

#: The chart of a result is named after what it is about; only its data have names.
_OWN = "result"


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
    view = against_exact(data, found, frozenset(), _OWN, padded([found.exact, found.estimate]), titles)
    first, *rest = found.describe().splitlines()
    return Part(f"{found.method} against exact effects", view, data, first, "\n".join(rest))


@drawing.register
def _stability(found: Stability) -> Part:
    data = Datasets(inline=True)
    curves = {"independent sets": found.fresh, "bootstrap": found.bootstrap}
    view = overlap_view(data, _OWN, curves, found.bar)
    heading = f"{found.scores.method}: do other examples name the same {found.top} strongest?"
    said = f"Jaccard {plain(found.jaccard, 2)} between bootstrap draws of {found.n}; dashed: {found.bar:g}"
    return Part(heading, view, data, f"Line chart. {said}", said)


@drawing.register
def _receipt(found: Receipt) -> Figure:
    return receipt_figure(found)


@drawing.register
def _constants(found: OptimalConstants) -> Part:
    data = Datasets(inline=True)
    gain = (found.before - found.after).double().numpy()
    order = np.argsort(-gain, kind="stable")
    view = bars_view(data, _OWN, found.units[order].names, gain[order], "mean KL saved by learning, nats")
    heading = f"Optimal constants of {len(found.units):,} {found.units.kind}"
    return Part(heading, view, data, f"Bar chart. {' '.join(found.sentences)}", "the largest gains over the mean")
