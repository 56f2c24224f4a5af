"""A circuit as a picture: nodes on a grid, edges as curves whose width is |importance| and whose colour is its sign:
blue supports the behaviour, orange works against it, as everywhere (`report.charts.theme`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import altair as alt
import numpy as np

from veracausa.circuits.nodes import SHARED
from veracausa.report.charts import theme
from veracausa.report.charts.circuit_layout import Layout
from veracausa.report.charts.data import Datasets, Row
from veracausa.report.charts.figures import View
from veracausa.report.readable import readable

#: Edges that are drawn unless more are asked for: beyond, a picture shows a thicket.
MOST_EDGES = 200
#: Points of a curve.
_POINTS = 14
#: Pixels of the weakest conceivable and of the strongest edge.
_WIDTHS = [0.4, 7]
_LEGEND: dict[str, Any] = {"orient": "top", "symbolType": "stroke"}
#: Labels of an axis that are all shown; of more, those that do not touch (slanted ones touch early in Vega's eyes).
_LABELS = 45
#: What an edge's colour says, in the order of the theme's range "ordinal".
AGAINST, NEITHER, SUPPORTS = "− works against the behaviour", "no sign known", "+ supports the behaviour"
SIGNS = (AGAINST, NEITHER, SUPPORTS)


def drawing_view(data: Datasets, layout: Layout, name: str, *, signed: bool = True) -> View:
    """The picture of a layout. Pointing at a node singles out its edges; tooltips name nodes and edges.
    Nodes without a drawn edge are faint.

    `signed`: False: importances are magnitudes, drawn in the neutral colour.
    """
    known = any(edge["importance"] is not None for edge in layout.edges)
    edges = [{**edge, "sign": _sign(edge["importance"]) if signed else NEITHER} for edge in layout.edges]
    own = hashlib.sha256(f"{name} {edges}".encode()).hexdigest()[:8]  # two pictures may stand in one chart
    over = alt.selection_point(name=f"over_{own}", fields=["node"], on="pointerover", clear="pointerout")
    near = f"!{over.name}.node || indexof(datum.near, '|' + {over.name}.node[0] + '|') >= 0"
    return alt.layer(
        _places(data, layout, f"{name}-places"),
        _joins(data, layout, f"{name}-joins"),
        _edges(data, edges, f"{name}-edges", known, near),
        *_nodes(data, layout, f"{name}-nodes", known, over),
    ).properties(width=drawing_width(layout), height=_height(layout))


def drawing_width(layout: Layout) -> int:
    """Pixels where the place does not say: columns take what they need, those of tokens more."""
    least, wanted, most = (420, 120, 1200) if layout.positional else (620, 28, 1000)
    return round(float(np.clip(wanted * (layout.across[1] - layout.across[0]), least, most)))


def _sign(importance: float | None) -> str:
    if importance is None:
        return NEITHER
    return SUPPORTS if importance >= 0 else AGAINST


def _height(layout: Layout) -> float:
    return round((layout.up[1] - layout.up[0]) * _row_height(layout))


def _row_height(layout: Layout) -> float:
    """Pixels: up to 26 where there are few layers, 10 and more where there are many."""
    return float(np.clip(640 / (layout.up[1] - layout.up[0]), 10, 26))


def _axis_x(layout: Layout) -> alt.X:
    wide = layout.positional and max(map(len, layout.columns.values()), default=0) > 2
    axis = _axis(layout.columns, "position" if layout.positional else "head", angle=-45 if wide else 0)
    return alt.X("x:Q", axis=axis, scale=alt.Scale(domain=list(layout.across), nice=False, zero=False))


def _axis_y(layout: Layout) -> alt.Y:
    """Every layer is labelled where rows are high enough, else every second, fifth, …; both ends always are."""
    step = next(step for step in (1, 2, 5, 10, 20) if step * _row_height(layout) >= 13 or step == 20)
    texts = {y: text for y, text in layout.rows.items() if not text.isdigit() or int(text) % step == 0}
    scale = alt.Scale(domain=list(layout.up), nice=False, zero=False)
    return alt.Y("y:Q", axis=_axis(texts, "layer"), scale=scale)


def _axis(texts: dict[float, str], title: str, angle: float = 0) -> alt.Axis:
    """An axis with these labels at these values; Vega thins them out itself unless it may have as many."""
    return alt.Axis(
        values=sorted(texts), tickCount=2 * len(texts), labelExpr=_labels(texts), labelAngle=angle, labelPadding=7,
        labelOverlap="greedy" if len(texts) > _LABELS else False, grid=False, domain=False, ticks=False, title=title,
    )  # fmt: skip


def _labels(texts: dict[float, str]) -> str:
    """A Vega expression from an axis value to its text."""
    keys = {f"{value:.10g}": readable(text) for value, text in texts.items()}
    return f"{json.dumps(keys)}[toString(datum.value)]"  # JSON is an object literal there


def _places(data: Datasets, layout: Layout, name: str) -> alt.Chart:
    """The empty grid, and both axes."""
    dots = alt.Chart(data.add(name, layout.places)).mark_point(style=theme.GUIDE, shape="circle", filled=True, size=5)
    return dots.encode(x=_axis_x(layout), y=_axis_y(layout), opacity=alt.value(0.35))


def _joins(data: Datasets, layout: Layout, name: str) -> alt.Chart:
    joins = alt.Chart(data.add(name, layout.joins)).mark_rule(style=theme.GUIDE, opacity=0.45)
    return joins.encode(x="x1:Q", y="y1:Q", x2="x2:Q", y2="y2:Q")


def _edges(data: Datasets, rows: list[Row], name: str, known: bool, near: str) -> alt.Chart:
    """One line per edge along a cubic curve that leaves and arrives upright; faint where `near` is false."""
    present = [sign for sign in reversed(SIGNS) if any(row["sign"] == sign for row in rows)]
    color = alt.Color(
        "sign:N",
        scale=alt.Scale(domain=list(SIGNS), range=alt.RangeEnum("ordinal")),
        legend=alt.Legend(**_LEGEND, values=present, title=None, labelLimit=260) if known else None,
    )
    tips = [alt.Tooltip("edge:N"), alt.Tooltip("reads:N", title="into")]
    width: Any = alt.value(1.2)
    if known:
        tips.append(alt.Tooltip("importance:Q", format="+.4~"))
        top = max((row["strength"] for row in rows), default=0.0) or 1.0
        scale = alt.Scale(domain=[0, top], range=_WIDTHS)
        legend = alt.Legend(
            **_LEGEND, title="|importance|", titleOrient="left", values=_round_values(top), format=".2~"
        )
        width = alt.StrokeWidth("strength:Q", scale=scale, legend=legend)
    lines = (
        alt.Chart(data.add(name, rows))
        .transform_calculate(t=f"sequence(0, {_POINTS + 1})")
        .transform_flatten(["t"])
        .transform_calculate(s=f"datum.t / {_POINTS}")
        .transform_calculate(
            x="datum.x1 + (datum.x2 - datum.x1) * (3 - 2 * datum.s) * datum.s * datum.s"
            " + 3 * datum.swing * datum.s * (1 - datum.s)",
            y="datum.y1 + (datum.y2 - datum.y1) * datum.s",
        )
    )
    return lines.mark_line(strokeCap="round").encode(
        x="x:Q",
        y="y:Q",
        order="t:Q",
        detail="edge:N",
        color=color,
        strokeWidth=width,
        opacity=alt.condition(near, alt.value(0.72), alt.value(0.06)),
        tooltip=tips,
    )


def _round_values(top: float) -> list[float]:
    """Three round numbers up to the largest importance, for the legend."""
    return [float(f"{value:.1g}") for value in (top / 10, top / 3, top * 0.95)]


def _nodes(data: Datasets, layout: Layout, name: str, known: bool, over: alt.Parameter) -> list[alt.Chart]:
    tips = [alt.Tooltip("node:N"), alt.Tooltip("into:Q", title="edges in"), alt.Tooltip("out:Q", title="edges out")]
    if any(row["group"] for row in layout.nodes):
        tips.insert(1, alt.Tooltip("group:N"))
    if known:
        tips += [alt.Tooltip(f"{way}_importance:Q", title=f"importance {word}", format="+.4~")
                 for way, word in (("into", "in"), ("out", "out"))]  # fmt: skip
    shapes = {"head": "circle", "mlp": "square", "kv": "diamond", "input": "square", "logits": "square"}
    if any(row["kind"].startswith("mixer") for row in layout.nodes):
        shapes |= {"mixer": "triangle-up", "mixer head": "circle"}
    shared = [kind for kind in SHARED.values() if any(row["kind"] == kind for row in layout.nodes)]
    shapes |= dict.fromkeys(shared, "diamond")
    bars = not layout.positional
    marks = [row for row in layout.nodes if not (bars and row["kind"] in ("input", "logits"))]
    column = drawing_width(layout) / (layout.across[1] - layout.across[0])
    size = float(np.clip(3 * min(_row_height(layout), column), 22, 60))
    points = (
        alt.Chart(data.add(name, marks))
        .mark_point(style=theme.EXACT, filled=True)
        .encode(
            x="x:Q",
            y="y:Q",
            shape=alt.Shape("kind:N", scale=alt.Scale(domain=list(shapes), range=list(shapes.values())), legend=None),
            size=alt.condition(
                " || ".join(f"datum.kind == '{kind}'" for kind in ("kv", *shared)),
                alt.value(size * 0.55),
                alt.value(size),
            ),
            opacity=alt.condition("datum.seen", alt.value(1), alt.value(0.22)),
            tooltip=tips,
        )
        .add_params(over)
    )
    if not bars:
        return [points]
    ends = [{**row, "x": layout.across[0], "x2": layout.across[1]} for row in layout.nodes if row not in marks]
    rules = alt.Chart(data.add(f"{name}-ends", ends)).mark_rule(style=theme.TRUTH, strokeWidth=3, strokeCap="round")
    return [rules.encode(x="x:Q", x2="x2:Q", y="y:Q", tooltip=tips).add_params(over), points]
