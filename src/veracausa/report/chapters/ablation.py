"""Ablation studies on the page: accuracy and metric of every unit and ablation, and what scores foretell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from veracausa.behaviour.foretold import Against
from veracausa.behaviour.results import AblationStudy, Outcome
from veracausa.behaviour.sentences import points
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.report.charts.labels import named_points, place_labels
from veracausa.report.charts.maps import NAMES, SIGNED, zero_line
from veracausa.report.charts.scatters import padded
from veracausa.report.tables import Column, Table
from veracausa.words import joined

#: Units on a chart: those whose ablation changes accuracy most.
DRAWN = 20
#: Units that a scatter names.
_NAMED = 6
#: Height of one bar, in pixels.
_BAR = 13
_PERCENT = alt.Axis(tickCount=5, format=".0%")
_SIGNED_PERCENT = "datum.value == 0 ? '0' : format(datum.value, '+.0%')"


def figures(study: AblationStudy, name: str, forecasts: Sequence[Against] = ()) -> list[Figure]:
    """Accuracy, change of the metric and, for every `Against`, scores beside the change of accuracy."""
    shown = _drawn(study)
    about = f"{study.n:,} prompts"
    left = len(study.outcomes) - len(shown)
    rest = f"; {left} weaker ablations are in the table" if left else ""
    accuracy, metric = Datasets(), Datasets()
    made = [
        Figure(
            f"{name}-accuracy",
            "What ablation does to the answers",
            (
                Part(
                    "Share of prompts answered right",
                    _accuracy_view(accuracy, study, shown, f"{name}-accuracy"),
                    accuracy,
                    f"Bar chart. {study.sentences[0]}",
                    f"greedy answers to {about}, 95% Wilson intervals; line: unablated, with its interval\n"
                    f"beside the bars: change in points; * McNemar p ≤ {study.alpha:g} after Holm",
                ),
            ),
            " ".join(study.sentences[: 2 + len(study.settings["ablations"])]) + _more(rest),
            least=420,
            width=420,
        ),
        Figure(
            f"{name}-metric",
            f"What ablation does to the {study.task['metric']}",
            (
                Part(
                    f"Change of the {study.task['metric']}",
                    _metric_view(metric, study, shown, f"{name}-metric"),
                    metric,
                    f"Bar chart. {metric_sentence(study)}",
                    f"mean over {about}, whiskers: ±1.96 standard errors; negative: the unit supported the behaviour",
                ),
            ),
            metric_sentence(study) + _more(rest),
            least=420,
            width=420,
        ),
    ]
    return made + [forecast_figure(one, f"{name}-scores-{one.ablation}") for one in forecasts]


def tables(study: AblationStudy, name: str, forecasts: Sequence[Against] = ()) -> list[Table]:
    """Every condition with all its numbers, and every `Against`."""
    frame = study.table()
    rows = tuple({str(key): value for key, value in row.items()} for row in frame.to_dict("records"))
    columns = (
        Column("units", "ablated"),
        Column("ablation", "by"),
        Column("n", "n", "whole", csv_only=True),
        Column("metric", study.task["metric"], "signed"),
        Column("change", "change", "signed"),
        Column("stderr", "± SE", "plain"),
        Column("accuracy", "accuracy", "percent", 1),
        Column("low", "from", "percent", 1, help="lower end of the 95% Wilson interval"),
        Column("high", "to", "percent", 1, help="upper end of the 95% Wilson interval"),
        Column("accuracy change", "change of accuracy", "signed"),
        Column("accuracy stderr", "± SE of it", "plain", csv_only=True),
        Column("lost", "lost", "whole", help="prompts that only the unablated model answers right"),
        Column("gained", "gained", "whole", help="prompts that only the ablated model answers right"),
        Column("p", "p", "p", help="McNemar's exact test", csv_only=True),
        Column("p (Holm)", "p (Holm)", "p", help=f"McNemar's exact test, Holm over {len(study.outcomes)} tests"),
    )
    note = f"{study.n:,} prompts each; changes are against the unablated model on the same prompts."
    made = [Table(f"{name}-ablations", "Every ablation", columns, rows, note)]
    if forecasts:
        made.append(_forecasts_table(forecasts, name))
    return made


def metric_sentence(study: AblationStudy) -> str:
    """The largest changes of the metric, and where it moves although accuracy does not (or the other way round)."""
    alone = sorted((one for one in study.outcomes if len(one.condition.units) == 1), key=lambda one: -abs(one.change))
    said = [f"{one.condition.name} ({one.condition.ablation}) {_plus_minus(one)}" for one in alone[:3]]
    text = f"Largest changes of the mean {study.task['metric']} over {study.n:,} prompts: {joined(said)}. "
    opposite = [one for one in study.significant if one in alone and one.change * one.accuracy_change < 0]
    if opposite:
        which = joined([f"{one.condition.name} ({one.condition.ablation})" for one in opposite[:4]])
        text += (
            f"Metric and accuracy change in opposite directions for {which}: the correct answer gains on the incorrect "
            "one while a third word is said more often, or the reverse."
        )
    elif any(one in alone for one in study.significant):
        text += "Wherever accuracy changes significantly, it changes in the direction of the metric."
    return text.strip()


def _plus_minus(one: Outcome) -> str:
    return f"{one.change:+.3f} ± {one.stderr:.3f}".replace("-", "−")


def _more(rest: str) -> str:
    return f" ({rest.removeprefix('; ')}.)" if rest else ""


def _drawn(study: AblationStudy) -> list[Outcome]:
    """The ablations on the charts: all of the units that change accuracy most under any, and those of several units."""
    strongest: dict[str, float] = {}
    for one in study.outcomes:
        if len(one.condition.units) == 1:
            unit = one.condition.name
            strongest[unit] = max(strongest.get(unit, 0.0), abs(one.accuracy_change))
    kept = set(sorted(strongest, key=lambda unit: -strongest[unit])[:DRAWN])
    return [one for one in study.outcomes if len(one.condition.units) > 1 or one.condition.name in kept]


def _order(shown: Sequence[Outcome]) -> list[str]:
    """Names down the chart: units by their lowest accuracy, several units at the end."""
    lowest: dict[str, tuple[bool, float]] = {}
    for one in shown:
        key = (len(one.condition.units) > 1, one.accuracy)
        lowest[one.condition.name] = min(lowest.get(one.condition.name, key), key)
    return sorted(lowest, key=lambda name: lowest[name])


def _axes(study: AblationStudy, shown: Sequence[Outcome]) -> dict[str, Any]:
    """Rows by unit, bars of the ablations beside each other, colours by ablation."""
    ablations = study.settings["ablations"]
    color = alt.Color("ablation:N", scale=alt.Scale(domain=ablations), title=None)
    return {
        "y": alt.Y("name:N", title=None, sort=_order(shown), axis=NAMES, scale=alt.Scale(paddingInner=0.25)),
        "yOffset": alt.YOffset("ablation:N", sort=ablations),
        "color": color,
    }


def _height(study: AblationStudy, shown: Sequence[Outcome]) -> int:
    return max(60, len(_order(shown)) * (_BAR * len(study.settings["ablations"]) + 5))


def _accuracy_view(data: Datasets, study: AblationStudy, shown: Sequence[Outcome], name: str) -> View:
    rows: list[Row] = [
        {
            "name": one.condition.name,
            "ablation": one.condition.ablation,
            "accuracy": number(one.accuracy),
            "low": number(one.low),
            "high": number(one.high),
            "label": points(one.accuracy_change).removesuffix(" points") + "*" * (one.p_holm <= study.alpha),
            "lost": one.lost,
            "gained": one.gained,
        }
        for one in shown
    ]
    axes, base = _axes(study, shown), alt.Chart(data.add(name, rows))
    x = alt.X("accuracy:Q", title="answered right", scale=alt.Scale(domain=[0, 1.12], nice=False), axis=_PERCENT)
    tips = [
        alt.Tooltip("name:N", title="ablated"),
        alt.Tooltip("ablation:N"),
        alt.Tooltip("accuracy:Q", format=".1%"),
        alt.Tooltip("low:Q", title="from", format=".1%"),
        alt.Tooltip("high:Q", title="to", format=".1%"),
        alt.Tooltip("lost:Q"),
        alt.Tooltip("gained:Q"),
    ]
    bars = base.mark_bar(cornerRadius=1, opacity=0.75).encode(x=x, **axes, tooltip=tips)
    place = {"y": axes["y"], "yOffset": axes["yOffset"]}
    whiskers = base.mark_rule(style=theme.TRUTH, strokeWidth=1.2).encode(x="low:Q", x2="high:Q", **place)
    labels = base.mark_text(style=theme.NAME, align="left", dx=4).encode(x="high:Q", text="label:N", **place)
    whole = study.unablated
    level = alt.Chart(data.add(f"{name}-unablated", [{"level": whole.accuracy, "low": whole.low, "high": whole.high}]))
    band = level.mark_rect(style=theme.GUIDE, opacity=0.18, strokeWidth=0).encode(x="low:Q", x2="high:Q")
    line = level.mark_rule(style=theme.GUIDE, strokeWidth=1.5).encode(x="level:Q")
    return alt.layer(band, bars, line, whiskers, labels).properties(height=_height(study, shown))


def _metric_view(data: Datasets, study: AblationStudy, shown: Sequence[Outcome], name: str) -> View:
    rows: list[Row] = [
        {
            "name": one.condition.name,
            "ablation": one.condition.ablation,
            "change": number(one.change),
            "low": number(one.change - 1.96 * one.stderr),
            "high": number(one.change + 1.96 * one.stderr),
        }
        for one in shown
    ]
    axes, base = _axes(study, shown), alt.Chart(data.add(name, rows))
    x = alt.X("change:Q", title=f"change of the {study.task['metric']}", axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    tips = [alt.Tooltip("name:N", title="ablated"), alt.Tooltip("ablation:N"), alt.Tooltip("change:Q", format="+.4f")]
    bars = base.mark_bar(cornerRadius=1, opacity=0.75).encode(x=x, **axes, tooltip=tips)
    layers: list[Any] = [bars, zero_line(x=True)]
    if study.n > 1:
        whiskers = base.mark_rule(style=theme.TRUTH, strokeWidth=1.2)
        layers.append(whiskers.encode(x="low:Q", x2="high:Q", y=axes["y"], yOffset=axes["yOffset"]))
    return alt.layer(*layers).properties(height=_height(study, shown))


def forecast_figure(found: Against, name: str) -> Figure:
    """One scatter per method: its score (x) against the change of accuracy (y)."""
    parts = []
    for k, one in enumerate(found.forecasts):
        data = Datasets()
        r = "–" if np.isnan(one.r) else f"{one.r:+.2f}".replace("-", "−")
        view, says = _scatter(data, found, one.score, f"{name}-{k}"), f"Scatter plot. {found.sentences[k + 1]}"
        parts.append(Part(one.method, view, data, says, f"r {r}, {len(found.names)} units"))
    title = f"Do scores foretell what {found.ablation} ablation does to the answers?"
    return Figure(name, title, tuple(parts), " ".join(found.sentences), width=260, columns=3)


def _scatter(data: Datasets, found: Against, score: np.ndarray, name: str) -> View:
    change, spread = found.change, np.nan_to_num(found.stderr)
    across, up = padded([score]), padded([change - 1.96 * spread, change + 1.96 * spread])
    kinds = ["significant", "not significant"]
    rows: list[Row] = [
        {
            "name": unit,
            "score": number(score[i]),
            "change": number(change[i]),
            "low": number(change[i] - 1.96 * spread[i]),
            "high": number(change[i] + 1.96 * spread[i]),
            "kind": kinds[0 if found.changed[i] else 1],
        }
        for i, unit in enumerate(found.names)
    ]
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X(
            "score:Q",
            title="score, share of the gap",
            scale=alt.Scale(domain=list(across), nice=False, zero=False),
            axis=alt.Axis(tickCount=4, labelExpr=SIGNED, grid=False),
        ),
    )
    y = alt.Y("change:Q", title="change of accuracy", scale=alt.Scale(domain=list(up), nice=False, zero=False),
              axis=alt.Axis(tickCount=5, labelExpr=_SIGNED_PERCENT, grid=False))  # fmt: skip
    tips = [
        alt.Tooltip("name:N", title="unit"),
        alt.Tooltip("score:Q", format="+.4f"),
        alt.Tooltip("change:Q", format="+.2%"),
    ]
    scale = alt.Scale(domain=kinds)
    dots = base.mark_point(filled=True, size=45, opacity=0.85).encode(
        y=y, color=alt.Color("kind:N", scale=scale, title=None), shape=alt.Shape("kind:N", scale=scale, title=None),
        tooltip=tips,
    )  # fmt: skip
    whiskers = base.mark_rule(style=theme.GUIDE).encode(y="low:Q", y2="high:Q")
    named = np.argsort(-np.abs(change), kind="stable")[:_NAMED].tolist()
    places = place_labels([found.names[i] for i in named], score[named], change[named], across, up)
    labels = [
        {"name": found.names[i], "score": number(score[i]), "change": number(change[i]), "dx": dx, "dy": dy}
        for i, (dx, dy) in zip(named, places, strict=True)
    ]
    texts = named_points(data, f"{name}-labels", labels).encode(x="score:Q", y="change:Q", text="name:N")
    return alt.layer(zero_line(x=True), zero_line(x=False), whiskers, dots, texts).properties(height=230)


def _forecasts_table(forecasts: Sequence[Against], name: str) -> Table:
    rows = tuple(
        {"ablation": found.ablation} | {str(key): value for key, value in row.items()}
        for found in forecasts
        for row in found.table().to_dict("records")
    )
    columns = (
        Column("ablation", "ablation"),
        Column("method", "method"),
        Column("units", "units", "whole"),
        Column("r", "r", "signed", 2, help="score against change of accuracy"),
        Column("spearman", "Spearman", "signed", 2),
        Column("forecast", "forecast", "whole", help=f"units with {forecasts[0].rule}"),
        Column("hits", "hits", "whole", help="of these, those whose ablation changes accuracy significantly"),
        Column("changed", "of", "whole", help="all units whose ablation changes accuracy significantly"),
        Column("precision", "precision", "plain", 2),
        Column("recall", "recall", "plain", 2),
        Column("average precision", "average precision", "plain", 2),
    )
    note = f"{forecasts[0].n:,} prompts; McNemar at {forecasts[0].alpha:g} after Holm."
    return Table(f"{name}-forecasts", "What scores foretell of accuracy", columns, rows, note)
