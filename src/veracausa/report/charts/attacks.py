"""Attacks drawn: f against what the adversary may do, beside random weights, a chart for every budget."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from veracausa.circuits.attacks.attack import INSIDE, RANDOM, Attack
from veracausa.circuits.attacks.budgets import BUDGETS
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part, View

#: f is drawn in here; what lies outside is drawn at the border.
RANGE = (-2.0, 3.0)
#: Ways that f is pushed, in the order of `Attack.ends`.
WAYS = ("down", "up")
ADVERSARY, EACH = "adversary", "adversary (each pair)"
#: Who chose the weights → the dashes of its lines.
DASHES = {ADVERSARY: [1, 0], EACH: [6, 3], RANDOM: [1, 3]}


def attack_figure(found: Attack, name: str) -> Figure:
    """A chart for every budget: how low and how high f was brought with that amount, and the mean of random weights."""
    parts = tuple(
        _part(found, budget, name) for budget in BUDGETS if any(budget == one.budget for one in found.attempts)
    )
    said = " ".join(found.sentences)
    own = parts or (
        Part("nothing outside", _view(_rows(found, "none"), Datasets(inline=True), "", name), Datasets(), said),
    )
    return Figure(name, "What an adversary makes of the rest", own, said, least=280, width=300)


def _part(found: Attack, budget: str, name: str) -> Part:
    data, rows = Datasets(inline=True), _rows(found, budget)
    view = _view(rows, data, BUDGETS[budget], f"{name}-{budget}")
    told = {"sparse": "others restored", "bounded": "weights up to ε", "free": "any weights"}[budget]
    beyond = any(row["f"] != row["drawn"] for row in rows)
    subtitle = "band: f from ½ to 1½; lines: the lowest and highest f"
    subtitle += "; beyond the border: drawn at it" if beyond else ""
    return Part(told, view, data, f"Line chart of f by {BUDGETS[budget]}. {' '.join(found.sentences)}", subtitle)


def _rows(found: Attack, budget: str) -> list[Row]:
    """A record for every amount and way that f was pushed, and one of random weights."""
    ways = {one.way for one in found.attempts if one.budget == budget} & {*WAYS} or {*WAYS}
    asked = {(one.circuit, one.each, one.amount) for one in found.attempts if one.budget == budget and one.by != RANDOM}
    rows = list[Row]()
    for circuit, each, amount in sorted(asked):
        if not amount:
            continue
        name, who = found.circuits[circuit], EACH if each else ADVERSARY
        for way, at in zip(WAYS, found.ends(budget, amount, circuit, each=each), strict=True):
            if way in ways:
                rows.append(_row(name, who, way, amount, float(found.f[at]), float(found.stderr[at])))
        drawn = found.random(budget, amount, circuit)
        if len(drawn) and not each:
            rows.append(_row(name, RANDOM, "", amount, float(drawn.mean()), float("nan")))
    return rows


def _row(circuit: str, who: str, way: str, amount: float, f: float, error: float) -> Row:
    low, high = (float(np.clip(f + side * np.nan_to_num(error), *RANGE)) for side in (-1, 1))
    return {
        "circuit": circuit, "who": who, "way": way, "amount": number(amount), "f": number(f), "stderr": number(error),
        "drawn": number(float(np.clip(f, *RANGE))), "low": number(low), "high": number(high),
    }  # fmt: skip


def _view(rows: list[Row], data: Datasets, title: str, name: str) -> View:
    base = alt.Chart(data.add(name, rows))
    x = alt.X("amount:Q", title=title, scale=alt.Scale(type="log", nice=False), axis=alt.Axis(grid=False, tickCount=4))
    known = [row[key] for row in rows for key in ("low", "high")]
    ends = alt.Scale(domain=[min(0.0, *known, 0.0), max(INSIDE[1] + 0.1, *known, 0.0)], nice=False)
    y = alt.Y("drawn:Q", title="f", scale=ends, axis=alt.Axis(tickCount=6))
    color = alt.Color("circuit:N", title=None, legend=alt.Legend(symbolOpacity=1, columns=1))
    there = [who for who in DASHES if any(row["who"] == who for row in rows)]
    looks = alt.Scale(domain=there, range=[DASHES[who] for who in there])
    legend = alt.Legend(columns=1, symbolType="stroke", symbolSize=300)
    dash = alt.StrokeDash("who:N", title=None, scale=looks, legend=legend)
    tips: list[Any] = [
        alt.Tooltip("circuit:N"), alt.Tooltip("who:N"), alt.Tooltip("way:N", title="pushed"),
        alt.Tooltip("amount:Q", format=",.3~g"),
        alt.Tooltip("f:Q", format="+.3f"), alt.Tooltip("stderr:Q", title="± standard error", format=".3f"),
    ]  # fmt: skip
    inside = alt.Chart(alt.InlineData(values=[{"from": INSIDE[0], "to": INSIDE[1]}]))
    layers = [
        inside.mark_rect(style=theme.GUIDE, opacity=0.08).encode(y="from:Q", y2="to:Q"),
        base.mark_area(opacity=0.13).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color, detail=["who:N", "way:N"]),
        base.mark_line().encode(x=x, y=y, color=color, strokeDash=dash, detail="way:N"),
        base.mark_circle(opacity=1).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    return alt.layer(*layers).properties(height=220)
