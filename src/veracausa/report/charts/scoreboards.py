"""Scoreboards drawn: a grid of rankings and columns, coloured by place in each column, with the figures in it."""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import numpy as np
from scipy.stats import rankdata

from veracausa.circuits.scoreboards.board import Cell, Scoreboard
from veracausa.circuits.scoreboards.columns import COLUMNS, NEITHER, SMALLER
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part
from veracausa.report.charts.maps import colour
from veracausa.report.charts.theme import Support


def scoreboard_part(found: Scoreboard, name: str) -> Part:
    """Darker is better within a column; columns that say nothing of better, and missing cells, are left blank."""
    rows, data = list[Row](), Datasets(inline=True)
    for column in found.columns:
        for ranking, place in zip(found.rankings, _places(found, column), strict=True):
            cell = found.cells[ranking].get(column, Cell())
            cells = {"column": column, "ranking": ranking, "figure": str(cell), "why": cell.why or COLUMNS[column]}
            shown = str(replace(cell, stderr=None))  # as wide as a phone's column
            rows.append({**cells, "text": shown, "value": number(place), "strong": bool(place > 0.4)})
    axis = alt.Axis(domain=False, ticks=False, labelLimit=190)
    top = alt.Axis(domain=False, ticks=False, labelAngle=0, orient="top", labelLimit=150)
    x = alt.X("ranking:N", sort=list(found.rankings), title=None, axis=top)
    y = alt.Y("column:N", sort=found.columns, title=None, axis=axis)
    tips = [alt.Tooltip(f"{field}:N") for field in ("ranking", "column", "figure", "why")]
    base = alt.Chart(data.add(name, rows)).encode(x=x, y=y, tooltip=tips)
    layers = [base.mark_rect(stroke=None).encode(color=colour(1.0, "place in its row, 1: best", Support.UNSIGNED))]
    for style, test in ((theme.NAME, "!datum.strong"), (theme.INVERSE, "datum.strong")):
        layers.append(base.mark_text(style=style).encode(text="text:N").transform_filter(test))
    view = alt.layer(*layers).properties(height=21 * len(found.columns))
    said = " ".join(found.sentences)
    told = f"judged on {found.task['description']}"
    return Part("Rankings of edges side by side", view, data, f"Table of figures. {said}", told)


def _places(found: Scoreboard, column: str) -> list[float]:
    """From 0, the worst, to 1, the best; 0 for what is missing or alone, and in columns without a better."""
    table = found.table()[column].to_numpy(dtype=float)
    known = ~np.isnan(table)
    places = np.zeros(len(table))
    if column not in NEITHER and known.sum() > 1:
        better = -table if column in SMALLER else table
        places[known] = (rankdata(better[known]) - 1) / (known.sum() - 1)
    return list(places.tolist())


def price_part(found: Scoreboard, name: str) -> Part | None:
    """Bounded area against the price of the scores, a dot a ranking; None where fewer than two have both."""
    rows = list[Row]()
    for ranking in found.rankings:
        price, bounded = (found.cells[ranking].get(column, Cell()) for column in ("price", "bounded"))
        if price.value is not None and bounded.value is not None:
            error = bounded.stderr or 0.0
            rows.append({
                "ranking": ranking, "price": price.value, "bounded": number(bounded.value),
                "low": number(bounded.value - error), "high": number(bounded.value + error),
            })  # fmt: skip
    if len(rows) < 2:
        return None
    data, prices = Datasets(inline=True), [row["price"] for row in rows]
    scale = alt.Scale(type="log", domain=[min(prices) / 1.5, 2 * max(prices)], nice=False)
    if not min(prices):  # a random ranking costs nothing
        scale = alt.Scale(type="symlog", constant=max(1.0, max(prices) / 100))
    x = alt.X("price:Q", title="price of the scores, token-layers", scale=scale, axis=alt.Axis(grid=False, tickCount=5))
    ends = [min(0.0, *(row["low"] for row in rows)), max(1.0, *(row["high"] for row in rows))]
    y = alt.Y("bounded:Q", title="bounded", scale=alt.Scale(domain=ends, nice=False))
    tips = [alt.Tooltip("ranking:N"), alt.Tooltip("price:Q", format=",.0f"), alt.Tooltip("bounded:Q", format=".3f")]
    base = alt.Chart(data.add(name, rows)).encode(x=x, y=y, tooltip=tips)
    layers = [
        base.mark_rule().encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=60),
        base.mark_text(style=theme.NAME, align="left", dx=8).encode(text="ranking:N"),
    ]
    said = "; ".join(f"{row['ranking']} {row['bounded']:.3f}" for row in rows)
    return Part("", alt.layer(*layers).properties(height=260), data, f"Scatter of bounded against price: {said}.")
