"""A counterfactual search on the page: the pairs found with their texts, and what every kind of pair shows."""

from __future__ import annotations

import altair as alt

from veracausa.counterfactuals.searches import Search
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.maps import NAMES
from veracausa.report.tables import Column, Table
from veracausa.words import plain

#: Kinds of pairs on one chart.
DRAWN = 15


def figures(result: Search, name: str) -> list[Figure]:
    """For every unit, its mean |effect| by kind of pair."""
    parts, said = [], []
    for unit in result.names:
        data, frame = Datasets(), result.kinds(unit)[:DRAWN]
        rows: list[Row] = [
            {
                "how": row["how"], "value": number(row["|effect|"]), "low": number(row["|effect|"] - row["stderr"]),
                "high": number(row["|effect|"] + row["stderr"]), "stderr": number(row["stderr"]), "n": int(row["n"]),
            }
            for row in frame.to_dict("records")
        ]  # fmt: skip
        base = alt.Chart(data.add(f"{name}-{unit}", rows))
        y = alt.Y("how:N", title=None, sort=[row["how"] for row in rows], axis=NAMES)
        tips = [alt.Tooltip("how:N", title="pair"), alt.Tooltip("value:Q", title="mean |effect|", format=".3f"),
                alt.Tooltip("stderr:Q", title="± SE", format=".3f"), alt.Tooltip("n:Q", title="prompts")]  # fmt: skip
        bars = base.mark_bar(cornerRadius=1, style=theme.EXACT, opacity=0.3).encode(
            x=alt.X("value:Q", title=f"mean |effect| on {result.pool.metric}", axis=alt.Axis(tickCount=5)),
            y=y,
            tooltip=tips,
        )
        whiskers = base.mark_rule(style=theme.GUIDE).encode(x="low:Q", x2="high:Q", y=y)
        view = alt.layer(bars, whiskers).properties(height=17 * len(rows))
        first, last = rows[0], rows[-1]
        fewest, most = (pick(row["n"] for row in rows) for pick in (min, max))
        over = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        text = f"Bar chart of mean |effect| of {unit} by kind of pair, largest by {first['how']}"
        parts.append(Part(unit, view, data, text, f"by kind of pair, ± standard error; {over} prompts"))
        ends = [
            f"{row['how']} {plain(row['value'], 2)} ± {plain(row['stderr'] or float('nan'), 2)} (n = {row['n']})"
            for row in (first, last)
        ]
        said.append(f"{unit}: {', '.join(ends)}")
    sentence = f"What shows a unit, and what does not, in units of {result.pool.metric}. {'; '.join(said)}."
    return [Figure(name, "Which counterfactual shows a unit", tuple(parts), sentence, least=320, width=280, columns=3)]


def tables(result: Search, name: str) -> list[Table]:
    """The pairs found, with the check on held-out prompts; every kind of pair."""
    found = (
        Column("unit", "unit"), Column("by", "largest by"), Column("how", "kind of pair"), Column("clean", "clean"),
        Column("corrupted", "corrupted"), Column("effect", "effect", "signed", 2),
        Column("own", "by the task's own", "signed", 2), Column("margin", "lead over its site", "signed", 2),
        Column("held-out", "held out: this kind", "plain", 2),
        Column("held-out stderr", "± SE", "plain", 2, csv_only=True),
        Column("held-out own", "held out: own", "plain", 2),
        Column("held-out own stderr", "± SE", "plain", 2, csv_only=True),
        Column("difference", "difference", "signed", 2), Column("difference stderr", "± SE", "plain", 2),
        Column("p", "p", "p"), Column("n", "n", "whole"),
    )  # fmt: skip
    note = (
        f"Effects on {result.pool.metric}. Held out: mean |effect| (or lead) on prompts that were not searched and "
        "share no changed word with the pair found, by this kind of pair and by the task's own corruption of the same "
        "prompts; p: one-sided paired t-test."
    )
    kinds = (
        Column("unit", "unit"), Column("how", "kind of pair"), Column("|effect|", "mean |effect|", "plain"),
        Column("stderr", "± SE", "plain"), Column("effect", "mean effect", "signed"),
        Column("margin", "mean lead over its site", "signed"), Column("n", "prompts", "whole"),
    )  # fmt: skip
    every = [row for unit in result.names for row in _records(result.kinds(unit))]
    return [
        Table(f"{name}-found", "The pairs that show a unit best", found, tuple(_records(result.table())), note),
        Table(f"{name}-kinds", "What every kind of pair shows", kinds, tuple(every), shown=min(30, len(every))),
    ]


def _records(frame: object) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]  # type: ignore[attr-defined]
