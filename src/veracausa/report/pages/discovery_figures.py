"""Figures of a discovery's page: the receipt's scatter and faithfulness pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.report.charts.scatters import against_exact, padded
from veracausa.report.sentences import scatter_sentence
from veracausa.words import plain, whole

if TYPE_CHECKING:
    from veracausa.discovery.evaluation import Evaluation
    from veracausa.receipts.receipts import Receipt

#: Pairs whose f lies outside are drawn at the border: a pair that is hardly separated can have any f.
_RANGE = (-1.0, 2.5)


def receipt_figure(receipt: Receipt) -> Figure:
    """Estimates against the exact effects that the receipt took."""
    found = receipt.agreement
    drawn = frozenset(receipt.estimate.units[receipt.drawn].names)
    data = Datasets()
    view = against_exact(data, found, drawn, "receipt", padded([found.exact, found.estimate]))
    text = f"Scatter of {found.method} against exact effects, {len(found.names)} edges, r {plain(found.r)}"
    subtitle = f"r {plain(found.r)}, Spearman {plain(found.spearman)}"
    sentence = scatter_sentence("edges", [found], len(found.names))
    part = Part(found.method, view, data, text, subtitle)
    return Figure("receipt", "Scores against exact effects", (part,), sentence, least=300, width=420)


def pairs_figure(evaluation: Evaluation) -> Figure:
    """f of every pair, of the circuit and of the random one."""
    name = f"{evaluation.name}-f"
    data = Datasets()
    f = evaluation.circuit.per_example.double().numpy()
    low, middle, high = np.nanquantile(f, [0.1, 0.5, 0.9])
    outside = int(((f < _RANGE[0]) | (f > _RANGE[1])).sum())
    sentence = (
        f"Half of the pairs lie above {plain(float(middle), 2)}, eight of ten between {plain(float(low), 2)} and "
        f"{plain(float(high), 2)}; the bar is the ratio of means, {plain(evaluation.circuit.f, 2)}."
    )
    if outside:
        sentence += f" {whole(outside)} outside {plain(_RANGE[0], 0)} … {plain(_RANGE[1], 1)} are drawn at the border."
    text = f"Faithfulness of the circuit on {len(f)} pairs: median {plain(float(middle), 2)}"
    part = Part("", _strip(data, evaluation, name), data, text)
    return Figure(name, "Is it faithful on every pair?", (part,), sentence, least=320, width=560)


def _strip(data: Datasets, evaluation: Evaluation, name: str) -> View:
    rows: list[Row] = []
    means: list[Row] = []
    for label, found in (("circuit", evaluation.circuit), ("random circuit", evaluation.random)):
        means.append({"which": label, "f": number(float(np.clip(found.f, *_RANGE)))})
        f = found.per_example.double().numpy()
        # spread out by rank, the same on every drawing, so that equal values do not hide each other
        spread = np.random.default_rng(0).permutation(len(f)) / max(1, len(f) - 1) - 0.5
        for i, (value, metric) in enumerate(zip(f.tolist(), found.metric.tolist(), strict=True)):
            drawn = number(float(np.clip(value, *_RANGE)))
            rows.append({"which": label, "pair": i, "f": number(value), "drawn": drawn, "M": number(metric),
                         "KL": number(float(found.kl[i])), "spread": number(float(spread[i]))})  # fmt: skip
    known = [row["drawn"] for row in rows if row["drawn"] is not None]
    ends = [min(-0.1, *known), max(1.1, *known)]
    order = ["circuit", "random circuit"]
    y = alt.Y("which:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8))
    x = alt.X("drawn:Q", title="faithfulness f of a pair", scale=alt.Scale(domain=ends, nice=False))
    guides = alt.Chart(alt.InlineData(values=[{"f": 0}, {"f": 1}])).mark_rule(style=theme.GUIDE).encode(x="f:Q")
    dots = alt.Chart(data.add(name, rows)).mark_point(filled=True, size=44, opacity=0.65)
    dots = dots.encode(
        x=x,
        y=y,
        yOffset=alt.YOffset("spread:Q", scale=alt.Scale(domain=[-0.8, 0.8])),
        color=alt.Color("which:N", scale=alt.Scale(domain=order), legend=None),
        tooltip=[
            alt.Tooltip("pair:Q"),
            alt.Tooltip("f:Q", format=".3f"),
            alt.Tooltip("M:Q", format="+.3f"),
            alt.Tooltip("KL:Q", format=".4f"),
        ],
    )
    bars = alt.Chart(data.add(f"{name}-means", means)).mark_tick(style=theme.EXACT, thickness=3, size=44)
    return alt.layer(guides, dots, bars.encode(x="f:Q", y=y)).properties(height=150)
