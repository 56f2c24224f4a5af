"""Modules drawn: sites upward, parts side by side by module, edges between them as wide as they are strong."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.interplay.module_results import Modules
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import Part

#: Modules with a colour of their own, and what the others are called.
COLOURED, _OTHER = 5, "others"
#: Edges that are drawn, the heaviest; names of parts that are written at one site; pixels between sites.
MOST_EDGES, _NAMED, _BETWEEN = 400, 14, 84
#: Sites from which on lines would run through all names: then few of a site are named, and how far apart these are.
_MANY, _FEW, _APART = 7, 3, 0.3
#: Pixels in all, where there are many sites, and the least between two.
_HEIGHT, _LEAST = 1000, 34
#: The same as what an edge's colour says where its ends are of two modules.
_ACROSS = "between modules"


def modules_part(found: Modules, name: str) -> Part:
    """The graph of the modules. Parts of a site stand side by side, those of a module together."""
    data = Datasets(inline=True)
    x, y = _places(found), np.array(found.step, dtype=float)
    colours = [*(f"module {k + 1}" for k in range(min(COLOURED, len(found.sizes)))), _OTHER]
    said = [colours[min(module, COLOURED)] for module in found.module]
    edges = _edges(found, x, y, said)
    nodes: list[Row] = [
        {"name": one, "x": number(x[k]), "y": number(y[k]), "module": said[k], "site": found.layers[found.step[k]]}
        for k, one in enumerate(found.nodes)
    ]
    used = [one for one in colours if one in {*said}]
    colour = alt.Color(
        "module:N",
        scale=alt.Scale(domain=used),
        legend=alt.Legend(title=None, orient="top", symbolType="circle", columns=2),
    )
    wide = alt.StrokeWidth("weight:Q", scale=alt.Scale(domain=[0, max(found.weight)], range=[0.3, 6]), legend=None)
    base = alt.Chart(data.add(f"{name}-edges", edges)).mark_rule(strokeCap="round")
    tips = [alt.Tooltip(f"{one}:N") for one in ("source", "reader")]
    tips += [alt.Tooltip(f"{one}:Q", format=".4g") for one in ("strength", "weight")]
    layers = [
        base.transform_filter(f"datum.module == '{_ACROSS}'").mark_rule(style=theme.GUIDE, opacity=0.25)
        .encode(x=_x(), y=_y(found), x2="x2:Q", y2="y2:Q", strokeWidth=wide, tooltip=tips),
        base.transform_filter(f"datum.module != '{_ACROSS}'").mark_rule(opacity=0.7)
        .encode(x=_x(), y=_y(found), x2="x2:Q", y2="y2:Q", color=colour, strokeWidth=wide, tooltip=tips),
        alt.Chart(data.add(f"{name}-nodes", nodes)).mark_point(filled=True, size=46, opacity=1)
        .encode(x=_x(), y=_y(found), color=colour,
                tooltip=[alt.Tooltip("name:N"), alt.Tooltip("site:N"), alt.Tooltip("module:N")]),
        *_names(data, found, nodes, name),
    ]  # fmt: skip
    view = alt.layer(*layers).properties(width=680, height=_height(len(found.layers) - 1))
    drawn = (
        f"{len(edges):,} of {len(found.source):,} edges drawn, the heaviest" if len(edges) < len(found.source) else ""
    )
    lines = "\n".join(filter(None, [*found.sentences, found.settings["trust"], drawn]))
    return Part("Modules: which parts talk to each other", view, data, " ".join(found.sentences), lines)


def _height(steps: int) -> int:
    """Pixels of a graph of so many steps upward."""
    return min(_BETWEEN, max(_LEAST, _HEIGHT // steps)) * steps + 40


def _x() -> alt.X:
    return alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.03, 1.03], nice=False, zero=False))


def _y(found: Modules) -> alt.Y:
    sites, title = _sites(found.layers)
    texts = ", ".join(f"'{k}': '{site}'" for k, site in enumerate(sites))
    last = len(found.layers) - 1
    axis = alt.Axis(
        values=[*range(last + 1)], labelExpr=f"({{{texts}}})[toString(datum.value)]", grid=False, domain=False,
        ticks=False, title=title, labelLimit=190,
    )  # fmt: skip
    return alt.Y("y:Q", axis=axis, scale=alt.Scale(domain=[-0.25, last + 0.25], nice=False, zero=False))


def _sites(layers: Sequence[str]) -> tuple[list[str], str | None]:
    """What each site is called, and what all of them are.

    >>> _sites(["9 heads of layer 3", "9 heads of layer 4"])
    (['3', '4'], '9 heads of layer')
    """
    kinds, numbers = zip(*(site.rpartition(" ")[::2] for site in layers), strict=True)
    if len({*kinds}) == 1 and kinds[0] and all(one.isdecimal() for one in numbers):
        return [*numbers], kinds[0]
    return [*layers], None


def _places(found: Modules) -> np.ndarray:
    """Where in its site each part stands, 0 … 1: by module, inside one by the mean of its neighbours."""
    module, step = np.array(found.module), np.array(found.step)
    source, target, weight = (np.array(each) for each in (found.source, found.target, found.weight))
    x = np.zeros(len(module))
    for turn in range(4):
        pull = np.bincount(source, weight * x[target], len(x)) + np.bincount(target, weight * x[source], len(x))
        near = pull / np.maximum(np.bincount(source, weight, len(x)) + np.bincount(target, weight, len(x)), 1e-300)
        for k in np.unique(step):
            own = np.flatnonzero(step == k)
            order = own[np.lexsort((near[own] if turn else own, module[own]))]
            x[order] = (np.arange(len(own)) + 0.5) / len(own)
    return x


def _edges(found: Modules, x: np.ndarray, y: np.ndarray, said: list[str]) -> list[Row]:
    """The heaviest edges, from the lightest on, so that heavy ones lie above."""
    chosen = np.argsort(-np.array(found.weight), kind="stable")[:MOST_EDGES][::-1]
    rows = []
    for k in chosen.tolist():
        j, i = found.source[k], found.target[k]
        same = found.module[j] == found.module[i]
        rows.append({
            "source": found.nodes[j], "reader": found.nodes[i], "x": number(x[j]), "y": number(y[j]),
            "x2": number(x[i]), "y2": number(y[i]), "strength": number(found.strength[k]),
            "weight": number(found.weight[k]), "module": said[j] if same else _ACROSS,
        })  # fmt: skip
    return rows


def _names(data: Datasets, found: Modules, nodes: list[Row], name: str) -> list[alt.Chart]:
    """Names of the parts of sites where there is room for them, of the lowest site beneath its parts."""
    few = [row for row, step in zip(nodes, found.step, strict=True) if found.step.count(step) <= _NAMED]
    if len(found.layers) >= _MANY:
        few = _strongest(found, nodes)
    own = data.add(f"{name}-names", few)
    return [
        alt.Chart(own).transform_filter(test).mark_text(style=theme.NAME, dy=away)
        .encode(x=_x(), y=_y(found), text="name:N")
        for test, away in (("datum.y > 0", -10), ("datum.y == 0", 12))
    ]  # fmt: skip


def _strongest(found: Modules, nodes: list[Row]) -> list[Row]:
    """Of each site the few parts with the most weight on their edges, none close to another one that is named."""
    weight = np.array(found.weight)
    ends = (np.bincount(np.array(one), weight, len(nodes)) for one in (found.source, found.target))
    chosen = dict[int, list[Row]]()
    for k in np.argsort(-sum(ends), kind="stable").tolist():
        row = chosen.setdefault(found.step[k], [])
        if len(row) < _FEW and all(abs(one["x"] - nodes[k]["x"]) > _APART for one in row):
            row.append(nodes[k])
    return [row for site in chosen.values() for row in site]
