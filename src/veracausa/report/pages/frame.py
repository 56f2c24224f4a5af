"""The frame of every page: one offline HTML file with its style, its charts and the library that draws them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from veracausa.errors import FileError
from veracausa.report.charts.data import identifier
from veracausa.report.charts.figures import Figure
from veracausa.report.charts.theme import DARK, FONT, LIGHT
from veracausa.report.packing import Columns, shared
from veracausa.report.pages.library import asset, flush, library
from veracausa.report.readable import readable
from veracausa.report.tables import Table
from veracausa.storage.environment import command, versions
from veracausa.words import plain, signed, whole


@dataclass(frozen=True)
class About:
    """What a page says of where its numbers come from, and so does what is downloaded from it."""

    title: str
    model: dict[str, str]
    command: str
    date: str
    machine: str
    seconds: float
    versions: dict[str, str]

    @classmethod
    def now(cls, title: str, model: dict[str, str], seconds: float = 0.0) -> About:
        """Of a page that is made now, by this command, of a result that does not say when it was."""
        machine = f"computed in {model['dtype']}" if model.get("dtype") else "not said"
        return cls(title, model, command(), datetime.date.today().isoformat(), machine, float(seconds), versions())


#: What a downloaded file says of where its numbers come from.
_ABOUT = tuple(field.name for field in fields(About))


def framed(
    template: str,
    figures: Sequence[Figure],
    tables: Sequence[Table],
    *,
    shown: Any,
    beside: Callable[[Columns], dict[str, Any]] = lambda columns: {},
    **parts: Any,
) -> str:
    """A page as text, made from a template of `assets` that extends frame.html; everything it needs is in it.

    `tables`: what can be downloaded beside the `figures`; `shown`: what the page is about, which has all that `About`
    names. `beside`: more data for scripts of the page's own, whose columns are kept among the others.

    Raises:
        FileError: a number or a text is of a kind that no page can hold.
    """
    try:
        return _rendered(template, figures, tables, shown, beside, parts)
    except (TypeError, ValueError) as error:
        raise FileError(f"A page cannot hold what it was given: {error}") from error


def _rendered(
    template: str,
    figures: Sequence[Figure],
    tables: Sequence[Table],
    shown: Any,
    beside: Callable[[Columns], dict[str, Any]],
    parts: dict[str, Any],
) -> str:
    environment = Environment(
        loader=FunctionLoader(lambda name: flush(asset(name))),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown,
    )  # fmt: skip
    environment.filters |= {"signed": signed, "plain": plain, "whole": whole, "anchor": identifier}
    environment.filters["marked_by"] = lambda text, mark: mark(text)
    columns = Columns()
    more = beside(columns)
    specs, layouts = _packed(figures, columns)
    common, repeated = shared(specs)
    about = {key: getattr(shown, key) for key in _ABOUT}
    data = {
        "specs": common,
        "shared": repeated,
        "figures": layouts,
        "tables": {table.name: table.records(columns) for table in tables if table.embedded},
        "about": {**about, "summary": list(parts["summary"])},
        "themes": {"light": LIGHT.config(), "dark": DARK.config()},
        "columns": columns.packed,
        **more,
    }
    return environment.get_template(template).render(
        **parts,
        shown=shown,
        light=_variables(LIGHT),
        dark=_variables(DARK),
        style=Markup(flush(asset("page.css"))),
        script=Markup(flush(asset("page.js"))),
        vega=Markup(library()),
        data=Markup(embed(data)),
    )


def _packed(figures: Sequence[Figure], columns: Columns) -> tuple[dict[str, Any], dict[str, Any]]:
    """Specifications of all charts, their data as columns; and for each figure how they are one (`Figure.layout`)."""
    specs: dict[str, Any] = {}
    layouts: dict[str, Any] = {}
    for figure in figures:
        if not figure.parts:
            continue
        own = {f"{figure.name}-{i}": spec for i, spec in enumerate(figure.specs())}
        for name, spec in own.items():
            specs[name] = spec | {"datasets": {key: columns.rows(rows) for key, rows in spec["datasets"].items()}}
        layouts[figure.name] = {"parts": list(own), **figure.layout}
    return specs, layouts


def embed(value: Any) -> str:
    """JSON that may stand inside a <script> element: no character in it can end the element or open a comment."""
    text = readable(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _shown(value: Any) -> Any:
    """What the template writes: texts without characters that no file or page can hold."""
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _variables(theme: Any) -> Markup:
    gradient, apart = ", ".join(theme.diverging), ", ".join(theme.agreement)
    return Markup(
        f"--ink:{theme.ink};--muted:{theme.muted};--line:{theme.line};--surface:{theme.surface};"
        f"--accent:{theme.category[0]};--scale:linear-gradient(to right, {gradient});"
        f"--apart:linear-gradient(to right, {apart});--in-a:{theme.agreement[0]};--in-b:{theme.agreement[-1]};"
        f"--font:{FONT}"
    )
