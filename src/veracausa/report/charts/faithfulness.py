"""Faithfulness against size: f of the circuits of one or several rankings, over the share of edges on a log axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.errors import MethodError
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.words import joined, plain

#: The two rankings of a curve, as the legend says them.
RANKINGS = {"signed": "by signed importance", "abs": "by |score|"}
_OVER = 1.02
#: Pairs whose f lies outside are drawn at the border: a pair that is hardly separated can have any f.
RANGE = (-1.0, 2.5)


def curves_part(data: Datasets, curves: Sequence[Curve], name: str) -> Part:
    """Curves of several methods on one chart, with what it shows.

    Raises:
        MethodError: no curves, two of one method, or curves of other models, pairs or ablations.
    """
    methods = [curve.method for curve in curves]
    if not curves or len(set(methods)) < len(methods):
        raise MethodError(
            f"A chart of curves needs one or several of different methods, not {methods}. Rename one with "
            "dataclasses.replace(curve, method=…)."
        )
    _require_one_question(curves)
    rows = [row for curve in curves for row in _rows(curve)]
    ablations = joined(list(dict.fromkeys(curve.signed[0].ablation for curve in curves)))
    pairs = len(curves[0].signed[0].metric)
    first = f"f of circuits of the strongest edges · {ablations} ablation · {pairs} pair{'s' * (pairs > 1)}"
    lines = [first + _bands(rows), *map(_areas, curves), *curves[0].signed[0].cautions]
    return Part(
        "Faithfulness by size", _view(data, rows, methods, name), data, f"Line chart. {curves_sentence(curves)}",
        "\n".join(lines),
    )  # fmt: skip


def _require_one_question(curves: Sequence[Curve]) -> None:
    """MethodError unless all curves are about one model, one set of pairs and one ablation; it names the difference."""

    def asked(curve: Curve) -> dict[str, Any]:
        model, task = curve.model, curve.task
        about = {"model": model["identity"], "dtype": model.get("dtype"), "task": task["digest"]}
        return about | {"description": task["description"], "metric": task["metric"], **curve.settings}

    first = asked(curves[0])
    for curve in curves[1:]:
        own = asked(curve)
        differing = sorted(key for key in first.keys() | own.keys() if first.get(key) != own.get(key))
        if differing:
            told = "; ".join(f"{key}: {first.get(key)!r} and {own.get(key)!r}" for key in differing)
            raise MethodError(f"The curves of {curves[0].method} and {curve.method} cannot be laid together: {told}.")


def curves_figure(curves: Sequence[Curve], name: str) -> Figure:
    """The same as a figure of a page."""
    part = curves_part(Datasets(), curves, name)
    title = "How faithful are circuits of each size?"
    return Figure(name, title, (part,), curves_sentence(curves), least=320, width=560)


def curves_sentence(curves: Sequence[Curve]) -> str:
    """From which share of the edges on each ranking stays within a tenth of the model, and where it overshoots."""
    text = []
    for curve in curves:
        for ranking, found in (("signed", curve.signed), ("abs", curve.absolute)):
            f = np.array([one.f for one in found])
            close = [share for k, share in enumerate(curve.sizes) if (np.abs(1 - f[k:]) <= 0.1).all()]
            what = f"{curve.method} {RANKINGS[ranking]}"
            said = f"from {100 * close[0]:.3g}% of the edges on" if close else "at no size"
            said = "only with all edges" if close == [1.0] else said
            over = f"; it overshoots to {plain(float(f.max()), 2)}" if f.max() > 1.1 else ""
            text.append(f"{what} {said}{over}")
    return f"The circuit's metric stays within a tenth of the gap of the model's: {joined(text)}."


def _rows(curve: Curve) -> list[Row]:
    rows = []
    for ranking, found in (("signed", curve.signed), ("abs", curve.absolute)):
        for share, one, living in zip(curve.sizes, found, curve.living[ranking], strict=True):
            error = one.stderr()
            rows.append(
                {
                    "method": curve.method,
                    "ranking": RANKINGS[ranking],
                    "series": f"{curve.method}, {RANKINGS[ranking]}",
                    "share": share,
                    "edges": one.edges,
                    "living": living,
                    "f": number(one.f),
                    "stderr": number(error),
                    "low": number(one.f - error),
                    "high": number(one.f + error),
                }
            )
    return rows


def _areas(curve: Curve) -> str:
    """Both areas of a curve, over x and over log x, with their standard errors."""
    error = curve.stderr()

    def shown(name: str) -> str:
        spread = f" ± {plain(error[name])}" if np.isfinite(error[name]) else ""
        return plain(getattr(curve, name)) + spread

    return f"{curve.method}: CPR {shown('cpr')}, CMD {shown('cmd')}; over log x {shown('cpr_log')}, {shown('cmd_log')}"


def _bands(rows: list[Row]) -> str:
    return ", bands: ± 1 standard error" if any(row["low"] is not None for row in rows) else ""


def _view(data: Datasets, rows: list[Row], methods: Sequence[str], name: str) -> View:
    values = [row[key] for row in rows for key in ("f", "low", "high") if row[key] is not None]
    low, high = min(0.0, *values), max(1.0, *values)
    room = 0.06 * (high - low)
    shares = [row["share"] for row in rows]
    paint = alt.Scale(domain=list(methods), range=alt.RangeEnum("category"))
    color = alt.Color("method:N", scale=paint, legend=alt.Legend(title=None, orient="top", symbolOpacity=1))
    looks = alt.Scale(domain=list(RANKINGS.values()), range=[[1, 0], [5, 3]])
    forms = alt.Scale(domain=list(RANKINGS.values()), range=["circle", "diamond"])
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X(
            "share:Q", title="share of the edges kept",
            scale=alt.Scale(type="log", domain=[min(shares), max(shares)], nice=False),
            axis=alt.Axis(grid=False, format="~%", values=sorted(set(shares)), labelFlush=False),
        ),
        color=color,
    )  # fmt: skip
    ends = alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
    y = alt.Y("f:Q", title="faithfulness f", scale=ends, axis=alt.Axis(grid=False, tickCount=6))
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("ranking:N"),
        alt.Tooltip("share:Q", format=".2~%"),
        alt.Tooltip("edges:Q", format=","),
        alt.Tooltip("living:Q", title="edges that can matter", format=","),
        alt.Tooltip("f:Q", format=".4f"),
        alt.Tooltip("stderr:Q", title="± standard error", format=".4f"),
    ]
    band = base.mark_area(opacity=0.13, clip=True).transform_filter("isValid(datum.low)")
    line = base.mark_line(strokeWidth=2)
    dots = base.mark_point(filled=True, size=42, opacity=1)
    legend = alt.Legend(title=None, orient="top", symbolSize=90)
    guides: list[Any] = [_level(data, 1.0, "the model", f"{name}-full"), _level(data, 0.0, "no edges", f"{name}-none")]
    if max(row["f"] for row in rows if row["f"] is not None) > _OVER:
        guides.insert(0, _overshoot(data, high + room, f"{name}-over"))
    return alt.layer(
        *guides,
        band.encode(y=alt.Y("low:Q"), y2="high:Q", detail="series:N"),
        line.encode(y=y, strokeDash=alt.StrokeDash("ranking:N", scale=looks, legend=legend)),
        dots.encode(y=y, shape=alt.Shape("ranking:N", scale=forms, legend=legend), tooltip=tips),
    ).properties(height=260)


def _level(data: Datasets, value: float, text: str, name: str) -> View:
    """A line at f = 0 or 1, its meaning beside its right end."""
    base = alt.Chart(data.add(name, [{"level": value, "text": text}]))
    return alt.layer(base.mark_rule(style=theme.GUIDE).encode(y="level:Q"), _beside(base, "level:Q"))


def _overshoot(data: Datasets, top: float, name: str) -> View:
    """Where a circuit does more than the model: faintly shaded."""
    base = alt.Chart(data.add(name, [{"from": 1.0, "to": top, "middle": (1 + top) / 2, "text": "overshoot"}]))
    shade = base.mark_rect(style=theme.GUIDE, opacity=0.07).encode(y="from:Q", y2="to:Q")
    return alt.layer(shade, _beside(base, "middle:Q"))


def _beside(base: alt.Chart, y: str) -> alt.Chart:
    words = base.mark_text(style=theme.NAME, align="left", baseline="middle", dx=6, opacity=0.8)
    return words.encode(x=alt.value("width"), y=y, text="text:N")


def pairs_view(data: Datasets, found: Mapping[str, Faithfulness], name: str) -> View:
    """f of every pair, a row for each circuit, with the ratio of means as a tick."""
    rows: list[Row] = []
    means: list[Row] = []
    for label, one in found.items():
        means.append({"which": label, "f": number(float(np.clip(one.f, *RANGE)))})
        f = one.per_example.double().numpy()
        # spread out by rank, the same on every drawing, so that equal values do not hide each other
        spread = np.random.default_rng(0).permutation(len(f)) / max(1, len(f) - 1) - 0.5
        for i, (value, metric) in enumerate(zip(f.tolist(), one.metric.tolist(), strict=True)):
            drawn = number(float(np.clip(value, *RANGE)))
            rows.append({"which": label, "pair": i, "f": number(value), "drawn": drawn, "M": number(metric),
                         "KL": number(float(one.kl[i])), "spread": number(float(spread[i]))})  # fmt: skip
    known = [row[key] for key, own in (("drawn", rows), ("f", means)) for row in own if row[key] is not None]
    ends = [min(-0.1, *known), max(1.1, *known)]
    order = list(found)
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
    return alt.layer(guides, dots, bars.encode(x="f:Q", y=y)).properties(height=75 * len(found))
