"""Cause curves drawn: which share of the answers has flipped, against how many parts are patched."""

from __future__ import annotations

import altair as alt
import numpy as np

from veracausa.circuits.quality.cause_curve import CauseCurve
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part


def cause_curve_part(found: CauseCurve, name: str) -> Part:
    """The share by size on a log axis, with a band of one standard error; lines at one half and at nine tenths."""
    rows, data = list[Row](), Datasets(inline=True)
    for size, value, error in zip(found.sizes, found.flipped.tolist(), found.stderr.tolist(), strict=True):
        known = float(np.nan_to_num(error))
        ends = {"low": number(max(value - known, 0.0)), "high": number(min(value + known, 1.0))}
        rows.append({"parts": size, "flipped": number(value), "stderr": number(error), **ends})
    base = alt.Chart(data.add(name, rows))
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("parts:Q", title=f"{found.parts} patched", scale=scale, axis=alt.Axis(grid=False, tickCount=5))
    y = alt.Y("flipped:Q", title="share of answers flipped", scale=alt.Scale(domain=[0, 1]))
    tips = [
        alt.Tooltip("parts:Q", format=","), alt.Tooltip("flipped:Q", format=".3f"),
        alt.Tooltip("stderr:Q", title="± standard error", format=".3f"),
    ]  # fmt: skip
    wanted = alt.Chart(alt.InlineData(values=[{"at": 0.5}, {"at": 0.9}]))
    layers = [
        wanted.mark_rule(style=theme.GUIDE).encode(y="at:Q"),
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(point=True).encode(x=x, y=y, tooltip=tips),
    ]
    view = alt.layer(*layers).properties(height=210)
    said = found.sentences
    return Part(f"What {found.method} flips", view, data, f"Line chart. {' '.join(said)}", "lines at one half and 90%")
