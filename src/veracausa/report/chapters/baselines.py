"""Baselines and general-purpose units on the page."""

from __future__ import annotations

import altair as alt
import numpy as np

from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, heading, number, plural
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.labels import named_points, place_labels
from veracausa.report.charts.maps import SIGNED, zero_line
from veracausa.report.charts.matrices import matrix_view
from veracausa.report.charts.scatters import padded
from veracausa.report.tables import Column, Table
from veracausa.words import joined, whole

#: Names in the scatter.
NAMED = 10


def figures(result: Baselines, name: str) -> list[Figure]:
    """r and Jaccard of every two, exact effects and IG."""
    parts = []
    for by, title in (("r", "r of effects"), ("jaccard", f"Jaccard of the {result.top} strongest")):
        data = Datasets()
        values = result.correlations(by).to_numpy()
        view = matrix_view(data, f"{name}-{by}", values, result.names, result.names, "agreement", 1.0, angle=-40)
        parts.append(Part(title, view, data, f"Grid of {title} of {len(result.names)} baselines"))
    sentence = " ".join(result.sentences[:3])
    return [
        Figure(name, "Which baselines tell the same story", tuple(parts), sentence, least=480, width=440, columns=1)
    ]


def tables(result: Baselines, name: str) -> list[Table]:
    """One row per baseline, and every unit under every baseline."""
    columns = (
        Column("ablation", "replaced by"), Column("mean |effect|", "mean |effect|", "plain", 4),
        Column("largest |effect|", "largest", "plain"), Column("strongest", "strongest"),
        Column("r with counterfactual", "r with counterfactual", "plain", 2),
        Column("r of IG", "r of IG to it", "plain", 2, help="IG to this baseline against this exact effect"),
        Column("r of IG with counterfactual", "r of that IG with counterfactual", "plain", 2),
        Column("token-layers", "token-layers", "whole"), Column("n", "n", "whole"),
    )  # fmt: skip
    rows = tuple({str(key): value for key, value in row.items()} for row in result.overview().to_dict("records"))
    note = "Exact effects as shares of the counterfactual gap. " + " ".join(result.sentences[3:])
    every = [Column("name", "unit")]
    for one in result.names:
        every.append(Column(f"effect: {one}", one, "signed", csv_only=not one.startswith("exact")))
        every.append(Column(f"stderr: {one}", f"± SE of {one}", "plain", csv_only=True))
    every.append(Column("n", "n", "whole", csv_only=True))
    units = tuple({str(key): value for key, value in row.items()} for row in result.table().to_dict("records"))
    kind = heading(result.one.units.kind, "")
    return [
        Table(f"{name}-overview", "Baselines", columns, rows, note),
        Table(f"{name}-units", f"{kind} by every baseline", tuple(every), units, "The CSV has IG, too.", 20),
    ]


def general_figures(result: GeneralPurpose, name: str) -> list[Figure]:
    """Effect by counterfactual (x) against effect by ablation (y); the region of general-purpose units is marked."""
    x, y = (values.mean(0) for values in result.shares)
    errors = result.errors
    across, up = padded([x]), padded([y])
    names, found, candidates = result.ablated.units.names, set(result.found), set(result.candidates)
    data = Datasets()
    rows: list[Row] = [
        {
            "name": names[u], "x": number(x[u]), "y": number(y[u]), "sx": number(errors[0][u]),
            "sy": number(errors[1][u]),
            "group": "general purpose" if names[u] in found else "not certain" if names[u] in candidates else "others",
        }
        for u in range(len(names))
    ]  # fmt: skip
    groups = ["general purpose", "not certain", "others"]
    bands: list[Row] = [
        {"x": -result.small, "x2": result.small, "y": y0, "y2": y1}
        for y0, y1 in ((result.large, up[1]), (up[0], -result.large))
        if y1 > y0
    ]
    tips = [
        alt.Tooltip("name:N", title="unit"), alt.Tooltip("x:Q", title="counterfactual", format="+.4f"),
        alt.Tooltip("sx:Q", title="± SE", format=".4f"),
        alt.Tooltip("y:Q", title=f"{result.ablation} ablation", format="+.4f"),
        alt.Tooltip("sy:Q", title="± SE", format=".4f"),
    ]  # fmt: skip
    scale = [alt.Scale(domain=list(span), nice=False, zero=False) for span in (across, up)]
    axis = alt.Axis(tickCount=6, labelExpr=SIGNED, grid=False)
    region = alt.Chart(data.add(f"{name}-region", bands)).mark_rect(style=theme.GUIDE, opacity=0.1, strokeWidth=0)
    region = region.encode(x=alt.X("x:Q", scale=scale[0], title="counterfactual effect, share of the gap", axis=axis),
                           x2="x2:Q", y=alt.Y("y:Q", scale=scale[1], axis=axis,
                                              title=f"{result.ablation}-ablation effect, share of the gap"),
                           y2="y2:Q")  # fmt: skip
    dots = alt.Chart(data.add(name, rows)).mark_point(filled=True, size=42, opacity=0.8)
    dots = dots.encode(x="x:Q", y="y:Q", tooltip=tips, color=alt.Color("group:N", scale=alt.Scale(domain=groups)),
                       shape=alt.Shape("group:N", scale=alt.Scale(domain=groups)))  # fmt: skip
    order = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable").tolist()
    named = [*(names.index(one) for one in result.candidates), *order]
    named = list(dict.fromkeys(named))[:NAMED]
    places = place_labels([names[u] for u in named], x[named], y[named], across, up)
    labels = [{"name": names[u], "x": number(x[u]), "y": number(y[u]), "dx": dx, "dy": dy}
              for u, (dx, dy) in zip(named, places, strict=True)]  # fmt: skip
    texts = named_points(data, f"{name}-labels", labels).encode(x="x:Q", y="y:Q", text="name:N")
    view = alt.layer(region, zero_line(x=True), zero_line(x=False), dots, texts).properties(height=330)
    sentence = " ".join(result.sentences[:3])
    part = Part("", view, data, f"Scatter of {len(names)} {plural(result.ablated.units.kind)}. {sentence}",
                f"in the bands: {result.ablation} ablation over {result.large:.0%}, counterfactual under "
                f"{result.small:.0%} of the gap; n = {result.n}")  # fmt: skip
    return [
        Figure(name, "Needed, but not for what the counterfactual changes", (part,), sentence, least=420, width=420)
    ]


def general_tables(result: GeneralPurpose, name: str) -> list[Table]:
    """Both effects of the units in the region, and of all in the CSV."""
    frame = result.table()
    inside = set(result.candidates)
    frame = frame.iloc[np.argsort([one not in inside for one in frame["name"]], kind="stable")]
    ablation, kind = result.ablation, plural(result.ablated.units.kind)
    columns = (
        Column("name", "unit"), Column(f"effect: {ablation}", f"{ablation} ablation", "signed"),
        Column(f"stderr: {ablation}", "± SE", "plain"), Column("effect: counterfactual", "counterfactual", "signed"),
        Column("stderr: counterfactual", "± SE", "plain"),
        Column(f"effect: {ablation}, corrupted run", f"{ablation} ablation, corrupted run", "signed"),
        Column(f"stderr: {ablation}, corrupted run", "± SE", "plain"), Column("p", "p", "p"),
        Column("general purpose", "general purpose"), Column("n", "n", "whole", csv_only=True),
    )  # fmt: skip
    rows = tuple(
        {str(key): value for key, value in row.items()} | {"general purpose": "yes" if row["general purpose"] else ""}
        for row in frame.to_dict("records")
    )
    note = (
        f"Shares of the mean gap, n = {result.n}; first the {whole(len(inside))} {kind} whose means lie in the region. "
        f"p: both claims, false discovery rate over {whole(len(rows))} {kind}. Found: {joined(result.found)}."
    )
    return [Table(name, "General-purpose units", columns, rows, note, max(12, len(inside)))]
