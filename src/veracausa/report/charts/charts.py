"""One chart of one `Scores`, `Circuit` or `Curve`, for notebooks and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import altair as alt

from veracausa.errors import MethodError
from veracausa.report.charts.circuit_drawing import MOST_EDGES
from veracausa.report.charts.circuits import circuit_part, edges_part
from veracausa.report.charts.data import Datasets, Row, effects, errors
from veracausa.report.charts.faithfulness import curves_part
from veracausa.report.charts.figures import Figure, Part, spec_of
from veracausa.report.charts.maps import limit_of, place_view, shape
from veracausa.report.charts.theme import THEMES, Support, Theme
from veracausa.report.offline import chart_of
from veracausa.report.readable import drawable
from veracausa.suggestions import not_known
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from veracausa.choices import Look
    from veracausa.circuits.circuit import Circuit
    from veracausa.circuits.quality.curve import Curve
    from veracausa.scores.scores import Scores

#: Pixels of a chart across, unless it says so itself.
WIDTH = 520


def scores_chart(
    scores: Scores,
    *,
    tokens: Sequence[str] = (),
    most: int = MOST_EDGES,
    width: float | None = None,
    height: float | None = None,
    font: str | None = None,
    theme: Look | None = None,
) -> Any:
    """Scores as an Altair chart.

    Heads: a layer × head map. MLPs, attention layers, residual stream: bars per layer, or a layer × position map if
    they are per position, `tokens` being the positions' texts. Neurons, lists of units, heads per position: the 30
    strongest. Edges: the `most` strongest, drawn like a circuit; per position over layers × positions. Colours and axes
    are shares of the gap (plain effects where the gap is zero; edges: importances); whiskers are one standard error,
    where there are several examples. Blue supports the behaviour, orange works against it (grey: magnitudes, without a
    sign); early layers are at the bottom.

    >>> vc.exact(lm, task).chart().save("heads.png")
    """
    if isinstance(scores.units, Edges):
        part = edges_part(Datasets(inline=True), scores, "scores", tokens=tokens, most=most)
        return alone(part, width=width, height=height, font=font, theme=theme)
    values, title = effects(scores)
    spread = errors(scores) if scores.n > 1 else None
    support = Support.of(scores.direction, scores.signed)
    pairs = "1 pair" if scores.n == 1 else f"{scores.n} pairs"
    data = Datasets(inline=True)
    view = place_view(
        data,
        scores.units,
        {"effect": values},
        "effect",
        "scores",
        title,
        limit_of(values),
        support,
        stderr=spread,
        tokens=tokens,
    )
    heading = f"{scores.method}: {len(scores):,} {scores.units.kind}"
    coloured = shape(scores.units) in ("map", "positions")  # the legend says what colours mean
    lines = [f"{scores.model['name']}, {pairs} · {scores.verified}", *scores.cautions]
    lines += [] if coloured else [support.value]
    part = Part(heading, view, data, f"{heading}; {support.value}", "\n".join(lines))
    return alone(part, width=width or 360, height=height, font=font, theme=theme)


def circuit_chart(
    circuit: Circuit,
    *,
    positions: Scores | None = None,
    tokens: Sequence[str] = (),
    most: int = MOST_EDGES,
    width: float | None = None,
    height: float | None = None,
    font: str | None = None,
    theme: Look | None = None,
) -> Any:
    """See `Circuit.chart`."""
    part = circuit_part(Datasets(inline=True), circuit, "circuit", positions=positions, tokens=tokens, most=most)
    return alone(part, width=width, height=height, font=font, theme=theme)


def curve_chart(
    curves: Sequence[Curve],
    *,
    width: float | None = None,
    height: float | None = None,
    font: str | None = None,
    theme: Look | None = None,
) -> Any:
    """See `Curve.chart`."""
    return alone(
        curves_part(Datasets(inline=True), curves, "curve"), width=width, height=height, font=font, theme=theme
    )


def alone(
    part: Part,
    *,
    width: float | None = None,
    height: float | None = None,
    font: str | None = None,
    theme: Look | None = None,
) -> Any:
    """A part of a page as a chart that stands alone: its data inside, a theme's colours in place of their roles.

    It has no configuration of its own, so it can be layered and put beside others, unless a `font` or `theme` is asked
    for; saved as HTML and in notebooks it holds the library that draws it. `width`, `height`: None: those of the part.
    """
    look = _look(font, theme)
    with alt.data_transformers.enable(consolidate_datasets=False):  # charts within charts may not hold "datasets"
        spec = painted(spec_of(part.view), look.config())
    title = {"text": part.title, "subtitle": part.subtitle.split("\n"), "anchor": "start", "offset": 10}
    sized = {"width": WIDTH, **spec, **_size(width, height)}
    return chart_of(drawable(_dressed({**sized, "title": title, "view": {"stroke": None}}, look, font, theme)))


def together(
    figure: Figure,
    *,
    width: float | None = None,
    height: float | None = None,
    font: str | None = None,
    theme: Look | None = None,
) -> Any:
    """The same of a figure of a page: its parts beside each other, each of this `width` and `height`."""
    look, spec = _look(font, theme), figure.spec()
    data = spec.pop("datasets")
    views = spec.get("concat", [spec])
    for view in views:
        view |= _size(width, height)
    spec["title"] = {"text": figure.title, "anchor": "start", "offset": 10}
    return chart_of(drawable(_dressed(painted(_inlined(spec, data), look.config()), look, font, theme)))


def _look(font: str | None, theme: Look | None) -> Theme:
    """A theme by name, with another font if one is named.

    Raises:
        MethodError: no such theme.
    """
    if theme is not None and theme not in THEMES:
        raise MethodError(not_known("theme", theme, THEMES))
    look = THEMES[theme or "light"]
    return look if font is None else replace(look, font=font)


def _dressed(spec: dict[str, Any], look: Theme, font: str | None, theme: Look | None) -> dict[str, Any]:
    """The specification with the look as its configuration, if one was asked for.

    On paper the caption says what the title says here: the title becomes the chart's description.
    """
    if font is None and theme is None:
        return spec
    spec = spec | {"config": look.config(background=look.surface)}
    if theme != "paper":
        return spec
    title = spec.pop("title")
    return spec | {"description": " ".join(filter(None, [title["text"], *title.get("subtitle", [])]))}


def _size(width: float | None, height: float | None) -> dict[str, float]:
    return {name: size for name, size in (("width", width), ("height", height)) if size is not None}


def _inlined(spec: Any, data: dict[str, list[Row]]) -> Any:
    """The specification with records in the place of their names."""
    if isinstance(spec, list):
        return [_inlined(item, data) for item in spec]
    if not isinstance(spec, dict):
        return spec
    made = {key: _inlined(value, data) for key, value in spec.items() if key != "data"}
    if "data" in spec:
        own = spec["data"]
        made["data"] = {"values": data[own["name"]]} if own.get("name") in data else own
    return made


def painted(spec: Any, config: dict[str, Any]) -> Any:
    """The specification with mark styles and named ranges replaced by what a theme's configuration says they are.

    Data inside it lose their names, which could be those of a chart beside this one. Colours of names that have no
    range are the theme's.
    """
    if isinstance(spec, list):
        return [painted(item, config) for item in spec]
    if not isinstance(spec, dict):
        return spec
    made = {key: painted(value, config) for key, value in spec.items() if key != "data"}
    if "data" in spec:
        made["data"] = {"values": spec["data"]["values"]}
    if isinstance(color := made.get("color"), dict) and color.get("type") == "nominal":
        made["color"] = color | {"scale": {"range": config["range"]["category"], **(color.get("scale") or {})}}
    if isinstance(made.get("range"), str):
        made["range"] = config["range"][made["range"]]
    if "style" in made:
        made = {**config["style"][made.pop("style")], **made}
    return made
