"""Pruning drawn: which layers hold what a ranking finds, what is left of a model, and what it then does."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.pruning.names import RANKINGS, kinds_in_words
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
    return Part(f"Where {kinds_in_words(found.parts.kinds)} are worth most", view, data,
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
    said = (
        "Every cut is run: all its parts gone at once. Lines begin at the full model (rule); bands are 95% intervals "
        "of the level, not of the change, which the same pairs tell far closer (sentences and tables)."
    )
    return Figure(name, "What is left", tuple(parts), said, least=320, width=340)


def cut_figure(found: Pruned, name: str) -> Figure:
    """What the cut takes: of heads and groups which, of others what share of every layer."""
    parts = tuple(_map(found, kind, f"{name}-{kind}") for kind in found.parts.kinds)
    said = f"By {RANKINGS[found.rankings[0]]}, {len(found.cut):,} of {len(found.parts):,} parts."
    return Figure(name, "What is cut", parts, said, least=320, width=420, columns=1)


def _map(found: Pruned, kind: str, name: str) -> Part:
    data, own = Datasets(inline=True), found.parts.of_kind(kind)
    layer, index, gone = found.parts.layer[own], found.parts.index[own], found.chosen[own]
    words = kinds_in_words([kind])
    said = f"{int(gone.sum()):,} of {len(gone):,} {words} are cut"
    down = alt.Y(
        "layer:O", title="layer", sort="descending", axis=alt.Axis(domain=False, ticks=False, labelOverlap=True)
    )
    if kind in ("heads", "kv_groups"):
        rows: list[Row] = [
            {"layer": int(a), "index": int(b), "is": "cut" if c else "kept"}
            for a, b, c in zip(layer, index, gone, strict=True)
        ]
        color = alt.Color("is:N", scale=alt.Scale(domain=["kept", "cut"]), legend=alt.Legend(title=None, orient="top"))
        across = alt.X("index:O", title=words, axis=alt.Axis(labelAngle=0, domain=False, ticks=False))
        base = alt.Chart(data.add(name, rows)).mark_rect(stroke=None, opacity=0.8)
        view = base.encode(x=across, y=down, color=color, tooltip=["layer:O", "index:O", "is:N"])
    else:
        layers = np.unique(layer)
        rows = [{"layer": int(one), "cut": number(float(gone[layer == one].mean()))} for one in layers]
        across = alt.X("cut:Q", title=f"share of each layer's {words} cut", scale=alt.Scale(domain=[0, 1]),
                       axis=alt.Axis(format="%", tickCount=5))  # fmt: skip
        base = alt.Chart(data.add(name, rows)).mark_bar(cornerRadius=1)
        view = base.encode(x=across, y=down, tooltip=["layer:O", alt.Tooltip("cut:Q", format=".1%")])
    return Part(
        f"Cut {words}", view.properties(height=max(60, 12 * len(np.unique(layer)))), data, f"{said}, by layer.", said
    )


def _curves(found: Pruned, name: str, on: str, figures: tuple[str, str, str], title: str) -> Part:
    """One figure by size, ranking by ranking."""
    table = found.table()
    own = table[table["on"] == on]
    cuts, (start, *_) = own[own["ranking"] != "full model"].to_dict("records"), own.to_dict("records")
    data, full = Datasets(inline=True), float(start[figures[0]])
    rows = _rows([*(start | {"ranking": ranking} for ranking in found.rankings), *cuts], figures)
    base = alt.Chart(data.add(name, rows))
    x = alt.X("size:Q", title="share of the parts' parameters cut", axis=alt.Axis(grid=False, format="%", tickCount=5),
              scale=alt.Scale(domain=[0, found.sizes[-1]], nice=False))  # fmt: skip
    y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=False))
    scale = alt.Scale(domain=list(found.rankings))
    key = alt.Legend(title=None, orient="top", columns=3, symbolOpacity=1)
    color = alt.Color("ranking:N", scale=scale, legend=key)
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
