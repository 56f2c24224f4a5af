"""Circuits of features drawn: faithfulness and completeness against the number of parts."""

from __future__ import annotations

import altair as alt
import numpy as np

from veracausa.circuits.quality.part_curve import PartCurve
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part
from veracausa.report.charts.maps import SIGNED, zero_line

#: Which line is which.
_LINES = {"faithfulness": "the circuit alone", "completeness": "all but the circuit"}


def part_curve_part(found: PartCurve, name: str) -> Part:
    """Both shares of the behaviour by size, with bands of one standard error; lines at all of it and at nothing."""
    table, rows, data = found.table(), list[Row](), Datasets(inline=True)
    for column, line in _LINES.items():
        for _, row in table.iterrows():
            value, error = float(row[column]), float(np.nan_to_num(row[f"{column}_stderr"]))
            ends = {"low": number(value - error), "high": number(value + error)}
            rows.append({"kind": line, "parts": int(row["parts"]), "share": number(value), **ends})
    base = alt.Chart(data.add(name, rows))
    decades = [10**i for i in range(len(str(max(found.sizes, default=1))))]
    axis = alt.Axis(grid=False, values=[0, *decades], format=",d")
    x = alt.X("parts:Q", title="parts in the circuit", scale=alt.Scale(type="symlog"), axis=axis)
    y = alt.Y("share:Q", title="share of the behaviour", axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    key = alt.Legend(title=None, orient="top", symbolOpacity=1)
    color = alt.Color("kind:N", scale=alt.Scale(domain=[*_LINES.values()]), legend=key)
    tips = [alt.Tooltip("kind:N"), alt.Tooltip("parts:Q"), alt.Tooltip("share:Q", format="+.4f")]
    layers = [
        zero_line(x=False),
        alt.Chart(alt.InlineData(values=[{}])).mark_rule(style=theme.GUIDE).encode(y=alt.datum(1)),
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        base.mark_line(point=True).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    view = alt.layer(*layers).properties(height=210)
    first = found.describe().splitlines()[0]
    return Part("Circuits of features", view, data, " ".join(found.sentences), first)
