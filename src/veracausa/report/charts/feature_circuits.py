"""A circuit of features drawn: nodes by layer, the early ones below, and the edges between them."""

from __future__ import annotations

import re

import altair as alt

from veracausa.circuits.featured import FeatureCircuit
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part
from veracausa.report.charts.theme import Support

#: Edges that are drawn, the strongest; and nodes that no drawn edge touches.
SHOWN, BESIDE = 60, 20


def feature_circuit_part(found: FeatureCircuit, name: str) -> Part:
    """Nodes in rows by layer, the strongest in the middle; edges by colour (sign) and width (size)."""
    data, edges, nodes = Datasets(inline=True), found.table().head(SHOWN), found.node_table()
    ends = {*edges["upstream"], *edges["downstream"]}
    strength = dict(zip(nodes["name"], nodes["effect"], strict=True))
    drawn = [one for i, one in enumerate(nodes["name"]) if one in ends or i < BESIDE]
    place = _places([*drawn, *(["logits"] if "logits" in ends else [])])
    points: list[Row] = [
        {"name": one, "x": across, "y": up, "effect": number(strength.get(one, float("nan")))}
        for one, (across, up) in place.items()
    ]
    most = max(edges["effect"].abs().max(), 1e-12) if len(edges) else 1.0
    lines: list[Row] = []
    for row in edges.itertuples():
        spots = dict(zip(("x", "y", "x2", "y2"), (*place[row.upstream], *place[row.downstream]), strict=True))
        what = {"upstream": row.upstream, "downstream": row.downstream, "effect": number(row.effect)}
        lines.append({**spots, "size": number(abs(row.effect) / most), **what})
    hidden = {"axis": None, "scale": alt.Scale(padding=20)}
    x, y = alt.X("x:Q", **hidden), alt.Y("y:Q", **hidden)  # type: ignore[arg-type]
    color = alt.condition("datum.effect < 0", alt.value("#4c78a8"), alt.value("#e4813c"))
    tips = [alt.Tooltip("upstream:N"), alt.Tooltip("downstream:N"), alt.Tooltip("effect:Q", format="+.4f")]
    width = alt.StrokeWidth("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.4, 4]), legend=None)
    rules = alt.Chart(data.add(f"{name}-edges", lines)).mark_rule(opacity=0.7).encode(
        x=x, y=y, x2="x2:Q", y2="y2:Q", color=color, strokeWidth=width, tooltip=tips
    )  # fmt: skip
    dots = alt.Chart(data.add(name, points))
    marks = dots.mark_circle(size=60, opacity=1).encode(
        x=x, y=y, color=color, tooltip=[alt.Tooltip("name:N"), alt.Tooltip("effect:Q", format="+.4f")]
    )
    words = dots.mark_text(dy=-9, fontSize=9).encode(x=x, y=y, text="name:N")
    view = alt.layer(rules, marks, words).properties(height=60 * max(2, len({y for _, y in place.values()})))
    first, said = found.describe().splitlines()[0], " ".join(found.sentences)
    return Part("A circuit of features", view, data, said, f"{first}\n{Support.NEGATIVE.value}")


def _places(names: list[str]) -> dict[str, tuple[float, float]]:
    """Where each node stands: layer by layer upwards, around the middle in the order given."""
    rows: dict[int, list[str]] = {}
    for one in names:
        match = re.match(r"[a-z]+(\d+)", one)
        rows.setdefault(int(match[1]) if match else 1 << 20, []).append(one)
    found = {}
    for y, layer in enumerate(sorted(rows)):
        for i, one in enumerate(rows[layer]):
            found[one] = float((i + 1) // 2 * (-1 if i % 2 else 1)), float(y)
    return found
