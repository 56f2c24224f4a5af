"""A figure of the page: one or several charts side by side, a sentence, and the same as PNG."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import vl_convert

from veracausa.report.theme import LIGHT

#: A single view; side by side they make a figure.
View = alt.Chart | alt.LayerChart


@dataclass(frozen=True)
class Part:
    """One chart of a figure: its title, a line beneath it, and a text for those who do not see it."""

    title: str
    view: View
    alt: str
    subtitle: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts that belong together.

    `name`: of its files and anchor. `sentence`: what it shows, made from its numbers. `scale`: largest value of a
    shared colour scale (the page draws it once, above the charts). `least`: width below which parts wrap, in pixels.
    `width`: of a part in the PNG.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    sentence: str
    scale: float | None = None
    least: int = 300
    width: int = 300
    columns: int = 4
    notes: tuple[str, ...] = field(default=())

    def specs(self) -> list[dict[str, Any]]:
        """One Vega-Lite specification per part for the page: as wide as its container, no colours of its own."""
        return [_fluid(part.view, hide_legend=self.scale is not None) for part in self.parts]

    def chart(self) -> Any:
        """The whole figure as one Altair chart, of fixed width, as in the PNG."""
        views = [
            part.view.properties(width=self.width, title=alt.Title(part.title, subtitle=part.subtitle or alt.Undefined))
            for part in self.parts
        ]
        rows = [alt.hconcat(*views[i : i + self.columns]) for i in range(0, len(views), self.columns)]
        whole = rows[0] if len(rows) == 1 else alt.vconcat(*rows)
        return whole.resolve_scale(color="shared", shape="shared") if self.scale is not None else whole

    def png(self) -> bytes:
        """The figure as PNG, drawn without a browser, twice as fine as on screen."""
        return png(self.chart())


def png(chart: Any) -> bytes:
    """A chart as PNG on white, in the light theme."""
    spec = chart.to_dict()
    config = {**LIGHT.config(background=LIGHT.surface), "padding": 16}
    spec["config"] = config
    return vl_convert.vegalite_to_png(spec, vl_version=vegalite_version(), scale=2)


def vegalite_version() -> str:
    """The Vega-Lite version that altair writes for, as vl-convert names it."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def _fluid(view: View, hide_legend: bool) -> dict[str, Any]:
    spec = copy.deepcopy(view.properties(width="container").to_dict())
    spec.pop("$schema", None)
    spec["config"] = {"legend": {"disable": True}} if hide_legend else {}
    return spec
