"""Two results side by side as charts: A and B by place, where they differ, one against the other, changed ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number, plural, thin
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.labels import named_points, place_labels
from veracausa.report.charts.maps import limit_of, place_view, shape, zero_line
from veracausa.report.charts.scatters import padded, plane
from veracausa.report.charts.theme import Support
from veracausa.scores.agreement import strongest_of
from veracausa.scores.comparison import Compared, Comparison
from veracausa.words import listed, signed, whole

#: Units that a scatter names.
_NAMED = 6
#: Ranks of a chart of changed ranks that are named.
_NAMED_RANKS = 5
#: Groups of a scatter.
DIFFERS, ALIKE = "differs significantly", "does not"


def comparison_part(found: Comparison, name: str) -> Part:
    """B − A by place of what is compared first, to stand alone."""
    part = _apart(Datasets(inline=True), found.compared[0], name)
    return Part(f"B − A: {found.compared[0].title}", part.view, part.data, part.alt, part.subtitle)


def compared_figures(one: Compared, name: str) -> list[Figure]:
    """All charts of one kind of unit."""
    drawn = [partial(_both, one), partial(_differences, one), partial(_against, one)]
    drawn += [partial(_changes, one)] if len(one.names) > 1 else []
    return [draw(name) for draw in drawn]


def support_of(one: Compared) -> Support:
    """What the signs of A and B mean."""
    return {0: Support.UNSIGNED, 1: Support.POSITIVE, -1: Support.NEGATIVE}[one.supports]


def _both(one: Compared, name: str) -> Figure:
    columns = dict(zip("AB", one.values, strict=True))
    limit, domain = limit_of(np.concatenate(one.values)), padded(list(one.values))
    form, support, parts = shape(one.one.units), support_of(one), []
    for label, values in columns.items():
        data = Datasets()
        view = place_view(
            data, one.one.units, columns, label, f"{name}-{label}", one.unit, limit, support, domain=domain,
            stderr=one.errors["AB".index(label)],
        )  # fmt: skip
        best = int(np.argmax(np.abs(values)))
        what = f"{label}: {one.unit} of {len(values)} {plural(one.one.units.kind)} by place"
        own = support.value.replace(", ", ",\n") if form in ("bars", "ranking") else ""
        parts.append(Part(label, view, data, f"{what}; largest {one.names[best]}, {signed(values[best])}", own))
    scaled = form not in ("bars", "ranking")
    said = f"Both on one scale, {one.unit}." if scaled else f"{one.unit[:1].upper()}{one.unit[1:]}, each by itself."
    return Figure(f"{name}-both", "A and B by place", tuple(parts), said, scale=limit if scaled else None,
                  unit=one.unit, support=support, least=300, width=240)  # fmt: skip


def _differences(one: Compared, name: str) -> Figure:
    part, count = _apart(Datasets(), one, f"{name}-apart"), int(one.differs.sum())
    said = f"{whole(count)} of {whole(len(one.names))} differ significantly; {one.how}."
    if count and shape(one.one.units) in ("map", "positions", "spans"):
        said = f"Dots: {said}"
    return Figure(f"{name}-apart", "Where they differ: B − A", (part,), said, least=320, width=420)


def _apart(data: Datasets, one: Compared, name: str) -> Part:
    """B − A by place; in maps a dot stands on what differs significantly."""
    value, error, _ = one.found
    columns = {"B − A": value, "A": one.values[0], "B": one.values[1], "p (Holm)": one.p_holm}
    units, limit, support = one.one.units, limit_of(value), Support.DIFFERENCE
    view: Any = place_view(
        data, units, columns, "B − A", name, f"B − A, {one.unit}", limit, support, stderr=error, domain=padded([value])
    )
    if one.differs.any() and shape(units) in ("map", "positions", "spans"):
        view = alt.layer(view, _dots(data, one, name, view))
    best = int(np.argmax(np.abs(value)))
    text = f"B − A of {len(value)} {plural(units.kind)}; largest {one.names[best]}, {signed(value[best])}"
    return Part("", view, data, text, f"{support.value}, {one.unit}")


def _dots(data: Datasets, one: Compared, name: str, view: Any) -> alt.Chart:
    """A dot on every cell of a map that differs significantly."""
    names = {unit for unit, differs in zip(one.names, one.differs, strict=True) if differs}
    rows = [row for row in _rows(data, view, name) if row["name"] in names]
    marks = alt.Chart(data.add(f"{name}-differs", rows)).mark_point(style=theme.EXACT, filled=True, size=14, opacity=1)
    return marks.encode(x=view.encoding.x, y=view.encoding.y, tooltip=view.encoding.tooltip)


def _rows(data: Datasets, view: Any, name: str) -> list[Row]:
    """The records of a chart, wherever they are kept."""
    return list(view.data.values) if data.inline else data[name]


def _against(one: Compared, name: str) -> Figure:
    x, y = one.values
    data, span = Datasets(), padded(list(one.values))
    order = np.lexsort((-np.abs(one.found.value), ~one.differs))[:_NAMED].tolist()
    rows: list[Row] = [
        {"name": one.names[i], "x": number(x[i]), "y": number(y[i]), "p": number(one.p_holm[i]),
         "group": DIFFERS if one.differs[i] else ALIKE}
        for i in thin(x, y, keep=order)
    ]  # fmt: skip
    groups = [ALIKE, DIFFERS]
    tips = [alt.Tooltip("name:N", title="unit"), alt.Tooltip("x:Q", title="A", format="+.5f"),
            alt.Tooltip("y:Q", title="B", format="+.5f"),
            alt.Tooltip("p:Q", title="p (Holm)", format=".3g")]  # fmt: skip
    points = alt.Chart(data.add(f"{name}-points", rows)).mark_point(filled=True, size=30, opacity=0.6)
    scale = alt.Scale(domain=groups)
    points = points.encode(
        color=alt.Color("group:N", scale=scale, title=None), shape=alt.Shape("group:N", scale=scale, title=None),
        tooltip=tips,
    )  # fmt: skip
    places = place_labels([one.names[i] for i in order], x[order], y[order], span, span)
    labels = [{"name": one.names[i], "x": number(x[i]), "y": number(y[i]), "dx": dx, "dy": dy}
              for i, (dx, dy) in zip(order, places, strict=True)]  # fmt: skip
    texts = named_points(data, f"{name}-labels", labels).encode(x="x:Q", y="y:Q", text="name:N")
    diagonal = alt.Chart(alt.InlineData(values=[{}])).mark_rule(style=theme.DIAGONAL, clip=True)
    low, high = span
    line = diagonal.encode(x=alt.datum(low), y=alt.datum(low), x2=alt.datum(high), y2=alt.datum(high))
    view = plane(
        [points, texts], [zero_line(x=True), zero_line(x=False), line], span, span, f"A, {one.unit}", f"B, {one.unit}"
    )
    said = f"On the dashed line both are equal; named are {listed([one.names[i] for i in order])}."
    part = Part("", view, data, f"Scatter of B against A, {len(x)} points")
    return Figure(f"{name}-against", "One against the other", (part,), said, least=320, width=420)


def _changes(one: Compared, name: str) -> Figure:
    """Ranks of the strongest units of A or of B, each a line from A to B."""
    top = strongest_of(len(one.names))
    among = np.flatnonzero((one.ranks[0] <= top) | (one.ranks[1] <= top)).tolist()
    said = f"The {top} strongest of A and of B by |value|; a line is a unit, on top the strongest."
    names, ranks = [one.names[i] for i in among], [ranks[among] for ranks in one.ranks]
    return ranks_figure(name, names, ranks, "unit", said, named=top)


def ranks_figure(
    name: str, names: Sequence[str], ranks: Sequence[np.ndarray], what: str, said: str, *, named: int
) -> Figure:
    """Ranks of some units (or of `what` they are) in A and in B, each a line from A to B.

    `named`: ranks that have a name beside them, at most `_NAMED_RANKS`: farther down names would lie over each other.
    """
    named = min(named, _NAMED_RANKS)
    data = Datasets()
    rows: list[Row] = [
        {"name": one, "result": result, "rank": int(own[i]), "change": int(ranks[0][i] - ranks[1][i])}
        for i, one in enumerate(names) for result, own in zip("AB", ranks, strict=True)
    ]  # fmt: skip
    most = max(row["rank"] for row in rows)
    ticks = [rank for rank in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if rank <= most]
    base = alt.Chart(data.add(f"{name}-ranks", rows)).encode(
        x=alt.X("result:N", title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False),
                scale=alt.Scale(padding=0.9)),
        y=alt.Y("rank:Q", title="rank by size", scale=alt.Scale(type="log", domain=[most * 1.15, 0.87], nice=False),
                axis=alt.Axis(values=ticks, format="~s")),
        detail="name:N",
        tooltip=[alt.Tooltip("name:N", title=what), alt.Tooltip("result:N"), alt.Tooltip("rank:Q", format=",d"),
                 alt.Tooltip("change:Q", title="rises by", format="+,d")],
    )  # fmt: skip
    texts = [
        base.transform_filter(f"datum.result == '{result}' && datum.rank <= {named}")
        .mark_text(style=theme.NAME, align=align, dx=dx)
        .encode(text="name:N")
        for result, align, dx in (("A", "right", -8), ("B", "left", 8))
    ]  # fmt: skip
    lines = base.mark_line(style=theme.GUIDE, strokeWidth=1.5)
    view = alt.layer(lines, base.mark_point(style=theme.EXACT, filled=True, size=26, opacity=1), *texts)
    part = Part(
        "",
        view.properties(height=min(600, max(200, 24 * len(names)))),
        data,
        f"Ranks of {len(names)} {what}s in A and B",
    )
    return Figure(f"{name}-ranks", "Changed ranks", (part,), said, least=320, width=420)
