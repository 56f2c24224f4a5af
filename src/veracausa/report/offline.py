"""Charts that stand alone and ask nobody for anything: HTML files and notebook cells hold the library that draws them.

Altair's own charts load it from the web when they are saved as HTML or shown in a notebook. Ours are the same classes
with that turned round, also once they are layered or put beside others; the user's altair settings are left alone. A
cell or file is about 0.9 MB larger for it, the licences of these libraries included.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode

from veracausa.errors import MethodError
from veracausa.report.pages.frame import embed
from veracausa.report.pages.library import library, licences
from veracausa.report.readable import drawable
from veracausa.storage.files import write_bytes
from veracausa.suggestions import not_known

#: What a chart's menu offers: pictures, but not the editor, which is a page on the web.
_OPTIONS = {"mode": "vega-lite", "actions": {"export": True, "source": False, "compiled": False, "editor": False}}

#: What a chart can be saved as; pictures have a scale.
FORMATS = ("png", "svg", "pdf", "html", "json")
_PICTURES = FORMATS[:3]
_LARGEST = 100


class Offline:
    """What an altair chart of ours does otherwise."""

    def to_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification, with every text in it such that it can be drawn."""
        return drawable(super().to_dict(*args, **options))  # type: ignore[misc]

    def to_html(self, *args: Any, inline: bool = True, **options: Any) -> str:
        """A page as text, with the library inside unless `inline=False`."""
        page = _closed(super().to_html(*args, inline=inline, **_offering(options)), self.to_dict())  # type: ignore[misc]
        return _licensed(page) if inline else page

    def save(
        self, fp: str | Path | Any, format: str | None = None, *args: Any, scale: float | None = None, **options: Any
    ) -> None:
        """Write .png, .svg, .pdf, .html (with the library inside unless `inline=False`) or .json, whole or not at all.

        `format`: where the file's name does not say it, or an open file is given. `scale`: of a picture; 2 draws it
        twice as large, and a .png with as many more pixels.

        Raises:
            MethodError: another format, a scale that is none, or one of a page or a specification. FileError: the file
                cannot be written.

        >>> scores.chart(width=400).save("heads.png", scale=3)
        """
        form = format or str(fp).rpartition(".")[2].lower()
        if form not in FORMATS:
            raise MethodError(f"{not_known('format', form, FORMATS)} The file's name says it: chart.save('chart.pdf').")
        if scale is not None and (form not in _PICTURES or not 0 < scale <= _LARGEST):
            raise MethodError(
                f"scale={scale:g} of a {form}: a scale over 0, up to {_LARGEST}, is that of a picture: "
                f"{', '.join(_PICTURES)}."
            )
        content = self._content(form, scale, *args, **options)
        if hasattr(fp, "write"):
            fp.write(content)
        else:
            write_bytes(fp, content if isinstance(content, bytes) else content.encode())

    def _content(self, form: str, scale: float | None, *args: Any, **options: Any) -> str | bytes:
        """What a file of this format holds."""
        if scale is not None and form != "png":  # a PDF is made of the drawing: its own maker has no scale
            svg = _sized(str(self._content("svg", None, *args, **options)), scale)
            return vl_convert.svg_to_pdf(svg) if form == "pdf" else svg
        if form == "html":
            options = {"inline": True} | _offering(options)
        elif scale is not None:
            options = {"scale_factor": scale} | options
        place: Any = io.BytesIO() if form in ("png", "pdf") else io.StringIO()
        super().save(place, form, *args, **options)  # type: ignore[misc]
        content: str | bytes = place.getvalue()
        content = _closed(str(content), self.to_dict()) if form == "html" else content
        return _licensed(str(content)) if form == "html" and options["inline"] else content

    def _repr_html_(self) -> str | None:
        """The chart as a piece of a page, for notebooks; None where another renderer was chosen: it would be hidden."""
        if alt.renderers.active != "default":
            return None
        place = f"veracausa-{uuid.uuid4().hex}"
        return (
            f'<div id="{place}"></div><script>(function () {{\n{library()}\n'
            f'window.vegaEmbed("#{place}", {embed(self.to_dict())}, {embed(_OPTIONS)});\n}})();</script>'
        )

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> Any:
        """For notebooks; with another renderer than altair's first (`alt.renderers.enable`), what that makes of it."""
        if alt.renderers.active != "default":
            return super()._repr_mimebundle_(*args, **options)  # type: ignore[misc]
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: show it in a notebook, or save it: chart.save('chart.html')>"

    def __add__(self, other: Any) -> Any:
        return offline(super().__add__(other))  # type: ignore[misc]

    def __and__(self, other: Any) -> Any:
        return offline(super().__and__(other))  # type: ignore[misc]

    def __or__(self, other: Any) -> Any:
        return offline(super().__or__(other))  # type: ignore[misc]


class Chart(Offline, alt.Chart):
    """One view."""


class LayerChart(Offline, alt.LayerChart):
    """Views upon each other."""


class ConcatChart(Offline, alt.ConcatChart):
    """Views in rows."""


class HConcatChart(Offline, alt.HConcatChart):
    """Views beside each other."""


class VConcatChart(Offline, alt.VConcatChart):
    """Views above each other."""


class FacetChart(Offline, alt.FacetChart):
    """A view for each group of its data."""


class RepeatChart(Offline, alt.RepeatChart):
    """A view for each of several fields."""


_CLASSES: dict[type, type] = {
    made.__mro__[2]: made
    for made in (Chart, LayerChart, ConcatChart, HConcatChart, VConcatChart, FacetChart, RepeatChart)
}


#: What a view is made of → the class of a chart that is made so, and the class of such a view inside a chart.
_MADE_OF: dict[str, tuple[type, type]] = {
    "layer": (LayerChart, alt.LayerSpec),
    "concat": (ConcatChart, alt.ConcatSpecGenericSpec),
    "hconcat": (HConcatChart, alt.HConcatSpecGenericSpec),
    "vconcat": (VConcatChart, alt.VConcatSpecGenericSpec),
}


def chart_of(spec: dict[str, Any]) -> Any:
    """A specification as a chart of ours.

    `alt.Chart.from_dict` makes the same chart, but finds out by validation which of altair's classes every part of it
    is: 0.4 s where this takes 4 ms. What is drawn is validated when it is drawn or saved.
    """
    with debug_mode(False):  # each part would be validated alone
        return _view(spec, 0)


def _view(spec: dict[str, Any], within: int) -> Any:
    """A view as a chart (`within` = 0) or as a part of one (1)."""
    rest = dict(spec)
    if "params" in rest:
        rest["params"] = [_parameter(one) for one in rest["params"]]
    for name, classes in _MADE_OF.items():
        if name in rest:
            return classes[within](**rest | {name: [_view(part, 1) for part in rest[name]]})
    if "encoding" in rest:
        rest["encoding"] = alt.FacetedEncoding(**rest["encoding"])
    return (Chart, alt.FacetedUnitSpec)[within](**rest)


def _parameter(one: dict[str, Any]) -> Any:
    if "select" not in one:
        return alt.VariableParameter(**one)
    return (alt.TopLevelSelectionParameter if "views" in one else alt.SelectionParameter)(**one)


def offline(chart: Any) -> Any:
    """The same chart as one of ours; what altair has no such class for stays as it is."""
    if made := _CLASSES.get(type(chart)):
        object.__setattr__(chart, "__class__", made)  # altair keeps what is set otherwise as a part of the chart
    return chart


def _closed(page: str, spec: Any) -> str:
    """A page that altair made, in which no text of the chart, such as a group's name, can end or begin a script."""
    for text in {text for text in _texts(spec) if "<" in text}:
        written = json.dumps(text)[1:-1]
        page = page.replace(written, written.replace("<", "\\u003c"))
    return page


def _texts(spec: Any) -> Iterator[str]:
    """All texts of a specification, names included."""
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, dict):
        for name, value in spec.items():
            yield from (str(name), *_texts(value))
    elif isinstance(spec, (list, tuple)):
        for value in spec:
            yield from _texts(value)


def _licensed(page: str) -> str:
    """A page that altair made, with the licences of the library in it."""
    return page.replace("<script", f"<script>\n{licences()}</script>\n<script", 1)


def _offering(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"embed_options": _OPTIONS | (options.get("embed_options") or {})}


def _sized(svg: str, scale: float) -> str:
    """The drawing with its width and height multiplied; its view box, and so what is drawn, stays."""
    head, close, rest = svg.partition(">")
    return re.sub(r'\b(width|height)="([\d.]+)"', lambda m: f'{m[1]}="{float(m[2]) * scale:g}"', head) + close + rest
