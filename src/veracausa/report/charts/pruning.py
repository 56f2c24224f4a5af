"""Pruning drawn: which layers hold what a ranking finds, what is left of a model, and what it then does."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.pruning.measures import RANKINGS
from veracausa.pruning.part_ranking import PartRanking
from veracausa.pruning.pruned import Pruned
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.strengths import bars_view


def ranking_part(found: PartRanking, name: str) -> Part:
    """What share of the first task's sum the parts of every layer hold."""
    data, own = Datasets(inline=True), found.values[0]
    layers = np.unique(found.parts.layer)
    held = np.array([own[found.parts.layer == layer].sum() for layer in layers]) / max(own.sum(), 1e-30)
    title = f"share of the sum of {RANKINGS[found.how]}"
    view = bars_view(data, name, [f"layer {layer}" for layer in layers], held, title)
    said = " ".join(found.sentences)
    return Part(f"Where {' and '.join(found.parts.kinds).replace('_', ' ')} are worth most", view, data,
                f"Bar chart. {said}", f"{found.how} on {found.task['name']}")  # fmt: skip


def pruned_figure(found: Pruned, name: str) -> Figure:
    """The removal curves: on every task the metric by size, and on plain text KL, one line for each ranking."""
    parts = [
        _curves(found, f"{name}-{i}", one["name"], ("metric", "low", "high"), f"metric of {one['name']}")
        for i, one in enumerate(found.tasks)
    ]
    if found.text.shape[2]:
        figures = ("kl", "kl_low", "kl_high")
        parts.append(_curves(found, f"{name}-text", "plain text", figures, "KL to the full model, nats a token"))
    said = "Every cut is run: all its parts gone at once. Bands are 95% intervals; the rule is the full model."
    return Figure(name, "What is left", tuple(parts), said, least=320, width=340)


def _curves(found: Pruned, name: str, on: str, figures: tuple[str, str, str], title: str) -> Part:
    """One figure by size, ranking by ranking."""
    table = found.table()
    own = table[table["on"] == on]
    rows, data = _rows(own[own["ranking"] != "full model"].to_dict("records"), figures), Datasets(inline=True)
    full = float(own[figures[0]].iloc[0])
    base = alt.Chart(data.add(name, rows))
    x = alt.X("size:Q", title="share of the parts' parameters cut", axis=alt.Axis(grid=False, format="%", tickCount=5))
    y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=False))
    scale = alt.Scale(domain=list(found.rankings))
    color = alt.Color("ranking:N", scale=scale, legend=alt.Legend(title=None, orient="top", columns=3))
    tips = [alt.Tooltip("ranking:N"), alt.Tooltip("size:Q", format=".0%"), alt.Tooltip("value:Q", format=".4f"),
            alt.Tooltip("accuracy:Q", format=".1%")]  # fmt: skip
    layers = [
        alt.Chart(alt.InlineData(values=[{"at": full}])).mark_rule(style=theme.GUIDE).encode(y="at:Q"),
        base.mark_area(opacity=0.12).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        base.mark_line(point=True).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    view = alt.layer(*layers).properties(height=230)
    return Part(f"On {on}", view, data, f"Line chart. {' '.join(found.sentences)}")


def _rows(cuts: Sequence[dict[str, float]], figures: tuple[str, str, str]) -> list[Row]:
    rows = list[Row]()
    for one in cuts:
        value, low, high = (float(one[figure]) for figure in figures)
        ends = {"low": number(low if np.isfinite(low) else value), "high": number(high if np.isfinite(high) else value)}
        kept = {"value": number(value), "accuracy": number(float(one["accuracy"]))}
        rows.append({"ranking": one["ranking"], "size": number(one["size"]), **kept, **ends})
    return rows
