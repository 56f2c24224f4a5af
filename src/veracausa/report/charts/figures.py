"""A figure of the page: one or several charts side by side, a sentence, and the same as PNG."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import vl_convert

from veracausa.report.charts.data import Datasets
from veracausa.report.charts.theme import LIGHT, Support
from veracausa.report.readable import drawable

#: A single view; side by side they make a figure.
View = alt.TopLevelMixin


@dataclass(frozen=True)
class Part:
    """One chart of a figure: its title, its data, a text for those who do not see it, and lines beneath the title."""

    title: str
    view: View
    data: Datasets
    alt: str
    subtitle: str = ""


@dataclass(frozen=True, eq=False)
class Figure:
    """Charts that belong together.

    `name`: of its files and anchor. `sentence`: what it shows, made from its numbers. `scale`: largest value of a
    shared colour scale (the page draws it once, above the charts), `unit`: of what, `support`: what its signs mean.
    `least`: width below which parts wrap, in pixels. `width`: of a part in the PNG. Without parts it is the place of
    one that could not be drawn, as the sentence says.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    sentence: str
    scale: float | None = None
    support: Support | None = None
    unit: str = ""
    least: int = 300
    width: int = 300
    columns: int = 4

    @cached_property
    def _drawn(self) -> list[dict[str, Any]]:
        return [spec_of(part.view) for part in self.parts]

    def specs(self) -> list[dict[str, Any]]:
        """One Vega-Lite specification per part, no width or colours of its own: the page makes both of its drawings of
        it, one as wide as its container and without legends where `scale` stands above, and the whole figure (`spec`).
        """
        return [
            drawable(spec | {"datasets": _data(spec, part)}) for spec, part in zip(self._drawn, self.parts, strict=True)
        ]

    @property
    def layout(self) -> dict[str, Any]:
        """How the specifications of its parts are one figure: what `spec` adds to them."""
        titles = [_heading(part) for part in self.parts]
        return {"width": self.width, "columns": self.columns, "legends": self.scale is None} | drawable(
            {"heads": [{"title": title} for title in titles], "colour": self._resolved}
        )

    @property
    def _resolved(self) -> str:
        """How charts beside each other share a colour scale: "shared", "independent", or as Vega-Lite does it."""
        if self.scale is None or len(self.parts) < 2:
            return ""
        own = len({json.dumps(range_) for spec in self._drawn for range_ in _colours(spec)}) > 1
        return "independent" if own else "shared"

    def spec(self) -> dict[str, Any]:
        """The whole figure as one specification of fixed width, as in the PNG."""
        views = [
            _without(spec, "datasets") | {"width": self.width, "title": _heading(part)}
            for spec, part in zip(self._drawn, self.parts, strict=True)
        ]
        whole: dict[str, Any] = {"columns": self.columns, "concat": views} if len(views) > 1 else views[0]
        if self._resolved:
            whole["resolve"] = {"scale": {"color": self._resolved}}
        data: dict[str, Any] = {}
        for spec, part in zip(self._drawn, self.parts, strict=True):
            data |= _data(spec, part)
        return drawable(whole | {"datasets": data})

    def png(self) -> bytes:
        """The figure as PNG, drawn without a browser, twice as fine as on screen."""
        return png(self.spec())


def spec_of(view: View) -> dict[str, Any]:
    """A chart as a Vega-Lite specification without a configuration."""
    return _without(view.to_dict(validate=False), "$schema", "config")


def _colours(spec: dict[str, Any]) -> list[Any]:
    """The colour scales of a chart's layers."""
    layers = spec.get("layer", [spec])
    return [scale for one in layers if (scale := one.get("encoding", {}).get("color", {}).get("scale"))]


def _heading(part: Part) -> dict[str, Any]:
    return {"text": part.title} | ({"subtitle": part.subtitle.split("\n")} if part.subtitle else {})


def _data(spec: dict[str, Any], part: Part) -> dict[str, Any]:
    return {**spec.get("datasets", {}), **part.data}


def _without(spec: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in keys}


def png(spec: dict[str, Any]) -> bytes:
    """A specification as PNG on white, in the light theme."""
    config = LIGHT.config(background=LIGHT.surface) | {"padding": 16}
    return vl_convert.vegalite_to_png(drawable({**spec, "config": config}), vl_version=vegalite_version(), scale=2)


def vegalite_version() -> str:
    """The Vega-Lite version that altair writes for, as vl-convert names it."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
