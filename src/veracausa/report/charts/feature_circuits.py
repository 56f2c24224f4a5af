"""A circuit of features drawn: nodes by layer (and token), the early ones below, and the edges between them."""

from __future__ import annotations

import json
import re
from itertools import count
from typing import TYPE_CHECKING

import altair as alt

from veracausa.circuits.featured import FeatureCircuit
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part
from veracausa.report.charts.theme import Support
from veracausa.report.readable import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Edges that are drawn, the strongest; and nodes that no drawn edge touches.
SHOWN, BESIDE = 60, 20
#: Nodes of a row that are named, at most.
NAMED = 3
#: What the colours say, in the order of the theme's range "ordinal".
SIGNS = ["works against", "neither", "supports"]
_END = "logits"
#: Where a node stands: across, and its row.
Places = dict[str, tuple[float, float]]


def feature_circuit_part(found: FeatureCircuit, name: str) -> Part:
    """Nodes in rows by layer; edges by colour (sign) and width (size); errors are squares."""
    data, edges, nodes = Datasets(inline=True), found.table().head(SHOWN), found.node_table()
    ends = {*edges["upstream"], *edges["downstream"]}
    drawn = [one for i, one in enumerate(nodes["name"]) if one in ends or i < BESIDE]
    tokens = found.settings.get("tokens") or []
    place = _places([*drawn, *([_END] if _END in ends else [])], tokens)
    strength = dict(zip(nodes["name"], nodes["effect"], strict=True))
    points: list[Row] = [
        {
            "name": readable(one), "x": across, "y": up, "effect": number(strength.get(one, float("nan"))),
            "sign": _sign(strength.get(one, 0.0)), "kind": _kind(one), "label": readable(one.partition("@")[0]),
        }
        for one, (across, up) in place.items()
    ]  # fmt: skip
    x, y = _axes(place, tokens)
    color = alt.Color("sign:N", scale=alt.Scale(domain=SIGNS, range=alt.RangeEnum("ordinal")), legend=None)
    tips = [alt.Tooltip("upstream:N"), alt.Tooltip("downstream:N"), alt.Tooltip("effect:Q", format="+.4f")]
    width = alt.StrokeWidth("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.4, 4]), legend=None)
    lines = alt.Chart(data.add(f"{name}-edges", _lines(found, place))).mark_rule(opacity=0.65).encode(
        x=x, y=y, x2="x2:Q", y2="y2:Q", color=color, strokeWidth=width, tooltip=tips
    )  # fmt: skip
    shapes = alt.Scale(domain=["feature", "error", _END], range=["circle", "square", "diamond"])
    dots = alt.Chart(data.add(name, points)).mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, color=color, tooltip=[alt.Tooltip("name:N"), alt.Tooltip("effect:Q", format="+.4f")],
        shape=alt.Shape("kind:N", scale=shapes, legend=alt.Legend(title=None, symbolSize=60)),
    )  # fmt: skip
    named = [
        points[i] | {"at": points[i]["y"] + (0.26 if points[i]["y"] else -0.26)}
        for i in _apart([*place.values()], len(tokens))
    ]
    words = alt.Chart(data.add(f"{name}-names", named)).mark_text(style=theme.NAME)
    words = words.encode(x=x, y=_axes(place, tokens, "at:Q")[1], text="label:N")
    rows = len({up for _, up in place.values()})
    view = alt.layer(lines, dots, words).properties(height=64 * max(3, rows))
    first, said = found.describe().splitlines()[0], " ".join(found.sentences)
    return Part("A circuit of features", view, data, said, f"{first}\n{Support.NEGATIVE.value}; squares are errors")


def _lines(found: FeatureCircuit, place: Places) -> list[Row]:
    edges = found.table().head(SHOWN)
    most = max(edges["effect"].abs().max(), 1e-12) if len(edges) else 1.0
    lines: list[Row] = []
    for row in edges.itertuples():
        if row.upstream not in place or row.downstream not in place:
            continue
        spots = dict(zip(("x", "y", "x2", "y2"), (*place[row.upstream], *place[row.downstream]), strict=True))
        ends = {"upstream": readable(row.upstream), "downstream": readable(row.downstream)}
        what = {"effect": number(row.effect), "sign": _sign(row.effect), "size": number(abs(row.effect) / most)}
        lines.append({**spots, **ends, **what})
    return lines


def _axes(place: Places, tokens: Sequence[str], up: str = "y:Q") -> tuple[alt.X, alt.Y]:
    """Tokens across, where nodes are at positions; layers upward, by the column `up`."""
    across = [x for x, _ in place.values()] or [0.0]
    low, high = (-0.5, len(tokens) - 0.5) if tokens else (min(across) - 0.8, max(across) + 0.8)
    texts = json.dumps([readable(token.strip() or "␣") for token in tokens])
    axis = alt.Axis(values=[*range(len(tokens))], labelExpr=f"{texts}[datum.value]", labelAngle=-50, grid=False,
                    domain=False, ticks=False, labelOverlap=False) if tokens else None  # fmt: skip
    names = {row: (_END if one == _END else str(_layer(one))) for one, (_, row) in place.items()}
    layers = json.dumps([names[row] for row in sorted(names)])
    rows = alt.Axis(values=sorted(names), labelExpr=f"{layers}[datum.value]", grid=False, domain=False, ticks=False)
    top = max(names, default=0.0) + 0.6
    return (
        alt.X("x:Q", title=None, axis=axis, scale=alt.Scale(domain=[low, high], nice=False)),
        alt.Y(up, title="layer", axis=rows, scale=alt.Scale(domain=[-0.5, top], nice=False)),
    )


def _places(names: Sequence[str], tokens: Sequence[str]) -> Places:
    """Where each node stands: layer by layer upwards; at its token, else around the middle in the order given.

    >>> _places(["f10.3", "f20.1", "f20.error"], ())
    {'f10.3': (0.0, 0.0), 'f20.1': (0.0, 1.0), 'f20.error': (-1.0, 1.0)}
    """
    rows = {layer: float(i) for i, layer in enumerate(sorted({_layer(one) for one in names}))}
    together: dict[tuple[int, int], list[str]] = {}
    for one in names:
        at = one.partition("@")[2]
        position = len(tokens) - 1 if one == _END else int(at) if at else 0
        together.setdefault((position if tokens else 0, _layer(one)), []).append(one)
    found = Places()
    for (position, layer), members in together.items():
        for i, one, other in zip(count(), members, _around(len(members)), strict=False):
            across = position + (i + 0.5) / len(members) * 0.8 - 0.4 if tokens else other
            found[one] = across, rows[layer]
    return found


def _around(many: int) -> list[float]:
    """0, −1, 1, −2, 2, …"""
    return [float((i + 1) // 2 * (-1 if i % 2 else 1)) for i in range(many)]


def _apart(spots: Sequence[tuple[float, float]], tokens: int = 0) -> list[int]:
    """Which nodes are named, the strongest first: of a row a few, none close to another one that is.

    `tokens`: how many there are across, if any.
    """
    across = [x for x, _ in spots]
    wide, named = tokens or max(across, default=0) - min(across, default=0), list[int]()
    for i, (x, y) in enumerate(spots):
        row = [spots[j][0] for j in named if spots[j][1] == y]
        if len(row) < NAMED and all(abs(x - other) > wide / (NAMED + 1) for other in row):
            named.append(i)
    return named


def _layer(name: str) -> int:
    match = re.match(r"[a-z]+(\d+)", name)
    return int(match[1]) if match else 1 << 20


def _kind(name: str) -> str:
    return _END if name == _END else "error" if name.partition("@")[0].endswith(".error") else "feature"


def _sign(effect: float) -> str:
    return SIGNS[2] if effect < 0 else SIGNS[0] if effect > 0 else SIGNS[1]
