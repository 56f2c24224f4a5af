"""One offline HTML page of a study, with PNGs, CSVs and score files beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from veracausa.comparison.results import Study
from veracausa.report.asked import Asked, asked
from veracausa.report.data import identifier
from veracausa.report.explain import READING, method_of
from veracausa.report.figures import Figure, vegalite_version
from veracausa.report.files import write_bytes, write_text
from veracausa.report.panels import SectionView
from veracausa.report.theme import DARK, FONT, LIGHT
from veracausa.report.words import plain, signed, whole


def save_study(study: Study, out: str | Path) -> Path:
    """Write a study into a folder: figures/*.png, tables/*.csv, scores/*.safetensors, and report.html last.

    Every file is written beside its place and then renamed, so an interrupted call leaves no half file, and a folder
    with a report.html has everything. Returns the path of report.html.

    Raises:
        FileError: the folder cannot be written.
    """
    folder = Path(out)
    views = section_views(study)
    for view in views:
        for figure in _figures(view):
            write_bytes(folder / "figures" / f"{figure.name}.png", figure.png())
        for table in [*view.tables, *(table for panel in view.panels for table in panel.tables)]:
            write_text(folder / "tables" / f"{table.name}.csv", table.csv())
        for name, scores in view.scores():
            scores.save(folder / "scores" / f"{name}.safetensors")
    return write_text(folder / "report.html", page(study, views))


def section_views(study: Study) -> list[SectionView]:
    """The sections of a study, drawn; their names number them."""
    return [SectionView(s, f"{i}-{identifier(s.title)}") for i, s in enumerate(study.sections, 1)]


def page(study: Study, views: list[SectionView] | None = None) -> str:
    """The HTML page as text: everything it needs is in it, nothing is fetched."""
    views = section_views(study) if views is None else views
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": signed, "plain": plain, "whole": whole}
    specs = {f"{f.name}-{i}": spec for v in views for f in _figures(v) for i, spec in enumerate(f.specs())}
    sections = [_Block(view, asked(view.section)) for view in views]
    methods: dict[str, str] = {}
    for view in views:
        for panel in view.section.panels:
            for scores in (panel.exact, *panel.estimates):
                name, text = method_of(scores)
                methods.setdefault(name, text)
    return environment.get_template("page.html").render(
        study=study,
        sections=sections,
        methods=list(methods.items()),
        reading=READING,
        cost=sum(s.cost.token_layers for view in views for _, s in view.scores()),
        light=_variables(LIGHT),
        dark=_variables(DARK),
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        vega=Markup(_inside_script(_vega())),
        data=Markup(embed({"specs": specs, "themes": {"light": LIGHT.config(), "dark": DARK.config()}})),
    )


def embed(value: Any) -> str:
    """JSON that may stand inside a <script> element: no character in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@dataclass(frozen=True)
class _Block:
    """A section as the template reads it."""

    view: SectionView
    asked: Asked


def _figures(view: SectionView) -> list[Figure]:
    return [*(figure for panel in view.panels for figure in panel.figures), *view.figures]


def _variables(theme: Any) -> Markup:
    gradient = ", ".join(theme.diverging)
    return Markup(
        f"--ink:{theme.ink};--muted:{theme.muted};--line:{theme.line};--surface:{theme.surface};"
        f"--accent:{theme.category[0]};--scale:linear-gradient(to right, {gradient});--font:{FONT}"
    )


def _vega() -> str:
    """The libraries that draw charts, as one script."""
    return vl_convert.javascript_bundle(vl_version=vegalite_version())  # type: ignore[call-arg]


def _asset(name: str) -> str:
    return (files("veracausa.report") / "assets" / name).read_text(encoding="utf-8")


def _inside_script(code: str) -> str:
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
