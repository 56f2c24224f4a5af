"""Steering drawn: the metric's change against the scale of the vector, a line for every unit."""

from __future__ import annotations

import altair as alt
import numpy as np

from veracausa.effects.steering_curves import Steering
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part
from veracausa.report.charts.maps import SIGNED, zero_line

#: Units that are drawn.
SHOWN = 8


def steering_part(found: Steering, name: str) -> Part:
    """Mean effects by scale with bands of one standard error; of many units those that move the metric most."""
    mean, error = found.mean().numpy(), np.nan_to_num(found.stderr().numpy())
    chosen = np.argsort(-np.nan_to_num(np.abs(mean)).max(0), kind="stable")[:SHOWN]
    names, rows, data = found.units.names, list[Row](), Datasets(inline=True)
    for u in chosen.tolist():
        for s, scale in enumerate(found.scales.tolist()):
            ends = {"low": number(mean[s, u] - error[s, u]), "high": number(mean[s, u] + error[s, u])}
            rows.append({"unit": names[u], "scale": number(scale), "effect": number(mean[s, u]), **ends})
    base = alt.Chart(data.add(name, rows))
    x = alt.X("scale:Q", title="scale of the vector", axis=alt.Axis(grid=False))
    y = alt.Y("effect:Q", title="change of the metric", axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    key = alt.Legend(title=None, symbolOpacity=1)
    color = alt.Color("unit:N", scale=alt.Scale(domain=[names[u] for u in chosen]), legend=key)
    tips = [alt.Tooltip("unit:N"), alt.Tooltip("scale:Q"), alt.Tooltip("effect:Q", format="+.4f")]
    layers = [
        zero_line(x=False),
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        base.mark_line(point=True).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    view = alt.layer(*layers).properties(height=210)
    return Part("Steering", view, data, " ".join(found.sentences), found.describe().splitlines()[0])
