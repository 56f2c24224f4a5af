"""Removal curves drawn: sets of the strongest units together, their singles' sum, and the interactions of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.effects.removals import RemovalCurve
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.maps import SIGNED, limit_of, zero_line
from veracausa.report.charts.matrices import matrix_view

#: Which line is which.
LINES = {"together": "the strongest together", "sum": "the sum of their singles", "rest": "all but the strongest"}


def removal_figure(found: RemovalCurve, name: str) -> Figure:
    """Effects by size, and the matrix of interactions where pairs were run."""
    parts = (_curves(found, f"{name}-sizes"), *([_matrix(found, f"{name}-pairs")] if found.pairs is not None else []))
    return Figure(name, "Singles do not add up", parts, " ".join(found.sentences), least=320, width=340)


def _curves(found: RemovalCurve, name: str) -> Part:
    """Three lines by size with 95% intervals over pairs."""
    rows, data = list[Row](), Datasets(inline=True)
    for figure, line in LINES.items():
        value = found.mean(figure)[0].tolist()
        low, high = (end.tolist() for end in found.interval(figure))
        for i, size in enumerate(found.sizes):
            ends = {"low": number(_or(low[i], value[i])), "high": number(_or(high[i], value[i]))}
            rows.append({"kind": line, "units": size, "effect": number(value[i]), **ends})
    rows = [row for row in rows if row["effect"] is not None]
    base = alt.Chart(data.add(name, rows))
    x = alt.X("units:Q", title="units taken, strongest first", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(grid=False, tickCount=5))  # fmt: skip
    y = alt.Y("effect:Q", title=f"effect, {found.scale}", axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    key = alt.Legend(title=None, orient="top", columns=1, symbolOpacity=1)
    color = alt.Color("kind:N", scale=alt.Scale(domain=[*LINES.values()]), legend=key)
    tips = [alt.Tooltip("kind:N"), alt.Tooltip("units:Q"), alt.Tooltip("effect:Q", format="+.4f")]
    layers = [
        zero_line(x=False),
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        base.mark_line(point=True).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    view = alt.layer(*layers).properties(height=230)
    return Part("Together and one by one", view, data, " ".join(found.sentences), "bands: 95% intervals over pairs")


def _or(end: float, value: float) -> float:
    """The end of an interval; the value itself where none is known."""
    return end if np.isfinite(end) else value


def _short(names: Sequence[str]) -> list[str]:
    """Names without their stem, where all have the same.

    >>> _short(["m5.down.c0", "m5.down.c12"]), _short(["a9.h6", "m3"])
    (['c0', 'c12'], ['a9.h6', 'm3'])
    """
    one_stem = len({name.rpartition(".")[0] for name in names}) == 1
    return [name.rpartition(".")[2] for name in names] if one_stem else list(names)


def _matrix(found: RemovalCurve, name: str) -> Part:
    values, errors = found.interactions()
    data, names, limit = Datasets(inline=True), _short(found.ranked[: len(values)]), limit_of(values)
    view = matrix_view(
        data, name, values, names, names, "E of both − the sum of singles", limit, stderr=errors, angle=-40,
        digits=2 if limit >= 0.1 else 4,
    )  # fmt: skip
    told = f"E of both − E of each, {found.scale}; 0: they add up"
    return Part("Interactions of the strongest", view, data, found.sentences[-1], told)
