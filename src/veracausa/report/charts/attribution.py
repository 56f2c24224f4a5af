"""Attribution graphs drawn: tokens across, layers upward; live against frozen ablation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from veracausa.graphs.checked import GraphCheck
from veracausa.graphs.graph import KINDS, AttributionGraph
from veracausa.graphs.influence import LOGIT, TOKEN
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part
from veracausa.report.charts.strengths import diagonal_view
from veracausa.report.readable import readable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

#: Nodes beside tokens and logits, and links, that are drawn.
NODES, LINKS = 40, 120
#: Nodes and targets whose names stand beside them, at most; of a token and layer, or next to another, one alone.
NAMED, TARGETS = 6, 4
#: Of the drawing, and what a name takes of it, in pixels.
HEIGHT, NAME_HEIGHT = 420, 34


def attribution_part(found: AttributionGraph, name: str, signs: bool = True) -> Part:
    """The most influential nodes of what is left after pruning, joined by the links that carry the most influence.

    `signs`: whether a legend says what the links' colours are.
    """
    left, kinds = found.pruned(), found.kinds.numpy()
    stay, lines, own = left.nodes.numpy(), left.edges.numpy(), found.influence.numpy()
    inner = [int(i) for i in np.argsort(-own, kind="stable") if stay[i] and kinds[i] < TOKEN][:NODES]
    ends = np.flatnonzero(stay & ((kinds == TOKEN) | (kinds == LOGIT))).tolist()
    shown = sorted([*inner, *ends])
    where = _places(found, shown)
    nodes = [
        {
            "name": readable(found.names[i]), "kind": KINDS[kinds[i]], "x": where[i][0], "y": where[i][1],
            "influence": number(float(own[i] if kinds[i] != LOGIT else found.weights[i])),
            "activation": number(float(found.activation[i])),
        }
        for i in shown
    ]  # fmt: skip
    data = Datasets(inline=True)
    texts = json.dumps([readable(token.strip() or "␣") for token in found.tokens])
    axis = alt.Axis(values=[*range(len(found.tokens))], labelExpr=f"{texts}[datum.value]", labelAngle=-50,
                    grid=False, domain=False, ticks=False, labelOverlap=False)  # fmt: skip
    x = alt.X("x:Q", title=None, axis=axis, scale=alt.Scale(domain=[-0.5, len(found.tokens) - 0.5], nice=False))
    top = max(where[i][1] for i in shown)
    said = f"datum.value < 0 ? 'tokens' : datum.value == {top:g} ? 'logits' : datum.value"
    rows = alt.Axis(values=[*range(-1, int(top) + 1)], labelExpr=said, grid=False, labelOverlap="greedy")
    y = alt.Y("y:Q", title="layer", axis=rows, scale=alt.Scale(domain=[-1.6, top + 0.1 * (top + 8)], nice=False))
    joined = alt.Chart(data.add(f"{name}-links", _links(found, shown, lines, where))).mark_rule(opacity=0.5)
    joined = joined.encode(
        x=x, y=y, x2="x2:Q", y2="y2:Q",
        strokeWidth=alt.StrokeWidth("share:Q", scale=alt.Scale(range=[0.3, 4]), legend=None),
        color=alt.Color("sign:N", scale=alt.Scale(domain=["adds", "takes off"]),
                        legend=alt.Legend(title=None) if signs else None),
        tooltip=[alt.Tooltip("name:N", title="link"), alt.Tooltip("weight:Q", format="+.3f")],
    )  # fmt: skip
    dots = alt.Chart(data.add(f"{name}-nodes", nodes)).mark_point(filled=True, opacity=1, style=theme.EXACT)
    dots = dots.encode(
        x=x, y=y, size=alt.Size("influence:Q", scale=alt.Scale(range=[25, 260]), legend=None),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=list(KINDS)), legend=alt.Legend(title=None)),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("influence:Q", format=".3f"),
                 alt.Tooltip("activation:Q", format=".3f")],
    )  # fmt: skip
    by_node = dict(zip(shown, nodes, strict=True))
    targets = sorted((i for i in shown if kinds[i] == LOGIT), key=lambda i: -float(found.weights[i]))
    rows_of_name = NAME_HEIGHT / HEIGHT * (top + 2.6)
    chosen = _apart(targets, where, 0.15)[:TARGETS]
    called = _apart([*chosen, *inner], where, 0.6, rows_of_name, len(chosen))[: NAMED + len(chosen)]
    named = [by_node[i] | {"label": _label(found, i)} for i in called]
    names = alt.Chart(data.add(f"{name}-names", named)).encode(x=x, y=y, text="label:N")
    behind, before = (
        names.mark_text(style=style, align="left", angle=300, dx=5, dy=-7) for style in (theme.HALO, theme.NAME)
    )
    view = alt.layer(joined, behind, dots, before)
    view = view.resolve_scale(color="independent").properties(height=HEIGHT)
    return Part("What adds to what", view, data, " ".join(found.sentences), _counted(found, inner))


def _counted(found: AttributionGraph, inner: list[int]) -> str:
    """How many features and errors are drawn, of all; tokens and logits stand beside them."""
    return f"The strongest {len(inner)} of {int((found.kinds < TOKEN).sum()):,} features and errors"


def _places(found: AttributionGraph, shown: list[int]) -> dict[int, tuple[float, float]]:
    """Where nodes stand: at their token and layer, side by side where several are."""
    together: dict[tuple[int, int], list[int]] = {}
    for i in shown:
        together.setdefault((int(found.positions[i]), _height(found, i)), []).append(i)
    return {
        i: (position + (at + 0.5) / len(members) * 0.8 - 0.4, float(layer))
        for (position, layer), members in together.items()
        for at, i in enumerate(members)
    }


def _apart(
    nodes: list[int], where: dict[int, tuple[float, float]], far: float, high: float = 0.5, kept: int = 0
) -> list[int]:
    """Those of some nodes, the first ones first, that are so many rows from those before (`high`), or so far away, in
    tokens; the first `kept` in any case.

    >>> _apart([0, 1, 2], {0: (3.0, 1.0), 1: (3.2, 1.0), 2: (3.2, 2.0)}, 0.6)
    [0, 2]
    """
    found = nodes[:kept]
    for i in nodes[kept:]:
        (x, y), before = where[i], [where[other] for other in found]
        if not any(abs(up - y) < high and abs(across - x) < far for across, up in before):
            found.append(i)
    return found


def _label(found: AttributionGraph, i: int) -> str:
    """A node's name without its position, which the axis says; of a token as a target the token alone."""
    name = found.names[i]
    short = name.removeprefix("logit:").strip() or "␣" if int(found.kinds[i]) == LOGIT else name.rpartition("@")[0]
    return readable(short or name)


def _links(
    found: AttributionGraph,
    shown: list[int],
    lines: Bool[np.ndarray, "nodes nodes"],
    where: dict[int, tuple[float, float]],
) -> list[Row]:
    """The links among the shown nodes that carry the most influence."""
    adjacency = found.adjacency.double().numpy()
    share = np.abs(adjacency) / np.abs(adjacency).sum(1, keepdims=True).clip(1e-300)
    carried: Float[np.ndarray, "nodes nodes"] = (
        share * (found.influence + found.weights.double()).double().numpy()[:, None]
    )
    inside = np.ix_(shown, shown)
    best = np.argsort(-(carried[inside] * lines[inside]), axis=None)[:LINKS]
    rows: list[Row] = []
    for t, s in zip(*np.unravel_index(best, (len(shown), len(shown))), strict=True):
        target, source = shown[int(t)], shown[int(s)]
        if not lines[target, source]:
            continue
        (x, y), (x2, y2) = where[source], where[target]
        weight = float(adjacency[target, source])
        rows.append({
            "x": x, "y": y, "x2": x2, "y2": y2, "weight": number(weight),
            "share": number(float(carried[target, source])),
            "sign": "adds" if weight >= 0 else "takes off",
            "name": readable(f"{found.names[source]} → {found.names[target]}"),
        })  # fmt: skip
    return rows


def _height(found: AttributionGraph, i: int) -> int:
    """The row of a node: its layer, tokens below all, logits above."""
    kind = int(found.kinds[i])
    inner = found.layers[found.kinds < TOKEN]
    top = int(inner.max()) if len(inner) else 0
    return {TOKEN: -1, LOGIT: top + 1}.get(kind, int(found.layers[i]))


def graph_check_part(found: GraphCheck, name: str) -> Part:
    """Dots: every node's effect in the frozen network against that in the live model."""
    data, table = Datasets(inline=True), found.table()
    names = [f"{one} (graph {graph})" for one, graph in zip(table.name, table.graph, strict=True)]
    columns = table.live.to_numpy(dtype=np.float64), table.frozen.to_numpy(dtype=np.float64)
    titles = ("live ablation: M without it − M", "frozen ablation")
    view = diagonal_view(data, name, *columns, table.kind.tolist(), titles, names)
    said = " ".join(found.sentences)
    return Part("Live against frozen ablation", view, data, f"Scatter. {said}", "\n".join(found.sentences))
