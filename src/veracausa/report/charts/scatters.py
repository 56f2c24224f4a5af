"""Method against exact, and mean–difference plots: every compared unit is a point, outliers carry their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number, thin
from veracausa.report.charts.figures import View
from veracausa.report.charts.labels import named_points, place_labels
from veracausa.report.charts.maps import SIGNED, zero_line
from veracausa.scores.agreement import Agreement

#: Outliers that are named in a chart.
NAMED = 7
#: Outliers that get a ring, the farthest ones: more of them would hide everything else.
RINGED = 60
STRONGEST, RANDOM, ALL = "strongest", "drawn at random", "all"


def against_exact(
    data: Datasets,
    agreement: Agreement,
    drawn: frozenset[str],
    name: str,
    span: tuple[float, float],
    titles: tuple[str, str] | None = None,
) -> View:
    """Estimate (y) against exact effect (x) of every unit, with the diagonal.

    `drawn`: names of units that were drawn at random. `span`: range of both axes. `titles`: of both axes, where x is
    something else.
    """
    x, y = agreement.exact, agreement.estimate
    low, high = span
    points = _points(data, agreement, drawn, x, y, name, span, span)
    diagonal = (
        alt.Chart(alt.InlineData(values=[{}]))
        .mark_rule(style=theme.DIAGONAL, clip=True)
        .encode(x=alt.datum(low), y=alt.datum(low), x2=alt.datum(high), y2=alt.datum(high))
    )
    across, up = titles or ("exact", agreement.method)
    return plane(points, [zero_line(x=True), zero_line(x=False), diagonal], span, span, across, up)


def mean_difference(
    data: Datasets,
    agreement: Agreement,
    drawn: frozenset[str],
    name: str,
    across: tuple[float, float],
    up: tuple[float, float],
) -> View:
    """Estimate − exact (y) against their mean (x), with bias, bias ± 1.96 SD and the line of proportional bias."""
    middle, difference = (agreement.exact + agreement.estimate) / 2, agreement.estimate - agreement.exact
    low, high = agreement.limits
    points = _points(data, agreement, drawn, middle, difference, name, across, up, (low, high))
    guides: list[alt.Chart] = []
    marks: tuple[tuple[str, float, str, list[int], Literal["top", "bottom"]], ...] = (
        ("bias", agreement.bias, "", [1, 0], "bottom"),
        ("low", low, "−1.96 SD", [5, 3], "top"),
        ("high", high, "+1.96 SD", [5, 3], "bottom"),
    )
    for key, value, text, dash, side in marks:
        base = alt.Chart(data.add(f"{name}-{key}", [{"level": number(value), "text": text}]))
        guides.append(base.mark_rule(style=theme.GUIDE, strokeDash=dash).encode(y="level:Q"))
        away = 3 if side == "top" else -3
        label = base.mark_text(style=theme.NAME, align="right", baseline=side, dx=-2, dy=away, opacity=0.8)
        guides.append(label.encode(x=alt.value("width"), y="level:Q", text="text:N"))
    slope = agreement.proportional_bias
    if np.isfinite(slope):
        ends = [{"x": end, "y": agreement.bias + slope * (end - float(middle.mean()))} for end in across]
        line = alt.Chart(data.add(f"{name}-trend", ends))
        line = line.mark_line(style=theme.GUIDE, strokeDash=[1, 3], strokeWidth=1.5, clip=True)
        guides.append(line.encode(x="x:Q", y="y:Q"))
    return plane(points, guides, across, up, f"mean of exact and {agreement.method}", f"{agreement.method} − exact")


def padded(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """A range that holds all values with a little room, and zero."""
    joined = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = float(joined.min(initial=0.0)), float(joined.max(initial=0.0))
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _points(
    data: Datasets,
    agreement: Agreement,
    drawn: frozenset[str],
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    across: tuple[float, float],
    up: tuple[float, float],
    edges: tuple[float, ...] = (),
) -> list[alt.Chart]:
    where = {unit: i for i, unit in enumerate(agreement.names)}
    outliers = [where[unit] for unit in agreement.outliers]
    named = outliers[:NAMED]
    ringed = set(outliers[:RINGED])
    rows: list[Row] = [
        {
            "name": agreement.names[i],
            "x": number(x[i]),
            "y": number(y[i]),
            "exact": number(agreement.exact[i]),
            "estimate": number(agreement.estimate[i]),
            "group": ALL if not drawn else (RANDOM if agreement.names[i] in drawn else STRONGEST),
            "ringed": i in ringed,
        }
        for i in thin(x, y, keep=outliers[:RINGED])
    ]
    tips = [
        alt.Tooltip("name:N", title="unit"),
        alt.Tooltip("exact:Q", format="+.5f"),
        alt.Tooltip("estimate:Q", title=agreement.method, format="+.5f"),
    ]
    groups = [STRONGEST, RANDOM] if drawn else [ALL]
    legend = alt.Legend(title=None) if drawn else None
    base = alt.Chart(data.add(name, rows))
    dots = base.mark_point(filled=True, size=28, opacity=0.55).encode(
        x="x:Q",
        y="y:Q",
        color=alt.Color("group:N", scale=alt.Scale(domain=groups), legend=legend),
        shape=alt.Shape("group:N", scale=alt.Scale(domain=groups), legend=legend),
        tooltip=tips,
    )
    rings = base.mark_point(style=theme.EXACT, size=48, filled=False, strokeWidth=1.1).transform_filter("datum.ringed")
    places = place_labels([agreement.names[i] for i in named], x[named], y[named], across, up, edges)
    labels = [
        {"name": agreement.names[i], "x": number(x[i]), "y": number(y[i]), "dx": dx, "dy": dy}
        for i, (dx, dy) in zip(named, places, strict=True)
    ]
    texts = named_points(data, f"{name}-labels", labels).encode(x="x:Q", y="y:Q", text="name:N")
    return [dots, rings.encode(x="x:Q", y="y:Q", tooltip=tips), texts]


def plane(
    points: list[alt.Chart],
    guides: list[alt.Chart],
    across: tuple[float, float],
    up: tuple[float, float],
    x_title: str,
    y_title: str,
) -> View:
    """Points over guides, with linear axes of these ranges."""
    ends = [alt.Scale(domain=list(span), nice=False, zero=False) for span in (across, up)]
    axis = alt.Axis(tickCount=5, labelExpr=SIGNED, grid=False)
    frame = points[0].encode(
        x=alt.X("x:Q", title=x_title, scale=ends[0], axis=axis), y=alt.Y("y:Q", title=y_title, scale=ends[1], axis=axis)
    )
    return alt.layer(*guides, frame, *points[1:]).properties(height=280)
