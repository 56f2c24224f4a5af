"""Where in the model: layer × head maps, bars per layer, layer × position maps, rankings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, identifier, unit_rows
from veracausa.report.charts.figures import View
from veracausa.report.charts.theme import Support
from veracausa.units.at_spans import SpanUnits
from veracausa.units.kinds import indexed, singular
from veracausa.units.table import Units

#: Axis labels with a sign, except at zero (a Vega expression).
SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+.3~')"

NAMES = alt.Axis(domain=False, ticks=False, labelLimit=140)

#: Units in a ranking.
STRONGEST = 30


def shape(units: Units) -> str:
    """How units are best shown: "map" (layer × head), "bars", "positions" or "spans" (layer × these) or "ranking"."""
    layers, indices = len(set(units.layer.tolist())), len(set(units.index.tolist()))
    positions = len(units.named) if isinstance(units, SpanUnits) else len(set(units.position.tolist()))
    if units.kind in ("groups", "paths"):
        return "ranking"
    if not indexed(units.kind):
        if not units.positional:
            return "bars"
        full = len(units) == layers * positions
        return "ranking" if not full else "spans" if isinstance(units, SpanUnits) else "positions"
    full = not units.positional and len(units) == layers * indices
    return "map" if units.kind != "neurons" and full and layers > 1 else "ranking"


def limit_of(values: np.ndarray) -> float:
    """Largest magnitude, for a symmetric scale; 1 where all is zero."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def colour(limit: float, title: str, support: Support | None = None) -> alt.Color:
    """A colour scale, beyond whose ends the end colours stay, with what it says in its legend.

    ±limit, zero neutral, blue where the sign `support`s the behaviour; 0 … limit for magnitudes. None: agreement.
    """
    unsigned = support is Support.UNSIGNED
    words = [title, *([support.value] if support else [])]
    ends = [0.0 if unsigned else -limit, limit]
    roles = {None: "heatmap", Support.DIFFERENCE: "heatmap", Support.UNSIGNED: "ramp"}
    scale = alt.Scale(
        domain=ends, clamp=True, range=alt.RangeEnum(roles.get(support, "diverging")), interpolate="rgb",
        reverse=support is Support.POSITIVE,
    )  # fmt: skip
    bar = alt.Legend(
        title=words, titleLimit=0, orient="bottom", gradientLength=160, values=sorted({*ends, 0.0}), labelExpr=SIGNED
    )
    return alt.Color("value:Q", scale=scale, legend=bar)


def place_view(
    data: Datasets,
    units: Units,
    columns: Mapping[str, np.ndarray],
    drawn: str,
    name: str,
    title: str,
    limit: float,
    support: Support,
    *,
    stderr: np.ndarray | None = None,
    domain: tuple[float, float] | None = None,
    tokens: Sequence[str] = (),
) -> View:
    """One column of numbers of all units, in the shape that suits them; the others are in the tooltips.

    Early layers at the bottom. `limit`: end of the colour scale; `support`: what its signs mean. `stderr`: whiskers of
    bars. `domain`: x axis of bars, to share among charts. `tokens`: texts of the positions.
    """
    form = shape(units)
    values = np.abs(columns[drawn]) if support is Support.UNSIGNED else columns[drawn]
    chosen = _strongest(columns[drawn]) if form == "ranking" else None
    fields = {f"by_{identifier(label).replace('-', '_')}": values for label, values in columns.items()}
    spread = {"stderr": stderr} if stderr is not None else {}
    rows = unit_rows(units, {"value": values, **spread, **fields}, chosen)
    base = alt.Chart(data.add(name, rows))
    tips = [alt.Tooltip("name:N", title=singular(units.kind)), alt.Tooltip("layer:O")]
    tips += [alt.Tooltip(f"{f}:Q", title=label, format="+.5f") for f, label in zip(fields, columns, strict=True)]
    if form in ("map", "positions", "spans"):
        across, label = {"map": ("index", singular(units.kind)), "spans": ("span", "span")}.get(
            form, ("position", "position")
        )
        order = list(units.named) if isinstance(units, SpanUnits) else alt.Undefined
        layers_count = len(set(units.layer.tolist()))
        axis = alt.Axis(labelAngle=0, domain=False, ticks=False)
        if tokens and form == "positions":
            texts = json.dumps([f"{at} {text.strip()}" for at, text in enumerate(tokens)])
            axis = alt.Axis(labelAngle=-50, domain=False, ticks=False, labelExpr=f"{texts}[datum.value] || datum.value")
        return (
            base.mark_rect(stroke=None)
            .encode(
                x=alt.X(f"{across}:O", title=label, sort=order, axis=axis),
                y=_layers(),
                color=colour(limit, title, support),
                tooltip=tips,
            )
            .properties(height=layers_count * (7 if layers_count > 40 else 12))
        )
    y = _layers() if form == "bars" else alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=NAMES)
    scale = alt.Scale(domain=list(domain)) if domain else alt.Undefined
    x = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    layers: list[alt.Chart] = []
    for style, test in zip(support.styles, ("< 0", ">= 0"), strict=True):
        bars = base.mark_bar(cornerRadius=1, style=style).transform_filter(f"datum.value {test}")
        layers.append(bars.encode(x=x, y=y, tooltip=tips))
    layers.append(zero_line(x=True))
    if stderr is not None and np.isfinite(stderr).any():
        whisker = base.mark_rule(style=theme.GUIDE).transform_calculate(
            low="datum.value - datum.stderr", high="datum.value + datum.stderr"
        )
        layers.append(whisker.encode(x="low:Q", x2="high:Q", y=y))
    return alt.layer(*layers).properties(height=max(40, len(rows) * (12 if form == "bars" else 16)))


def ranking_view(
    data: Datasets, units: Units, exact: np.ndarray, estimates: Mapping[str, np.ndarray], name: str, title: str
) -> View:
    """The strongest units by exact effect: bars for the exact effects, a point for every estimate."""
    chosen = _strongest(exact)
    names = units.names
    rows: list[Row] = unit_rows(units, {"exact": exact}, chosen)
    points = [
        {"name": names[i], "method": label, "estimate": float(values[i])}
        for label, values in estimates.items()
        for i in chosen
        if np.isfinite(values[i])
    ]
    order = [names[i] for i in chosen]
    y = alt.Y("name:N", title=None, sort=order, axis=NAMES)
    scale = alt.Scale(domain=list(estimates))
    bars = (
        alt.Chart(data.add(f"{name}-exact", rows))
        .mark_bar(style=theme.EXACT, opacity=0.22, cornerRadius=1)
        .encode(
            x=alt.X("exact:Q", title=title, axis=alt.Axis(tickCount=5, labelExpr=SIGNED)),
            y=y,
            tooltip=[alt.Tooltip("name:N", title="unit"), alt.Tooltip("exact:Q", format="+.5f")],
        )
    )
    dots = (
        alt.Chart(data.add(f"{name}-estimates", points))
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(
            x="estimate:Q",
            y=y,
            color=alt.Color("method:N", scale=scale, title=None),
            shape=alt.Shape("method:N", scale=scale, title=None),
            tooltip=[
                alt.Tooltip("name:N", title="unit"),
                alt.Tooltip("method:N"),
                alt.Tooltip("estimate:Q", format="+.5f"),
            ],
        )
    )
    return alt.layer(bars, zero_line(x=True), dots).properties(height=max(40, 17 * len(rows)))


def zero_line(*, x: bool) -> alt.Chart:
    """A thin line at zero of the x axis, or of the y axis."""
    rule = alt.Chart(alt.InlineData(values=[{}])).mark_rule(style=theme.ZERO)
    return rule.encode(x=alt.datum(0)) if x else rule.encode(y=alt.datum(0))


def _layers() -> alt.Y:
    """The layers, early ones at the bottom: the residual stream flows upwards, as in drawings of circuits."""
    return alt.Y("layer:O", title="layer", sort="descending", axis=alt.Axis(domain=False, ticks=False))


def _strongest(values: np.ndarray) -> list[int]:
    order = np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")
    return order[:STRONGEST].tolist()
