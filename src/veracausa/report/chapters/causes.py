"""Why methods disagree, on the page: what each says of the strongest units, the differences, the causes in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from veracausa.causes.differences import DIFFERENCES, LABELS, clear
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, heading, number, plural
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.report.charts.maps import NAMES, SIGNED, ranking_view, zero_line
from veracausa.report.charts.scatters import against_exact, padded
from veracausa.report.charts.theme import Support
from veracausa.report.tables import Column, Table
from veracausa.scores.agreement import agreement
from veracausa.words import joined, plain, whole

if TYPE_CHECKING:
    from veracausa.causes.results import Disagreement
    from veracausa.scores.scores import Scores

#: Units on the chart of all methods, and on each chart of a difference.
DRAWN, BARS = 14, 10
#: Differences on the page: their titles, and what a long bar means.
_TITLES = {
    "curvature": ("Curvature, E − AtP", "the response bends"),
    "interaction": ("Interaction, IG − E", "it matters what else of its layer is replaced"),
    "downstream": ("Downstream, E − D", "what later units make of it"),
    "baseline": ("Baseline, IG(zero) − IG", "zero asks another question"),
}
_SHARE = "share of the gap"


def figures(result: Disagreement, name: str) -> list[Figure]:
    """What every method says of the strongest units; the differences; Shapley values, if there are any."""
    made = [_methods(result, f"{name}-methods"), _differences(result, f"{name}-differences")]
    if "shapley" in result.scores:
        made.append(_shapley(result, f"{name}-shapley"))
    return made


def tables(result: Disagreement, name: str) -> list[Table]:
    """The causes of the outliers in words, and every unit with all its figures."""
    return [_causes_table(result, name), _figures_table(result, name)]


def _over(result: Disagreement) -> str:
    return f"n = {result.n} pair{'' if result.n == 1 else 's'}"


def _methods(result: Disagreement, name: str) -> Figure:
    chosen = result.strongest(DRAWN)
    units = result.units[np.array(chosen)]
    shown = ("atp", "ig", "last-in", "direct")
    values = {LABELS[key]: np.array([result.shares(key)[i].value for i in chosen]) for key in shown}
    exact = np.array([result.shares("exact")[i].value for i in chosen])
    data = Datasets()
    view = ranking_view(data, units, exact, values, name, _SHARE)
    first = result.units.names[chosen[0]]
    parts = [f"{LABELS[key]} {result.share(key, first)}" for key in shown]
    sentence = (
        f"{first}: exact {result.share('exact', first)}, {joined(parts)} ({_over(result)}). Points far from the end of "
        "the bar: that method disagrees with replacing the unit. Last-in: the rest of its layer is replaced already; "
        "direct: later units are held."
    )
    text = (
        f"Bars of exact effects of {len(chosen)} {plural(result.units.kind)} with a point for each method. {sentence}"
    )
    part = Part(
        f"The {len(chosen)} strongest {plural(result.units.kind)}",
        view,
        data,
        text,
        f"bars: exact; {Support.of('noising').signs}; {_over(result)}",
    )
    return Figure(name, "What each method says of the strongest", (part,), sentence, least=420, width=460)


def _differences(result: Disagreement, name: str) -> Figure:
    parts, said = [], []
    for key, (title, meaning) in _TITLES.items():
        if key not in result.figures:
            continue
        shares = result.shares(key)
        order = np.argsort([-abs(share.value) for share in shares], kind="stable")[:BARS].tolist()
        data = Datasets()
        view = _bars(data, result, key, order, f"{name}-{key}")
        strong = [i for i in order if clear(shares[i])]
        names = result.units.names
        text = f"{title}: largest for {names[order[0]]}, {shares[order[0]]}"
        said.append(f"{title.split(',')[0].lower()} {shares[order[0]]} ({names[order[0]]})")
        alt_text = f"Bar chart of {len(order)} {plural(result.units.kind)}. {text}; {len(strong)} clear their noise."
        parts.append(Part(title, view, data, alt_text, f"{meaning}\nthe {len(order)} largest, ± standard error"))
    sentence = (
        f"Largest of each: {joined(said)}; shares of the gap, {_over(result)}. A bar is pale where it lies within "
        "twice its standard error of 0."
        if result.n > 1
        else f"Largest of each: {joined(said)}; shares of the gap of one pair, so that no error is known."
    )
    return Figure(name, "Where the disagreement comes from", tuple(parts), sentence, least=250, width=210)


def _bars(data: Datasets, result: Disagreement, key: str, order: list[int], name: str) -> View:
    shares, names = result.shares(key), result.units.names
    of, minus, _ = DIFFERENCES[key]
    rows: list[Row] = [
        {
            "name": names[i],
            "value": number(shares[i].value),
            "low": number(shares[i].value - shares[i].stderr),
            "high": number(shares[i].value + shares[i].stderr),
            "stderr": number(shares[i].stderr),
            of: number(result.shares(of)[i].value),
            minus: number(result.shares(minus)[i].value),
            "clear": clear(shares[i]),
        }
        for i in order
    ]
    base = alt.Chart(data.add(name, rows))
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=NAMES)
    x = alt.X("value:Q", title=_SHARE, axis=alt.Axis(tickCount=4, labelExpr=SIGNED))
    tips = [
        alt.Tooltip("name:N", title="unit"),
        alt.Tooltip("value:Q", title=key, format="+.4f"),
        alt.Tooltip("stderr:Q", title="± SE", format=".4f"),
        alt.Tooltip(f"{of}:Q", title=LABELS[of], format="+.4f"),
        alt.Tooltip(f"{minus}:Q", title=LABELS[minus], format="+.4f"),
    ]
    layers: list[alt.Chart] = []
    for is_clear, opacity in ((True, 0.7), (False, 0.22)):
        bars = base.mark_bar(cornerRadius=1, style=theme.EXACT, opacity=opacity)
        layers.append(bars.transform_filter(f"{'' if is_clear else '!'}datum.clear").encode(x=x, y=y, tooltip=tips))
    layers.append(zero_line(x=True))
    if result.n > 1:
        layers.append(base.mark_rule(style=theme.GUIDE).encode(x="low:Q", x2="high:Q", y=y))
    return alt.layer(*layers).properties(height=17 * len(rows))


def _shapley(result: Disagreement, name: str) -> Figure:
    referee, parts, said = result.scores["shapley"], [], []
    compared = [agreement(result.scores[key], referee) for key in ("exact", "last-in", "ig")]
    span = padded([np.concatenate([one.exact, one.estimate]) for one in compared])
    for key, found in zip(("exact", "last-in", "ig"), compared, strict=True):
        data, label = Datasets(), LABELS[key] if key != "exact" else "exact (first-in)"
        view = against_exact(data, found, frozenset(), f"{name}-{key}", span, ("Shapley value", label))
        text = f"Scatter of {label} effects against Shapley values, r {plain(found.r)}"
        far = plain(float(np.abs(found.estimate - found.exact).mean()), 4)
        parts.append(Part(label, view, data, text, f"r {plain(found.r)}, mean distance {far}"))
        said.append(f"{label} {far}")
    drawn = _sampling(referee)
    sentence = f"Mean distance from the Shapley values: {joined(said)} of the gap ({_over(result)}).{drawn}"
    return Figure(name, "Shapley values as the referee", tuple(parts), sentence, least=270, width=250)


def _sampling(referee: Scores) -> str:
    """How far sampling alone puts a unit's mean off; nothing to say where all coalitions were run."""
    if referee.settings["permutations"] == "all" or referee.draw_stderr is None:
        return " All coalitions were run."
    error = referee.draw_stderr.square().sum(0).sqrt() / referee.n / referee.gap.mean().abs()
    return (
        f" {referee.settings['permutations']} permutations of each pair and layer were drawn; the largest standard "
        f"error of a mean from that alone is {plain(float(error.max()), 4)}."
    )


def _causes_table(result: Disagreement, name: str) -> Table:
    rows: list[dict[str, Any]] = [
        {
            "unit": cause.unit,
            "method": LABELS[cause.method],
            "cause": cause.cause + (f" ({cause.where})" if cause.where else ""),
            "estimate": cause.figures[cause.method].value,
            "exact": cause.figures["exact"].value,
            "error": cause.figures["error"].value,
            "stderr": cause.figures["error"].stderr,
            "n": cause.n,
            "sentences": " ".join(cause.sentences),
        }
        for cause in result.causes
    ]
    counts = Counter(cause.cause for cause in result.causes)
    note = (
        "Outliers of the mean–difference analysis of each method; "
        f"{joined([f'{cause} {whole(count)}' for cause, count in counts.most_common()])}."
    )
    columns = (
        Column("unit", "unit"),
        Column("method", "method"),
        Column("cause", "cause"),
        Column("estimate", "estimate", "signed"),
        Column("exact", "exact", "signed"),
        Column("error", "estimate − exact", "signed"),
        Column("stderr", "± SE", "plain"),
        Column("n", "n", "whole", csv_only=True),
        Column("sentences", "what the numbers say"),
    )
    return Table(f"{name}-causes", "Why the outliers are outliers", columns, tuple(rows), note)


def _figures_table(result: Disagreement, name: str) -> Table:
    frame, order = result.table(), result.strongest(len(result.units))
    rows = tuple({str(key): value for key, value in row.items()} for row in frame.iloc[order].to_dict("records"))
    place = [key for key in result.units.table().columns if key != "name"]
    columns = [Column("name", "unit"), *(Column(key, key, "index", csv_only=True) for key in place)]
    for key in result.figures:
        columns.append(Column(key, LABELS.get(key, key), "signed"))
        columns.append(Column(f"stderr: {key}", f"± SE of {key}", "plain", csv_only=key != "exact"))
    columns += [
        Column("site", "within its layer", help="redundancy: |F| > |E|; synergy: |F| < |E|; empty: not clear"),
        Column("backup", "backup", help="later units clearly work against its direct effect"),
        Column("n", "n", "whole", csv_only=True),
    ]
    for row in rows:
        row["backup"] = "backup" if row["backup"] else ""
    shown = min(25, len(rows))
    title = f"{heading(result.units.kind, '')}: every figure"
    note = (
        f"Shares of the mean gap, {_over(result)}; the strongest by |E|, |F| or |D| first. The CSV has all "
        f"{whole(len(rows))}, with standard errors."
    )
    return Table(f"{name}-disagreement", title, tuple(columns), rows, note, shown)
