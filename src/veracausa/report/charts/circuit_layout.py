"""Where the nodes and edges of a circuit lie on a grid: layers × heads, or layers × positions.

**Layers × heads.** One column per head, one for the MLPs; a block's MLP stands half a row above its heads, or beside
them where both are parallel. Mixers stand in the place of heads. `input` and `logits` are bars below and above. An
edge ends left, in the middle or right of a head if it goes into its query, key or value.

**Layers × positions.** One column per token, narrow where nothing happens; heads left, MLPs right in it. An edge lies
at one position, since a reader sees what was written there; what attention carries to later positions has no score of
its own and is drawn as a thin line from the key/value head at its position to the heads of its group where these read a
query or write.

A key/value head of several query heads is a node of its own, joined to those heads that the circuit touches; so is a
mixer with heads, which reads for all of them, and a reader that all heads of a block share: queries stand left of their
heads' midst, keys right.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.anatomy.graph import READERS, Graph, K, Q, V
from veracausa.circuits.nodes import SHARED, Node, ends_of
from veracausa.report.charts.data import Row, number
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float

#: Where a head's query, key and value edges end: left, in the middle, right, in columns of positions, or in shares of
#: the x axis on the grid of heads.
_SIDES = {Q: -1.0, K: 0.0, V: 1.0}
_ASIDE, _ASIDE_SHARE = 0.05, 0.008
#: Width of the column of a position that nothing touches; where in a column heads and MLPs stand.
_NARROW = 0.2
_LANES = {"head": -0.13, "kv": -0.13, "mixer": -0.13, "mixer head": -0.13, "mlp": 0.3}
_LANES |= dict.fromkeys(SHARED.values(), -0.13)
#: How far beside the midst of its heads a reader stands that all of them share, in columns.
_BESIDE = {"queries": -0.25, "keys": 0.25, "keys and values": 0.25}
#: Rows from the lowest layer down to `input`, and from the highest up to `logits`.
_BELOW, _ABOVE = 1.5, 1.5
#: Longest token text on the axis.
_TEXT = 12


@dataclass(frozen=True)
class Layout:
    """Records to draw: nodes (`seen`: an edge of theirs is drawn), edges from the weakest to the strongest, joins
    (key/value head to head), empty places.

    `columns`, `rows`: where the axes are labelled, and with what. `across`, `up`: ranges of both axes. `positional`: on
    the grid of positions.
    """

    nodes: list[Row]
    edges: list[Row]
    joins: list[Row]
    places: list[Row]
    columns: dict[float, str]
    rows: dict[float, str]
    across: tuple[float, float]
    up: tuple[float, float]
    positional: bool


def layout(
    edges: Edges,
    importance: Float[np.ndarray, " edges"] | None,
    *,
    most: int,
    tokens: tuple[str, ...] = (),
    groups: dict[str, str] | None = None,
) -> Layout:
    """Place all nodes that edges touch, and the `most` strongest edges (the first ones where no importance is known).

    `tokens`: texts of the positions. `groups`: name of a node → what it is called.
    """
    placed = grid(edges, tokens)
    ends, joins, where = placed.ends, placed.joins, placed.where
    strength = np.zeros(len(edges)) if importance is None else np.abs(importance)
    chosen = np.argsort(-strength, kind="stable")[:most][::-1].tolist()
    seen = {node for i in chosen for node in ends[i]}
    drawn_joins = [(kv, head) for kv, head in joins if kv in seen]
    seen |= {head for _, head in drawn_joins}
    graph, names = edges.graph, edges.names
    kinds, apart = graph.reader_kind[edges.reader], graph.reader_index[edges.reader] >= 0
    lines = []
    for i in chosen:
        start, end = ends[i]
        line = _curve(graph, start, end, where, _SIDES.get(int(kinds[i]), 0.0) * apart[i] * placed.aside)
        near = {start.name, end.name} | {head.name for kv, head in joins if kv == end}
        value = None if importance is None else number(importance[i])
        what = {"edge": names[i], "reads": READERS[kinds[i]], "importance": value, "strength": number(strength[i])}
        lines.append({**what, "near": f"|{'|'.join(sorted(near))}|", **line})
    rows = _node_rows(placed.nodes, ends, joins, importance, where, groups or {})
    return Layout(
        nodes=[row | {"seen": node in seen} for node, row in zip(placed.nodes, rows, strict=True)],
        edges=lines,
        joins=[_straight(where[kv], where[head]) for kv, head in drawn_joins],
        places=placed.places,
        columns=placed.columns,
        rows=placed.rows,
        across=placed.across,
        up=placed.up,
        positional=edges.positional,
    )


@dataclass(frozen=True)
class Grid:
    """Where all nodes that edges touch lie, whatever is drawn of them; `ends` of each edge, the other fields as in
    `Layout`. `aside`: how far left of a head's midst its query ends, and right of it its value.
    """

    nodes: list[Node]
    ends: list[tuple[Node, Node]]
    joins: list[tuple[Node, Node]]
    where: dict[Node, tuple[float, float]]
    places: list[Row]
    columns: dict[float, str]
    rows: dict[float, str]
    across: tuple[float, float]
    up: tuple[float, float]
    aside: float


def grid(edges: Edges, tokens: tuple[str, ...] = ()) -> Grid:
    """Place all nodes that edges touch; `tokens`: texts of the positions.

    >>> grid(circuit.edges).where
    """
    graph = edges.graph
    ends, joins = ends_of(edges)
    nodes = sorted({node for pair in ends for node in pair} | {node for join in joins for node in join})
    middles = _middles(edges, len(tokens)) if edges.positional else {}
    columns, across = _token_columns(middles, tokens) if middles else _head_columns(graph)
    ends_of_stream = {-_BELOW: "input", graph.layers - 1 + _ABOVE: "logits"}
    return Grid(
        nodes=nodes,
        ends=ends,
        joins=joins,
        where=_at_positions(graph, nodes, middles) if middles else {node: _at_heads(graph, node) for node in nodes},
        places=[{"x": x, "y": -_BELOW} for x in columns] if middles else _places(graph),
        columns=columns,
        rows={layer: str(layer) for layer in range(graph.layers)} | ends_of_stream,
        across=across,
        up=(-_BELOW - 0.6, graph.layers - 1 + _ABOVE + 0.6 + (0.0 if graph.parallel else 0.25)),
        aside=_ASIDE if middles else _ASIDE_SHARE * (across[1] - across[0]),
    )


def _row_of(graph: Graph, node: Node) -> float:
    """Height of a node; what heads share stands below them, MLPs above unless they are parallel."""
    if node.kind == "input":
        return -_BELOW
    if node.kind == "logits":
        return graph.layers - 1 + _ABOVE
    mixer = -0.35 if graph.mixer_heads else 0.0
    rows = {"kv": -0.35, "mixer": mixer, "mlp": 0.0 if graph.parallel else 0.5} | dict.fromkeys(_BESIDE, -0.35)
    return node.layer + rows.get(node.kind, 0.0)


def _at_heads(graph: Graph, node: Node) -> tuple[float, float]:
    group = graph.share(node.layer) if node.kind == "kv" else 1
    x = {"head": node.which, "kv": node.which * group + (group - 1) / 2, "mlp": _mlps(graph)}
    x |= {"mixer head": node.which, "mixer": _mixers(graph)}
    x |= {kind: (graph.heads - 1) / 2 + beside for kind, beside in _BESIDE.items()}
    return float(x.get(node.kind, _mlps(graph) / 2)), _row_of(graph, node)


def _at_positions(graph: Graph, nodes: list[Node], middles: dict[int, float]) -> dict[Node, tuple[float, float]]:
    """Nodes of one lane, height and position stand side by side."""
    cells = defaultdict(list)
    for node in nodes:
        cells[_LANES.get(node.kind, 0.0), _row_of(graph, node), node.position].append(node)
    where = {}
    for mates in cells.values():
        step = min(0.17, 0.6 / len(mates))
        for i, node in enumerate(mates):
            lane = middles[node.position] + _LANES.get(node.kind, 0.0)
            where[node] = (lane + (i - (len(mates) - 1) / 2) * step, _row_of(graph, node))
    return where


def _mlps(graph: Graph) -> float:
    """The column of the MLPs."""
    return _heads(graph) + 0.5


def _heads(graph: Graph) -> int:
    """Columns of heads, of attentions and of mixers; a mixer without heads has one."""
    return max(graph.heads, graph.mixer_heads, int(graph.has_mixers))


def _mixers(graph: Graph) -> float:
    """The column of whole mixers: the midst of their heads."""
    return (max(graph.mixer_heads, 1) - 1) / 2


def _head_columns(graph: Graph) -> tuple[dict[float, str], tuple[float, float]]:
    columns = {float(head): str(head) for head in range(_heads(graph))} | {_mlps(graph): "MLP"}
    return columns, (-0.7, _mlps(graph) + 1.2)


def _middles(edges: Edges, tokens: int) -> dict[int, float]:
    """Middle of each position's column."""
    touched = set(edges.position.tolist())
    widths = np.array([1.0 if p in touched else _NARROW for p in range(max(tokens, max(touched, default=0) + 1))])
    ends = widths.cumsum()
    return {p: round(float(end - width / 2), 3) for p, (end, width) in enumerate(zip(ends, widths, strict=True))}


def _token_columns(middles: dict[int, float], tokens: tuple[str, ...]) -> tuple[dict[float, str], tuple[float, float]]:
    texts = {x: _shown(tokens[p]) if p < len(tokens) else str(p) for p, x in middles.items()}
    return texts, (-0.2, max(middles.values()) + 0.7)


def _shown(token: str) -> str:
    text = token.replace("\n", "↵").replace("\t", "⇥").strip(" ") or "␣"
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _curve(graph: Graph, start: Node, end: Node, where: dict[Node, tuple[float, float]], side: float) -> Row:
    """Both ends of an edge's curve, and how far it swings out so as not to run through the nodes between them.

    `side`: how far from its node's middle it ends.
    """
    (x1, y1), (x2, y2) = where[start], where[end]
    if start.position < 0:  # the bars of input and logits are met half-way towards the other end
        x1, x2 = ((x1 + x2) / 2 if start.kind == "input" else x1), ((x1 + x2) / 2 if end.kind == "logits" else x2)
    x2 += side
    rise = y2 - y1
    swing = 0.0
    if abs(x1 - x2) < (0.35 if start.position < 0 else 0.12) and rise > 1:
        room = 0.22 if start.position >= 0 else 1.0 if start.kind == end.kind == "mlp" else 0.55
        swing = room * min(1.0, 0.35 + 0.65 * rise / graph.layers) * 4 / 3
    return {"x1": number(x1), "y1": number(y1), "x2": number(x2), "y2": number(y2), "swing": number(swing)}


def _straight(one: tuple[float, float], other: tuple[float, float]) -> Row:
    return {"x1": number(one[0]), "y1": number(one[1]), "x2": number(other[0]), "y2": number(other[1])}


def _places(graph: Graph) -> list[Row]:
    """All heads, mixers and MLPs of the model, as the empty grid."""
    rise = _row_of(graph, Node("mlp", 0, -1, -1))
    counts = {"a": graph.heads, "x": max(1, graph.mixer_heads)}
    columns = {part: [(float(head), 0.0) for head in range(many)] for part, many in counts.items()}
    columns["m"] = [(_mlps(graph), rise)]
    return [
        {"x": x, "y": layer + up}
        for layer in range(graph.layers)
        for part in graph.parts(layer)
        for x, up in columns[part]
    ]


def _node_rows(
    nodes: list[Node],
    ends: list[tuple[Node, Node]],
    joins: list[tuple[Node, Node]],
    importance: Float[np.ndarray, " edges"] | None,
    where: dict[Node, tuple[float, float]],
    groups: dict[str, str],
) -> list[Row]:
    """One record per node: name, kind, place, and count and importance of what comes in and goes out.

    What comes into a key/value head comes into all heads joined to it.
    """
    values = [0.0] * len(ends) if importance is None else importance.tolist()
    fed = defaultdict(list)
    for kv, head in joins:
        fed[kv].append(head)
    count: dict[tuple[Node, str], int] = defaultdict(int)
    total: dict[tuple[Node, str], float] = defaultdict(float)
    for (start, end), value in zip(ends, values, strict=True):
        for node, way in ((start, "out"), (end, "into"), *((head, "into") for head in fed[end])):
            count[node, way] += 1
            total[node, way] += value
    rows = []
    for node in nodes:
        x, y = where[node]
        what = {"node": node.name, "kind": node.kind, "group": groups.get(node.stem)}
        row: Row = {**what, "x": number(x), "y": number(y)}
        for way in ("into", "out"):
            row[way] = count[node, way]
            row[f"{way}_importance"] = None if importance is None else number(total[node, way])
        rows.append(row)
    return rows
