"""Two circuits side by side as charts: f at equal sizes, and changed ranks of the strongest edges."""

from __future__ import annotations

from functools import partial
from typing import Any

import altair as alt
import numpy as np

from veracausa.circuits.comparison import SIDES, CircuitComparison, Sized
from veracausa.report.charts import theme
from veracausa.report.charts.comparison import ranks_figure
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.faithfulness import RANKINGS
from veracausa.report.charts.figures import Figure, Part

#: A and B at the two ends of what colours differences: purple, green.
_SIDES = alt.Scale(domain=["A", "…", "·", "··", "B"], range="heatmap")
_LEGEND = alt.Legend(title=None, values=["A", "B"], symbolOpacity=1)
#: Edges whose ranks are drawn: the strongest of either.
_DRAWN = 10


def circuit_comparison_figures(found: CircuitComparison, name: str) -> list[Figure]:
    """All charts that there are numbers for."""
    drawn = [partial(_sizes, found)] if found.sizes else []
    drawn += [partial(_ranks, found)] if _moved(found).any() else []
    return [draw(name) for draw in drawn]


def circuit_comparison_part(found: CircuitComparison, name: str) -> Part:
    """How many edges both keep, and each alone, to stand alone."""
    data = Datasets(inline=True)
    rows: list[Row] = [{"kept": side, "edges": int((found.side == i).sum())} for i, side in enumerate(SIDES)]
    bars = alt.Chart(data.add(name, rows)).mark_bar(cornerRadius=1)
    view = bars.encode(
        y=alt.Y("kept:N", sort=list(SIDES), title=None), x=alt.X("edges:Q", title="edges"),
        tooltip=[alt.Tooltip("kept:N"), alt.Tooltip("edges:Q", format=",d")],
    )  # fmt: skip
    return Part("Edges of two circuits", view, data, found.found[0], found.found[0])


def _sizes(found: CircuitComparison, name: str) -> Figure:
    rankings = list(dict.fromkeys(one.ranking for one in found.sizes))
    parts = tuple(_curve([one for one in found.sizes if one.ranking == ranking], ranking, name) for ranking in rankings)
    said = found.found[-1]
    return Figure(f"{name}-sizes", "f at equal sizes", parts, said, least=320, width=420)


def _curve(sizes: list[Sized], ranking: str, name: str) -> Part:
    """f of A and of B over the number of edges, with a band of one standard error."""
    data = Datasets()
    rows: list[Row] = [
        {"result": side, "edges": one.edges, "f": number(one.f[k]), "stderr": number(one.errors[k]),
         "low": number(one.f[k] - one.errors[k]), "high": number(one.f[k] + one.errors[k])}
        for one in sizes for k, side in enumerate("AB")
    ]  # fmt: skip
    base: Any = alt.Chart(data.add(f"{name}-{ranking}", rows)).encode(
        x=alt.X("edges:Q", title="edges", scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(format="~s", tickCount=5)),
        color=alt.Color("result:N", scale=_SIDES, legend=_LEGEND),
        tooltip=[alt.Tooltip("result:N"), alt.Tooltip("edges:Q", format=",d"), alt.Tooltip("f:Q", format=".3f"),
                 alt.Tooltip("stderr:Q", title="± SE", format=".3f")],
    )  # fmt: skip
    f = alt.Y("f:Q", title="f")
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title="f"), y2="high:Q")
    points = base.mark_point(filled=True, size=30).encode(y=f, shape=alt.Shape("result:N", legend=None))
    one = alt.Chart(alt.InlineData(values=[{}])).mark_rule(style=theme.DIAGONAL).encode(y=alt.datum(1))
    view = alt.layer(one, band, base.mark_line(strokeWidth=1.8).encode(y=f), points)
    text = f"f of A and of B over {len(sizes)} sizes, {RANKINGS[ranking]}"
    return Part(RANKINGS[ranking], view, data, text, "band: one standard error; dashed: the whole model")


def _moved(found: CircuitComparison) -> np.ndarray:
    """Edges among the strongest of A or of B that have a rank in both."""
    first, second = found.ranks
    top = min(_DRAWN, *(max(1, count) for count in found.scored))
    return ((first <= top) | (second <= top)) & (first > 0) & (second > 0)


def _ranks(found: CircuitComparison, name: str) -> Figure:
    among = np.flatnonzero(_moved(found))
    said = f"The {_DRAWN} strongest edges of A and of B that both rank, by |importance|; a line is an edge."
    return ranks_figure(
        name, found.edges[among].names, [ranks[among] for ranks in found.ranks], "edge", said, named=_DRAWN
    )  # fmt: skip
