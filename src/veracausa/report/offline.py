"""Charts that stand alone and ask nobody for anything: HTML files and notebook cells hold the library that draws them.

Altair's own charts load it from the web when they are saved as HTML or shown in a notebook. Ours are the same classes
with that turned round, also once they are layered or put beside others; the user's altair settings are left alone. A
cell or file is about 0.9 MB larger for it, the licences of these libraries included.
"""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import altair as alt

from veracausa.report.pages.frame import embed
from veracausa.report.pages.library import library, licences
from veracausa.report.readable import drawable
from veracausa.storage.files import write_text

#: What a chart's menu offers: pictures, but not the editor, which is a page on the web.
_OPTIONS = {"mode": "vega-lite", "actions": {"export": True, "source": False, "compiled": False, "editor": False}}


class Offline:
    """What an altair chart of ours does otherwise."""

    def to_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification, with every text in it such that it can be drawn."""
        return drawable(super().to_dict(*args, **options))  # type: ignore[misc]

    def to_html(self, *args: Any, inline: bool = True, **options: Any) -> str:
        """A page as text, with the library inside unless `inline=False`."""
        page = super().to_html(*args, inline=inline, **_offering(options))  # type: ignore[misc]
        return _licensed(page) if inline else page

    def save(self, fp: str | Path | Any, format: str | None = None, *args: Any, **options: Any) -> None:
        """Write .html (with the library inside unless `inline=False`), .png, .svg, .pdf or .json."""
        if (format or str(fp).rpartition(".")[2].lower()) == "html":
            options = {"inline": True} | _offering(options)
            if options["inline"]:
                page = io.StringIO()
                super().save(page, "html", *args, **options)  # type: ignore[misc]
                text = _licensed(page.getvalue())
                fp.write(text) if hasattr(fp, "write") else write_text(fp, text)
                return
        super().save(fp, format, *args, **options)  # type: ignore[misc]

    def _repr_html_(self) -> str:
        """The chart as a piece of a page, for notebooks."""
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


def offline(chart: Any) -> Any:
    """The same chart as one of ours; what altair has no such class for stays as it is."""
    if made := _CLASSES.get(type(chart)):
        object.__setattr__(chart, "__class__", made)  # altair keeps what is set otherwise as a part of the chart
    return chart


def _licensed(page: str) -> str:
    """A page that altair made, with the licences of the library in it."""
    return page.replace("<script", f"<script>\n{licences()}</script>\n<script", 1)


def _offering(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"embed_options": _OPTIONS | (options.get("embed_options") or {})}
