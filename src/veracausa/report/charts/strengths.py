"""Small charts of lists of figures: bars of the first ones, lines over sizes, strips of dots, one against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import View
from veracausa.report.charts.maps import NAMES, SIGNED, STRONGEST
from veracausa.report.charts.scatters import padded

#: Colour of a line or a mark by the kind of its row.
_KIND = "kind:N"


def bars_view(
    data: Datasets,
    name: str,
    names: Sequence[str],
    values: np.ndarray,
    title: str,
    *,
    stderr: np.ndarray | None = None,
    domain: tuple[float, float] | None = None,
) -> View:
    """Bars of figures in the order given, the first `STRONGEST` of them, whiskers of one standard error."""
    spread = np.full(len(values), np.nan) if stderr is None else stderr
    rows: list[Row] = [
        {
            "name": names[i], "value": number(values[i]), "stderr": number(spread[i]),
            "low": number(values[i] - spread[i]), "high": number(values[i] + spread[i]),
        }
        for i in range(min(STRONGEST, len(names)))
    ]  # fmt: skip
    base = alt.Chart(data.add(name, rows))
    scale = alt.Scale(domain=list(domain)) if domain else alt.Undefined
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=NAMES)
    shares = domain == (0, 1)  # which have no sign
    axis = alt.Axis(tickCount=5, format="%") if shares else alt.Axis(tickCount=5, labelExpr=SIGNED)
    x = alt.X("value:Q", title=title, scale=scale, axis=axis)
    tips = [alt.Tooltip("name:N"), alt.Tooltip("value:Q", title=title, format="+.4f"),
            alt.Tooltip("stderr:Q", title="± SE", format=".4f")]  # fmt: skip
    layers = [base.mark_bar(cornerRadius=1, style=theme.EXACT, opacity=0.6).encode(x=x, y=y, tooltip=tips)]
    if np.isfinite(spread).any():
        layers.append(base.mark_rule(style=theme.GUIDE).encode(x="low:Q", x2="high:Q", y=y))
    return alt.layer(*layers).properties(height=max(40, 16 * len(rows)))


def overlap_view(data: Datasets, name: str, curves: Mapping[str, Mapping[int, float]], bar: float) -> View:
    """Mean Jaccard (y) of sets of so many examples (x), a line for each way to draw them, and the bar."""
    rows: list[Row] = [
        {"kind": kind, "examples": size, "jaccard": number(value)}
        for kind, curve in curves.items()
        for size, value in curve.items()
    ]
    color = alt.Color(_KIND, scale=alt.Scale(domain=list(curves)), legend=alt.Legend(title=None, orient="top"))
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X("examples:Q", title="examples", axis=alt.Axis(grid=False, tickMinStep=1)),
        y=alt.Y("jaccard:Q", title="mean Jaccard", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
        color=color,
    )
    tips = [alt.Tooltip(_KIND), alt.Tooltip("examples:Q"), alt.Tooltip("jaccard:Q", format=".3f")]
    level = alt.Chart(data.add(f"{name}-bar", [{"level": bar}])).mark_rule(style=theme.GUIDE, strokeDash=[5, 3])
    dots = base.mark_point(filled=True, size=42, opacity=1).encode(tooltip=tips)
    return alt.layer(level.encode(y="level:Q"), base.mark_line(strokeWidth=2), dots).properties(height=240)


def strips_view(data: Datasets, name: str, groups: Mapping[str, np.ndarray], title: str) -> View:
    """Every number of several groups as a dot, one row for each group, with its median as a tick."""
    rows: list[Row] = []
    for kind, values in groups.items():
        # spread out by rank, the same on every drawing, so that equal values do not hide each other
        spread = np.random.default_rng(0).permutation(len(values)) / max(1, len(values) - 1) - 0.5
        rows += [{"kind": kind, "value": number(v), "spread": number(s)} for v, s in zip(values, spread, strict=True)]
    middles: list[Row] = [{"kind": kind, "value": number(np.median(values))} for kind, values in groups.items()]
    y = alt.Y(_KIND, sort=list(groups), title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8))
    x = alt.X("value:Q", title=title, axis=alt.Axis(tickCount=6, labelExpr=SIGNED))
    dots = alt.Chart(data.add(name, rows)).mark_point(filled=True, size=36, opacity=0.6)
    dots = dots.encode(
        x=x, y=y, yOffset=alt.YOffset("spread:Q", scale=alt.Scale(domain=[-0.8, 0.8])),
        color=alt.Color(_KIND, scale=alt.Scale(domain=list(groups)), legend=None),
        tooltip=[alt.Tooltip(_KIND), alt.Tooltip("value:Q", title=title, format="+.4f")],
    )  # fmt: skip
    ticks = alt.Chart(data.add(f"{name}-middles", middles)).mark_tick(style=theme.EXACT, thickness=3, size=44)
    return alt.layer(dots, ticks.encode(x="value:Q", y=y)).properties(height=75 * len(groups))


def diagonal_view(
    data: Datasets,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    kinds: Sequence[str],
    titles: tuple[str, str],
    names: Sequence[str],
) -> View:
    """One figure (y) against another in the same units (x), coloured by kind (of one kind there is no legend), with the
    line on which both are equal."""
    rows: list[Row] = [
        {"name": names[i], "kind": kinds[i], "x": number(x[i]), "y": number(y[i])} for i in range(len(names))
    ]
    low, high = padded([x, y])
    scale, axis = alt.Scale(domain=[low, high], nice=False, zero=False), alt.Axis(tickCount=6, grid=False)
    legend = alt.Legend(title=None, orient="top") if len({*kinds}) > 1 else None
    line = alt.Chart(alt.InlineData(values=[{}])).mark_rule(style=theme.DIAGONAL)
    line = line.encode(x=alt.datum(low), y=alt.datum(low), x2=alt.datum(high), y2=alt.datum(high))
    dots = alt.Chart(data.add(name, rows)).mark_point(filled=True, size=46, opacity=0.8)
    dots = dots.encode(
        x=alt.X("x:Q", title=titles[0], scale=scale, axis=axis),
        y=alt.Y("y:Q", title=titles[1], scale=scale, axis=axis),
        color=alt.Color(_KIND, scale=alt.Scale(domain=list(dict.fromkeys(kinds))), legend=legend),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip(_KIND), alt.Tooltip("x:Q", format="+.4f"),
                 alt.Tooltip("y:Q", format="+.4f")],
    )  # fmt: skip
    return alt.layer(line, dots).properties(height=300)
