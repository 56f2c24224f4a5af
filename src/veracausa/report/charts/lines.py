"""Jaccard@k, and cost against truth."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import View
from veracausa.report.charts.labels import named_points, place_labels
from veracausa.scores.agreement import Agreement


def ladder(count: int, steps: int = 40) -> list[int]:
    """Values of k from 1 to count, even on a log axis."""
    return sorted({round(k) for k in np.geomspace(1, count, steps).tolist()})


def jaccard_view(data: Datasets, agreements: Sequence[Agreement], name: str) -> View:
    """Overlap of the k strongest units by method and by exact effect, for every k, on a log axis."""
    labels = [agreement.method for agreement in agreements]
    rows: list[Row] = []
    for agreement in agreements:
        overlaps = agreement.jaccard(ladder(len(agreement.names)))
        assert isinstance(overlaps, dict)
        rows += [{"method": agreement.method, "k": k, "jaccard": number(value)} for k, value in overlaps.items()]
    most = max(len(agreement.names) for agreement in agreements)
    ticks = [m * 10**e for e in range(8) for m in (1, 2, 5) if m * 10**e <= most]
    scale = alt.Scale(domain=labels)
    color = alt.Color("method:N", scale=scale, title=None)
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X(
            "k:Q", title="k strongest units",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(grid=False, format="~s", values=ticks),
        ),
        y=alt.Y("jaccard:Q", title="Jaccard@k", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
        color=color,
    )  # fmt: skip
    line = base.mark_line(strokeWidth=2, interpolate="linear")
    dots = base.mark_point(filled=True, size=26).encode(
        shape=alt.Shape("method:N", scale=scale, title=None),
        tooltip=[alt.Tooltip("method:N"), alt.Tooltip("k:Q"), alt.Tooltip("jaccard:Q", title="Jaccard", format=".3f")],
    )
    return alt.layer(line, dots).properties(height=230)


def cost_view(data: Datasets, rows: Sequence[Row], methods: Sequence[str], name: str, lowest: float) -> View:
    """Agreement r against cost in token-layers (log axis); `rows`: method, cost, seconds, r. Exact effects: r = 1."""
    scale = alt.Scale(domain=list(methods))
    shown = alt.Color("method:N", scale=scale, legend=None)
    form = alt.Shape("method:N", scale=scale, legend=None)
    costs = [row["cost"] for row in rows]
    ends = [min(costs) / 3, max(costs) * 3]
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X(
            "cost:Q", title="cost, token-layers",
            scale=alt.Scale(type="log", domain=ends, nice=False), axis=alt.Axis(grid=False, format="~s", tickCount=4),
        ),
        y=alt.Y(
            "r:Q", title="r with exact effects",
            scale=alt.Scale(domain=[lowest, 1.08], nice=False), axis=alt.Axis(tickCount=5),
        ),
    )  # fmt: skip
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("cost:Q", title="token-layers", format=",d"),
        alt.Tooltip("seconds:Q", format=",.1f"),
        alt.Tooltip("r:Q", format=".4f"),
    ]
    layers: list[alt.Chart] = []
    estimates = base.transform_filter("datum.method != 'exact'")
    truth = base.transform_filter("datum.method == 'exact'")
    layers.append(estimates.mark_point(filled=True, size=90).encode(color=shown, shape=form, tooltip=tips))
    layers.append(truth.mark_point(style=theme.EXACT, filled=True, size=90, shape="square").encode(tooltip=tips))
    low, high = np.log10(ends)
    across, up = np.log10(costs), np.array([row["r"] if row["r"] is not None else lowest for row in rows])
    places = place_labels([row["method"] for row in rows], across, up, (low, high), (lowest, 1.08))
    labels = [{**row, "dx": dx, "dy": dy} for row, (dx, dy) in zip(rows, places, strict=True)]
    layers.append(named_points(data, f"{name}-labels", labels).encode(x="cost:Q", y="r:Q", text="method:N"))
    return alt.layer(*layers).properties(height=210)
