"""Corruptions compared on the page: effects side by side, how ranks move, what agrees; and what heads look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import altair as alt
import numpy as np

from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.roles import NONE, ROLES, HeadRoles
from veracausa.report.charts.data import Datasets, Row, heading, number, plural
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.report.charts.maps import limit_of
from veracausa.report.charts.matrices import matrix_view
from veracausa.report.charts.theme import Support
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.words import joined, plain, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Units on the charts.
DRAWN = 14
#: Height of the chart of ranks, in pixels, and how names stand at its ends.
_BUMP = 320
_LEFT: Literal["right"] = "right"
_RIGHT: Literal["left"] = "left"


def figures(result: CounterfactualComparison, name: str, roles: HeadRoles | None = None) -> list[Figure]:
    """Effects of the strongest units under every corruption, how their ranks move, and what agrees.

    `roles`: what heads look at, written beside their names.
    """
    return [
        _effects(result, f"{name}-effects", roles),
        _ranks(result, f"{name}-ranks"),
        _agreement(result, f"{name}-agreement"),
    ]


def tables(result: CounterfactualComparison, name: str, roles: HeadRoles | None = None) -> list[Table]:
    """Every unit under every corruption; which are shown by one and not by another; what heads look at."""
    made = [_contrasts(result, f"{name}-shown", roles), _units(result, f"{name}-units")]
    return [*made, roles_table(roles, f"{name}-roles")] if roles is not None else made


def _largest(result: CounterfactualComparison) -> list[int]:
    size = np.max([np.abs(result.mean(one)) for one in result.names], axis=0)
    return np.argsort(-size, kind="stable")[:DRAWN].tolist()


def _label(unit: str, roles: HeadRoles | None) -> str:
    role = roles.role(unit) if roles is not None and unit in roles.units.names else NONE
    return unit if role == NONE else f"{unit} · {role}"


def _effects(result: CounterfactualComparison, name: str, roles: HeadRoles | None) -> Figure:
    chosen, data = _largest(result), Datasets()
    units = result.one.units.names
    means = np.stack([result.mean(one)[chosen] for one in result.names], 1)
    errors = np.stack([result.errors[one][chosen] for one in result.names], 1)
    view = matrix_view(
        data, name, means, [_label(units[u], roles) for u in chosen], result.names,
        f"effect, share of {result.widest}'s gap", limit_of(means), Support.of(result.one.direction), stderr=errors,
    )  # fmt: skip
    contrasts = list(result.contrasts().items())
    said = []
    for unit, (a, hiding) in contrasts[:3]:
        u = result.one.units.find(unit)
        effects = [f"{one} {signed(float(result.mean(one)[u]), 2)}" for one in (a, *hiding)]
        said.append(f"{unit} ({joined(effects)})")
    sentence = (
        f"Which {plural(result.one.units.kind)} have an effect depends on what the counterfactual changes. "
        + (f"Shown by one and not by another: {joined(said)}. " if said else "")
        + f"n = {result.n} clean prompts, the same in every column."
    )
    text = f"Grid of effects of {len(chosen)} units under {len(result.names)} corruptions. {sentence}"
    part = Part("", view, data, text, "same clean prompts, other corrupted prompts")
    return Figure(name, "What each counterfactual shows", (part,), sentence, least=420, width=72 * len(result.names))


def _ranks(result: CounterfactualComparison, name: str) -> Figure:
    real = np.any([(result.p[one] < 0.05) & (np.abs(result.mean(one)) >= result.least) for one in result.names], axis=0)
    chosen = [u for u in _largest(result) if real[u]][:9] or _largest(result)[:9]
    names, data = result.one.units.names, Datasets()
    ranks = {one: result.rank(one) for one in result.names}
    rows: list[Row] = [
        {"name": names[u], "corruption": one, "rank": number(ranks[one][u]), "effect": number(result.mean(one)[u])}
        for u in chosen
        for one in result.names
    ]
    view = _bump(data, rows, result.names, len(result.one), name)
    best = max(chosen, key=lambda u: max(ranks[one][u] for one in ranks) / min(ranks[one][u] for one in ranks))
    places = joined([f"{plain(float(ranks[one][best]), 0)} by {one}" for one in result.names])
    sentence = (
        f"Of these {len(chosen)} {plural(result.one.units.kind)}, {names[best]} moves most: its rank among "
        f"{len(result.one):,} is {places} (n = {result.n})."
    )
    part = Part("", view, data, f"Lines of ranks. {sentence}", "rank by |effect|, 1 the strongest; log scale")
    return Figure(name, "How ranks move with the counterfactual", (part,), sentence, least=420, width=460)


def _bump(data: Datasets, rows: list[Row], order: Sequence[str], count: int, name: str) -> View:
    x = alt.X("corruption:N", sort=list(order), title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False),
              scale=alt.Scale(padding=0.75))  # fmt: skip
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= count]
    y = alt.Y("rank:Q", title="rank", scale=alt.Scale(type="log", reverse=True, domain=[0.85, count * 1.1], nice=False),
              axis=alt.Axis(values=ticks, format="d", domain=False))  # fmt: skip
    tips = [alt.Tooltip("name:N", title="unit"), alt.Tooltip("corruption:N"), alt.Tooltip("rank:Q", format=".0f"),
            alt.Tooltip("effect:Q", format="+.4f")]  # fmt: skip
    base = alt.Chart(data.add(name, rows)).encode(x=x, y=y, color=alt.Color("name:N", legend=None), tooltip=tips)
    lines = base.mark_line(strokeWidth=2, opacity=0.75)
    points = base.mark_point(filled=True, size=45, opacity=1)
    left, right = (
        alt.Chart(data.add(f"{name}-{end}", _spread([row for row in rows if row["corruption"] == end], count)))
        .mark_text(align=align, dx=dx, fontSize=10.5)
        .encode(x=x, y="at:Q", color=alt.Color("name:N", legend=None), text="name:N")
        for end, align, dx in ((order[0], _LEFT, -8), (order[-1], _RIGHT, 8))
    )
    return alt.layer(lines, points, left, right).properties(height=_BUMP)


def _spread(rows: list[Row], count: int) -> list[Row]:
    """Names at one end of the lines, with the rank at which each is written so that they do not lie on each other."""
    step = np.log(count * 1.1 / 0.85) * 12 / _BUMP  # a line of text, as a difference of log rank
    placed: list[Row] = []
    lowest = -np.inf
    for row in sorted(rows, key=lambda row: float(row["rank"])):
        lowest = max(np.log(row["rank"]), lowest + step)
        placed.append(row | {"at": number(np.exp(lowest))})
    return placed


def _agreement(result: CounterfactualComparison, name: str) -> Figure:
    parts = []
    titles = {"jaccard": f"Jaccard of the {result.top} strongest", "spearman": "Spearman of all by |effect|"}
    for by, title in titles.items():
        data = Datasets()
        values = result.correlations(by).to_numpy()
        view = matrix_view(data, f"{name}-{by}", values, result.names, result.names, "agreement", 1.0)
        parts.append(Part(title, view, data, f"Grid of {title}"))
    jaccard = result.correlations("jaccard")
    pairs = [(a, b) for i, a in enumerate(result.names) for b in result.names[i + 1 :]]
    near, far = (pick(pairs, key=lambda pair: float(jaccard.loc[pair])) for pick in (max, min))
    sentence = (
        f"{near[0]} and {near[1]} find the most alike tops (Jaccard {plain(float(jaccard.loc[near]), 2)}), {far[0]} "
        f"and {far[1]} the least ({plain(float(jaccard.loc[far]), 2)}); {len(result.one):,} "
        f"{plural(result.one.units.kind)}, n = {result.n}."
    )
    return Figure(name, "Which counterfactuals agree", tuple(parts), sentence, least=300, width=58 * len(result.names))


def _contrasts(result: CounterfactualComparison, name: str, roles: HeadRoles | None) -> Table:
    rows = []
    for unit, (a, hiding) in result.contrasts().items():
        u = result.one.units.find(unit)
        row: dict[str, object] = {"unit": unit, "shown by": a, "not by": ", ".join(hiding), "n": result.n}
        row["effect"], row["stderr"] = float(result.mean(a)[u]), float(result.errors[a][u])
        row["most"] = max(abs(float(result.mean(b)[u])) for b in hiding)
        row["role"] = roles.said(unit) if roles is not None and unit in roles.units.names else ""
        rows.append(row)
    columns = (
        Column("unit", "unit"), Column("shown by", "shown by"), Column("effect", "effect", "signed"),
        Column("stderr", "± SE", "plain"), Column("not by", "not by"),
        Column("most", "|effect| there, at most", "plain"),
        *([Column("role", "by attention")] if roles is not None else []), Column("n", "n", "whole"),
    )  # fmt: skip
    note = (
        "An effect that differs from 0, and under the others less than a third of it, prompt by prompt (t-tests, "
        f"Holm at 0.05 over all {plural(result.one.units.kind)}); shares of {result.widest}'s mean gap."
    )
    return Table(name, "Shown by one counterfactual, not by another", columns, tuple(rows), note)


def _units(result: CounterfactualComparison, name: str) -> Table:
    frame = result.table()
    columns = [Column("name", "unit")]
    for one in result.names:
        columns += [
            Column(f"effect: {one}", one, "signed"), Column(f"stderr: {one}", f"± SE of {one}", "plain", csv_only=True),
            Column(f"rank: {one}", f"rank, {one}", "index"), Column(f"p: {one}", f"p, {one}", "p", csv_only=True),
        ]  # fmt: skip
    columns.append(Column("n", "n", "whole", csv_only=True))
    rows = tuple({str(key): value for key, value in row.items()} for row in frame.to_dict("records"))
    title = f"{heading(result.one.units.kind, '')} under every counterfactual"
    note = f"Shares of {result.widest}'s mean gap, n = {result.n}; the CSV has standard errors and p-values, too."
    return Table(name, title, tuple(columns), rows, note, min(SHOWN, 20))


def roles_table(roles: HeadRoles, name: str) -> Table:
    """Every head's kind by attention, those that have one first."""
    frame = roles.table()
    best = np.nan_to_num(roles.attention, nan=0.0).max(0)
    frame = frame.iloc[np.argsort(-best, kind="stable")]
    columns = [Column("name", "head"), Column("role", "kind by attention")]
    for role in ROLES:
        columns += [
            Column(role, role, "plain", 2),
            Column(f"stderr: {role}", f"± SE of {role}", "plain", csv_only=True),
        ]
        columns.append(Column(f"n: {role}", f"n of {role}", "whole", csv_only=True))
    rows = tuple({str(key): value for key, value in row.items()} for row in frame.to_dict("records"))
    shown = sum(role != NONE for role in roles.roles)
    return Table(name, "What heads look at", tuple(columns), rows, " ".join(roles.sentences), max(5, shown))
