"""The stream read at every layer, and what each write adds to the logits: lines, a map of heads, bars of MLPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from veracausa.reading.attributions import LogitAttribution, kind_of
from veracausa.reading.lenses import Lens
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Figure, Part, View
from veracausa.report.charts.maps import SIGNED, limit_of, place_view, zero_line
from veracausa.report.charts.strengths import bars_view
from veracausa.report.charts.theme import Support
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.statistics.means import standard_error
from veracausa.units.kinds import Kind
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_RUN = "run:N"
#: What mixes positions, as headings.
_MIXING = {"heads": "Attention heads", "mixers": "Mixers"}
#: What the kinds of rows are called beside bars.
_WORDS = {"embeddings": "embeddings", "heads": "all heads", "mixers": "all mixers", "mlps": "all MLPs",
          "neurons": "all split neurons", "biases": "biases of blocks",
          "constants": "norm and unembedding"}  # fmt: skip


def lens_figures(found: Lens, name: str) -> list[Figure]:
    """The metric over the layers, and beside it the rank of the answer, where that is known."""
    metric = found.task["metric"]
    parts = [_line(found, f"{name}-metric", f"Mean {metric}", metric, found.metric.mean(2))]
    if found.answered:
        rank = found.rank.double().quantile(0.5, dim=2)
        parts.append(_line(found, f"{name}-rank", "Median rank of the answer", "rank (1: likeliest)", rank, log=True))
    return [Figure(name, "What the stream says at every layer", tuple(parts), " ".join(found.sentences), width=420)]


def lens_tables(found: Lens, name: str) -> list[Table]:
    """Every point of every run."""
    columns = (
        Column("run", "run"), Column("point", "stream"), Column("metric", found.task["metric"], "signed"),
        Column("stderr", "± SE", "plain"), Column("probability", "probability", "plain"),
        Column("rank", "median rank", "plain", 1), Column("right", "likeliest", "percent", 0),
        Column("token", "says most"), Column("n", "n", "whole", csv_only=True),
    )  # fmt: skip
    table = found.table()
    rows = tuple(dict(row) for row in table.to_dict("records"))
    known = tuple(column for column in columns if column.key in table)
    return [Table(name, "The stream as the final norm and the unembedding read it", known, rows, "", shown=SHOWN)]


def dla_figures(found: LogitAttribution, name: str) -> list[Figure]:
    """Heads as a map, MLPs as bars, and what each kind of write adds."""
    means, limit = found.difference.mean(0).double().numpy(), 0.0
    title, said = f"logits, {found.said}", found.sentences
    mixing = {kind: at for kind in _MIXING if (at := [i for i, own in enumerate(found.kinds) if own == kind])}
    limit = limit_of(means[[row for at in mixing.values() for row in at]])
    parts = [
        _placed(f"{name}-{kind}", _MIXING[kind], _mixing(found, kind, at), means[at], title, limit)
        for kind, at in mixing.items()
    ]
    if any(kind == "mlps" for kind in found.kinds):
        parts.append(_placed(f"{name}-mlps", "MLPs", *_mlps(found), title, limit))
    parts.append(_kinds(found, f"{name}-kinds", title))
    return [Figure(name, f"What adds to {found.task['metric']}", tuple(parts), " ".join(said), width=300, columns=3)]


def dla_tables(found: LogitAttribution, name: str) -> list[Table]:
    """Every write, the strongest first."""
    table = found.table()
    by = "difference" if "difference" in table else "clean"
    table = table.sort_values(by, key=abs, ascending=False, kind="stable")
    columns = [Column("name", "write"), Column("kind", "kind")]
    for run in found.runs:
        columns += [Column(run, run, "signed"), Column(f"{run} stderr", "± SE", "plain")]
    if by == "difference":
        columns += [Column("difference", "difference", "signed"), Column("stderr", "± SE", "plain")]
    rows = tuple(dict(row) for row in table.to_dict("records"))
    note = "Parts of each run’s logits, its final norm’s denominator frozen; they add up to the metric."
    return [Table(name, "What each write adds to the logits", tuple(columns), rows, note, shown=SHOWN)]


def _line(
    found: Lens, name: str, heading: str, title: str, values: Float[Tensor, "runs points"], log: bool = False
) -> Part:
    """A figure over the layers, a line for each run."""
    data, runs = Datasets(), list(found.runs)
    rows: list[Row] = [
        {"run": run, "point": point, "layer": float(depth), "value": number(float(value))}
        for run, own in zip(runs, values, strict=True)
        for point, depth, value in zip(found.points, found.depths, own, strict=True)
    ]
    scale = alt.Scale(type="log", reverse=True) if log else alt.Undefined
    axis = alt.Axis(tickCount=5, format="~s") if log else alt.Axis(tickCount=5, labelExpr=SIGNED)
    base = alt.Chart(data.add(name, rows)).encode(
        x=alt.X("layer:Q", title="layer", scale=alt.Scale(domain=[0, float(found.depths[-1])], nice=False),
                axis=alt.Axis(grid=False, tickMinStep=1, tickCount=8)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=axis),
        color=alt.Color(_RUN, scale=alt.Scale(domain=runs), legend=alt.Legend(title=None, orient="top")),
        tooltip=[alt.Tooltip(_RUN), alt.Tooltip("point:N", title="stream"),
                 alt.Tooltip("value:Q", title=title, format=".4f")],
    )  # fmt: skip
    layers = [] if log else [zero_line(x=False)]
    layers += [base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=18, opacity=1)]
    return Part(heading, alt.layer(*layers).properties(height=230), data, f"Line chart. {heading} over the layers.")


def _mixing(found: LogitAttribution, kind: str, rows: list[int]) -> Units:
    """The heads or mixers of these rows as a table."""
    places = [[int(part[1:]) for part in found.names[row].split(".")] for row in rows]
    layer, index = np.array([(place[0], place[1] if len(place) > 1 else -1) for place in places], dtype=np.int64).T
    own: Kind = "heads" if kind == "heads" else "mixers" if (index < 0).all() else "mixer_heads"
    return Units(own, layer, index, np.full(len(rows), -1))


def _mlps(found: LogitAttribution) -> tuple[Units, np.ndarray]:
    """All MLPs as a table, and what they add; a split one what its neurons and its bias do."""
    sums: dict[int, float] = {}
    for name, value in zip(found.names, found.difference.mean(0).double().tolist(), strict=True):
        if name.startswith("m"):
            layer = kind_of(name)[1]
            sums[layer] = sums.get(layer, 0.0) + value
    none = np.full(len(sums), -1)
    return Units("mlps", np.array(list(sums)), none, none), np.array(list(sums.values()))


def _placed(name: str, heading: str, units: Units, values: np.ndarray, title: str, limit: float) -> Part:
    data = Datasets()
    view = place_view(data, units, {"contribution": values}, "contribution", name, title, limit, Support.POSITIVE)
    return Part(heading, view, data, f"{heading}: what each adds, {title}.")


def _kinds(found: LogitAttribution, name: str, title: str) -> Part:
    data, sums = Datasets(), found.sums()
    values = np.array([float(own.mean()) for own in sums.values()])
    error = np.array([float(standard_error(own[:, None])) for own in sums.values()])
    view: View = bars_view(data, name, [_WORDS[kind] for kind in sums], values, title, stderr=error)
    return Part("Together", view, data, f"Bar chart. All of a kind together, {title}.")
