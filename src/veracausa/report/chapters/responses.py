"""Curves M(α): a unit's own path and its site's joint path, with slope, secant, peaks and troughs."""

from __future__ import annotations

import altair as alt
import numpy as np

from veracausa.causes.curves.responses import FOLLOWS, Response, Responses
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.maps import SIGNED, zero_line
from veracausa.report.tables import Column, Table
from veracausa.statistics.ratios import pairs_in_words
from veracausa.words import plain, signed

#: Units that are drawn.
SHOWN = 12
OWN, SITE = "the unit alone", "its whole site"
#: A legend whose symbols are not as pale as the bands.
SOLID = alt.Legend(symbolOpacity=1, symbolType="square")


def figures(found: Responses, name: str) -> list[Figure]:
    """One chart per unit."""
    shown = list(found.values())[:SHOWN]
    turning = sum(bool(one.turns) for one in shown)
    farthest = max(shown, key=lambda one: abs(one.secant.value - one.slope.value))
    span = f"α = {plain(found.alphas.min(), 1)} and {plain(found.alphas.max(), 1)}"
    sentence = (
        "Solid lines: the metric as a unit, or all units of its layer, go from their own values (α = 0) through their "
        f"replacements (α = 1), bands ± 1 standard error ({pairs_in_words(len(found.clean))}). Dashed: the unit's "
        "slope at 0, which is AtP; dotted: the secant to the exact effect at α = 1 (square). "
        f"{turning} of {len(shown)} turn between {span}. Slope and effect are farthest apart for {farthest.name}: "
        f"{farthest.slope} and {farthest.secant}."
    )
    parts = tuple(_part(found, one, name) for one in shown)
    return [Figure(name, "How the metric responds as units move", parts, sentence, columns=3)]


def tables(found: Responses, name: str) -> list[Table]:
    """Slopes, effects and turns; all points, for the CSV."""
    return [_summary(found, name), _points(found, f"{name}-points")]


def _part(found: Responses, one: Response, name: str) -> Part:
    data, key = Datasets(), f"{name}-{one.name}"
    curves = {OWN: one} | ({SITE: site} if (site := found.site(one.name)) is not None else {})
    rows: list[Row] = []
    for path, curve in curves.items():
        for alpha, value, error in zip(curve.alphas, curve.values, np.nan_to_num(curve.errors), strict=True):
            row: Row = {"path": path, "alpha": number(alpha), "effect": number(value)}
            rows.append(row | {"low": number(value - error), "high": number(value + error)})
    low, high = float(one.alphas.min()), float(one.alphas.max())
    tops = [row[end] for row in rows for end in ("low", "high")]
    room = 0.08 * (max(tops) - min(tops)) or 0.1
    x = alt.X("alpha:Q", title="α (0 = as it is, 1 = replaced)", axis=alt.Axis(grid=False, tickCount=6),
              scale=alt.Scale(domain=[low, high], nice=False))  # fmt: skip
    y = alt.Y("effect:Q", title="change of the metric, share of the gap", axis=alt.Axis(tickCount=5, labelExpr=SIGNED),
              scale=alt.Scale(domain=[min(tops) - room, max(tops) + room], nice=False))  # fmt: skip
    color = alt.Color("path:N", scale=alt.Scale(domain=[OWN, SITE]), title=None, legend=SOLID)
    tips = [
        alt.Tooltip("path:N"),
        alt.Tooltip("alpha:Q", title="α", format=".2f"),
        alt.Tooltip("effect:Q", format="+.4f"),
    ]
    base = alt.Chart(data.add(key, rows))
    posts = alt.Chart(alt.InlineData(values=[{"a": 0}, {"a": 1}])).mark_rule(style=theme.GUIDE).encode(x="a:Q")
    slope_rows = [{"alpha": a, "effect": one.slope.value * a} for a in (low, high)]
    slope = alt.Chart(data.add(f"{key}-slope", slope_rows)).mark_line(style=theme.DIAGONAL, strokeWidth=1.5, clip=True)
    ends = [{"alpha": a, "effect": one.secant.value * a} for a in (0, 1)]
    secant = alt.Chart(data.add(f"{key}-secant", ends)).mark_line(style=theme.GUIDE, strokeDash=[1, 3], strokeWidth=1.5)
    layers = [
        posts,
        zero_line(x=False),
        slope.encode(x=x, y=y),
        secant.encode(x=x, y=y),
        base.mark_area(opacity=0.16, clip=True).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        base.mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    for turn in one.turns:
        what, up = ("peak", True) if turn.peak else ("trough", False)
        mark = {"alpha": number(turn.alpha), "effect": number(turn.value), "text": f"{what} {signed(turn.value, 2)}"}
        place = alt.Chart(data.add(f"{key}-{what}-{turn.alpha:.2f}", [mark]))
        dot = place.mark_point(style=theme.EXACT, shape="triangle-up" if up else "triangle-down", size=45, filled=True)
        text = place.mark_text(style=theme.NAME, dy=-10 if up else 12)
        layers += [dot.encode(x="alpha:Q", y="effect:Q"), text.encode(x="alpha:Q", y="effect:Q", text="text:N")]
    at_one = [{"alpha": 1, "effect": number(one.secant.value)}]
    square = alt.Chart(data.add(f"{key}-exact", at_one)).mark_point(
        style=theme.EXACT, shape="square", size=45, filled=True
    )
    layers.append(square.encode(x="alpha:Q", y="effect:Q"))
    where = "follows its slope" if one.leaves is None else f"leaves its slope at α = {one.leaves:.2f}"
    return Part(one.name, alt.layer(*layers).properties(height=210), data, one.sentence, where)


def _summary(found: Responses, name: str) -> Table:
    rows: list[Row] = [dict(row) for row in found.table().to_dict("records")]
    site = any("site at 1" in row for row in rows)
    columns = [
        Column("name", "unit"),
        Column("slope", "slope at 0 (AtP)", "signed"),
        Column("slope stderr", "± SE", "plain"),
        Column("at 1", "at 1 (exact)", "signed"),
        Column("at 1 stderr", "± SE", "plain"),
        Column(
            "leaves", "leaves slope at α", "plain", 2, help=f"first α in [0, 1] farther than {FOLLOWS:.0%} of the gap"
        ),
        Column("peaks", "peaks"),
        Column("troughs", "troughs"),
        *(
            [Column("site at 1", "whole site at 1", "signed"), Column("site at 1 stderr", "± SE", "plain")]
            if site
            else []
        ),
        Column("n", "n", "whole"),
    ]
    return Table(name, "Slopes, effects and turns", tuple(columns), tuple(rows), "Shares of the gap.")


def _points(found: Responses, name: str) -> Table:
    rows: list[Row] = []
    for unit, one in found.items():
        curves = {"unit": one} | ({"site": site} if (site := found.site(unit)) is not None else {})
        for path, curve in curves.items():
            for alpha, value, error in zip(curve.alphas, curve.values, curve.errors, strict=True):
                row: Row = {"unit": unit, "path": path, "alpha": float(alpha), "effect": float(value)}
                rows.append(row | {"stderr": float(error), "n": one.n})
    columns = (
        Column("unit", "unit"), Column("path", "what moves"), Column("alpha", "α", "plain", 2),
        Column("effect", "effect", "signed"), Column("stderr", "± SE", "plain"), Column("n", "n", "whole"),
    )  # fmt: skip
    note = "Shares of the gap. unit: it moves alone; site: all units of its layer move together."
    return Table(name, "All points of the curves", columns, tuple(rows), note, shown=0)
