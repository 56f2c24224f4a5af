"""The metric as two units move together: a heat map with its corners."""

from __future__ import annotations

import altair as alt
import numpy as np

from veracausa.causes.curves.surfaces import Surface
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.maps import colour, limit_of
from veracausa.report.charts.theme import Support
from veracausa.report.tables import Column, Table
from veracausa.words import signed

_TITLES = {
    "redundancy": "{} and {} cover for each other",
    "synergy": "{} and {} work together",
    "none clear": "{} and {} show no clear interaction",
}


def figures(found: Surface, name: str) -> list[Figure]:
    """One heat map."""
    data, means = Datasets(), found.means()
    u, v = found.units
    across, up = _edges(found.alphas), _edges(found.betas)
    rows: list[Row] = [
        {
            "alpha": number(a), "beta": number(b), "value": number(means[i, j]),
            "left": number(across[i]), "right": number(across[i + 1]), "low": number(up[j]), "high": number(up[j + 1]),
        }
        for i, a in enumerate(found.alphas)
        for j, b in enumerate(found.betas)
    ]  # fmt: skip
    limit = limit_of(means)
    corners: list[Row] = []
    for a, b in ((0, 0), (1, 0), (0, 1), (1, 1)):
        effect = found.at(a, b).value
        corners.append({"alpha": a, "beta": b, "text": signed(effect, 2), "strong": abs(effect) > limit / 2})
    x = alt.X("left:Q", title=f"α, {u} (0 = as it is, 1 = replaced)", axis=alt.Axis(grid=False, tickCount=5),
              scale=alt.Scale(domain=[float(across[0]), float(across[-1])], nice=False))  # fmt: skip
    y = alt.Y("low:Q", title=f"β, {v}", axis=alt.Axis(grid=False, tickCount=5),
              scale=alt.Scale(domain=[float(up[0]), float(up[-1])], nice=False))  # fmt: skip
    tips = [alt.Tooltip("alpha:Q", title=f"α, {u}", format=".2f"), alt.Tooltip("beta:Q", title=f"β, {v}", format=".2f"),
            alt.Tooltip("value:Q", title="effect", format="+.4f")]  # fmt: skip
    cells = alt.Chart(data.add(name, rows)).mark_rect(stroke=None)
    cells = cells.encode(
        x=x,
        x2="right:Q",
        y=y,
        y2="high:Q",
        color=colour(limit, "change, share of the gap", Support.NEGATIVE),
        tooltip=tips,
    )
    places = alt.Chart(data.add(f"{name}-corners", corners))
    text = []
    for style, test in ((theme.NAME, "!datum.strong"), (theme.INVERSE, "datum.strong")):
        mark = places.mark_text(style=style, fontWeight="bold").transform_filter(test)
        text.append(mark.encode(x="alpha:Q", y="beta:Q", text="text:N"))
    (sentence,) = found.sentences
    view = alt.layer(cells, *text).properties(height=300)
    part = Part("", view, data, sentence)
    return [Figure(name, _TITLES[found.kind].format(u, v), (part,), sentence, least=340, width=340)]


def tables(found: Surface, name: str) -> list[Table]:
    """All points."""
    u, v = found.units
    columns = (
        Column(u, f"α, {u}", "plain", 2), Column(v, f"β, {v}", "plain", 2), Column("effect", "effect", "signed"),
        Column("stderr", "± SE", "plain"), Column("n", "n", "whole"),
    )  # fmt: skip
    rows = tuple(dict(row) for row in found.table().to_dict("records"))
    note = f"Shares of the gap. Interaction, both − {u} − {v}: {found.interaction}."
    return [Table(name, f"The metric as {u} and {v} move", columns, rows, note, shown=0)]


def _edges(points: np.ndarray) -> np.ndarray:
    """Borders of cells around the points of an axis, halfway between them."""
    middle = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])
