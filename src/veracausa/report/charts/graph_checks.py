"""Charts of what attribution graphs say beside the live model, by how far from the logits a node is."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.graphs.checked import MEASURES, GraphCheck
from veracausa.graphs.graph import KINDS, AttributionGraph
from veracausa.graphs.influence import ERROR, FEATURE, TOKEN
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.report.charts.maps import SIGNED
from veracausa.report.charts.strengths import diagonal_view
from veracausa.words import plain

#: Nodes that a group must have for a correlation of it to be drawn.
LEAST = 4
#: What is drawn of the agreement: measure of `GraphCheck.agreement`, column, and what the line is called.
_LINES = (("frozen", "r", "frozen"), ("linear", "r", "sum over ways"), ("influence", "spearman", "influence"))


def layers_figure(found: AttributionGraph, name: str) -> Figure:
    """Influence of features, errors and tokens, layer by layer."""
    data, kinds, layers = Datasets(), found.kinds.numpy(), found.layers.numpy()
    reached = found.influence.double().numpy()
    rows: list[Row] = []
    for kind in (FEATURE, ERROR, TOKEN):
        for layer in np.unique(layers[kinds == kind]).tolist():
            own = float(reached[(kinds == kind) & (layers == layer)].sum())
            rows.append({"kind": KINDS[kind], "layer": "tokens" if kind == TOKEN else str(layer), "order": layer,
                         "influence": number(own)})  # fmt: skip
    order = [row["layer"] for row in sorted(rows, key=lambda row: -row["order"])]
    view = (
        alt.Chart(data.add(name, rows))
        .mark_bar(cornerRadius=1)
        .encode(
            y=alt.Y("layer:N", sort=[*dict.fromkeys(order)], title="layer", axis=alt.Axis(ticks=False, domain=False)),
            x=alt.X("influence:Q", title="influence on the logits", axis=alt.Axis(tickCount=5)),
            color=alt.Color("kind:N", scale=alt.Scale(domain=[KINDS[k] for k in (FEATURE, ERROR, TOKEN)]),
                            legend=alt.Legend(title=None, orient="top")),
            order=alt.Order("kind:N", sort="descending"),
            tooltip=[alt.Tooltip("kind:N"), alt.Tooltip("layer:N"), alt.Tooltip("influence:Q", format=".3f")],
        )
        .properties(height=max(120, 18 * len(set(order))))
    )  # fmt: skip
    shares = {kind: float(reached[kinds == kind].sum() / max(reached.sum(), 1e-30)) for kind in (FEATURE, ERROR, TOKEN)}
    said = (
        f"Of all influence {plain(100 * shares[FEATURE], 0)} % is of features, {plain(100 * shares[ERROR], 0)} % of "
        f"what they leave out, {plain(100 * shares[TOKEN], 0)} % of tokens."
    )
    return Figure(name, "Who has the influence, and what errors take", (Part("", view, data, said),), said, width=420)


def scatters_figure(check: GraphCheck, name: str) -> Figure:
    """Frozen ablation, and influence, against live ablation; by distance to the logits."""
    table, near = check.table(), check.bands(3)
    names = [
        f"{one} (graph {graph})" if check.n > 1 else one for one, graph in zip(table.name, table.graph, strict=True)
    ]
    order = sorted(
        range(len(near)), key=lambda i: (near[i] == "tokens", check.settings["layers"] - int(check.layers[i]))
    )
    live, frozen, reached = (table[one].to_numpy(dtype=np.float64)[order] for one in ("live", "frozen", "influence"))
    kinds, named = [near[i] for i in order], [names[i] for i in order]
    one, other = Datasets(), Datasets()
    titles = ("live ablation: M without it − M", "frozen ablation")
    parts = (
        Part("Frozen against live", diagonal_view(one, name, live, frozen, kinds, titles, named), one,
             f"Scatter. {check.sentences[0]}"),
        Part("Influence against live", _sizes_view(other, f"{name}-sizes", np.abs(live), reached, kinds, named), other,
             f"Scatter. {check.sentences[1]}"),
    )  # fmt: skip
    said = (
        "Every dot is a node; its colour is how many layers from the logits it is. On the dashed line both are equal."
    )
    title = "Live ablation beside frozen ablation and influence"
    return Figure(name, title, parts, said, least=320, width=360)


def _sizes_view(
    data: Datasets, name: str, x: np.ndarray, y: np.ndarray, kinds: Sequence[str], names: Sequence[str]
) -> View:
    rows: list[Row] = [
        {"name": names[i], "kind": kinds[i], "x": number(x[i]), "y": number(y[i])} for i in range(len(names))
    ]
    domain = list(dict.fromkeys(kinds))
    dots = alt.Chart(data.add(name, rows)).mark_point(filled=True, size=46, opacity=0.8)
    return dots.encode(
        x=alt.X("x:Q", title="|live ablation|", axis=alt.Axis(tickCount=6, grid=False)),
        y=alt.Y("y:Q", title="influence", axis=alt.Axis(tickCount=6, grid=False)),
        color=alt.Color("kind:N", scale=alt.Scale(domain=domain), legend=alt.Legend(title=None, orient="top")),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("kind:N"), alt.Tooltip("x:Q", title="|live|", format=".4f"),
                 alt.Tooltip("y:Q", title="influence", format=".4f")],
    ).properties(height=300)  # fmt: skip


def distance_figure(check: GraphCheck, name: str) -> Figure:
    """How the graph's numbers agree with live ablation, by distance to the logits."""
    data, rows = Datasets(), []
    table = check.agreement(by="band")
    for measure, column, called in _LINES:
        own = table[(table["measure"] == MEASURES[measure]) & (table["n"] >= LEAST)]
        rows += [
            {"line": called, "distance": one["band"], "value": number(one[column]), "n": int(one["n"])}
            for one in own.to_dict("records")
        ]
    domain = [called for *_, called in _LINES]
    color = alt.Color("line:N", scale=alt.Scale(domain=domain), legend=alt.Legend(title=None, orient="top"))
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X(
            "distance:N",
            title="layers to the logits",
            sort=[*dict.fromkeys(table["band"])],
            axis=alt.Axis(grid=False, labelAngle=0),
        ),
        y=alt.Y("value:Q", title="agreement with live", axis=alt.Axis(tickCount=5, labelExpr=SIGNED)),
        color=color,
    )
    tips = [alt.Tooltip("line:N"), alt.Tooltip("distance:N"), alt.Tooltip("value:Q", format="+.3f"), alt.Tooltip("n:Q")]
    zero = alt.Chart(alt.InlineData(values=[{}])).mark_rule(style=theme.GUIDE).encode(y=alt.datum(0))
    view = alt.layer(
        zero, base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=52, opacity=1).encode(tooltip=tips)
    )
    said = (
        "1: the last layer. r of effects with signs; of influence, which has none, the rank correlation ρ with |live|. "
        f"Groups of fewer than {LEAST} nodes are left out."
    )
    return Figure(
        name, "By distance to the logits", (Part("", view.properties(height=260), data, said),), said, width=480
    )
