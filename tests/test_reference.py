"""`make docs`: pages that hold every public name and load nothing from elsewhere, without a warning."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import logging
import re
import runpy
from collections.abc import Iterator
from functools import cache
from html import unescape
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import veracausa as vc

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder, warned = tmp_path_factory.mktemp("site"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert not warned, warned  # a link that leads nowhere, a docstring that cannot be read
    return folder


@cache
def written() -> dict[str, str]:
    """The pages of the reference as mkdocs is given them."""
    return runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))["pages"]()


def public() -> dict[str, list[str]]:
    """Page → the names that it must hold."""
    on_face = set(vc._HOMES)
    packages = [name for name in vc.__all__ if name not in on_face and name != "__version__"]
    found = {"vc": sorted(on_face)}
    for name in packages:
        package = importlib.import_module(f"veracausa.{name}")
        own = getattr(package, "__all__", [key for key in vars(package) if key.endswith("Error")])
        face = {inspect.unwrap(getattr(vc, key)) for key in on_face}
        found[f"vc.{name}"] = [key for key in own if not _is_in(getattr(package, key), face)]
    return found


def _is_in(value: Any, face: set[Any]) -> bool:
    """Whether it is on the face already, where its docstring is shown."""
    return callable(value) and inspect.unwrap(value) in face


def plain(text: str) -> str:
    """Without spaces and marks of Markdown."""
    return re.sub(r"[\s`*]+", "", text)


@pytest.mark.parametrize("page", public())
def test_every_public_name_has_a_docstring_and_a_page(page):
    for name in public()[page]:
        value = getattr(importlib.import_module(page.replace("vc", "veracausa", 1)), name)
        assert not callable(value) or len((value.__doc__ or "").split("\n\n")[0]) > 20, name
        assert f"heading: {page}.{name}," in written()[f"reference/{page}.md"], name


@pytest.mark.parametrize("page", public())
def test_a_public_functions_docstring_names_its_arguments_and_shows_its_use(page):
    for name in public()[page]:
        value = getattr(importlib.import_module(page.replace("vc", "veracausa", 1)), name)
        if inspect.isfunction(inspect.unwrap(value)):
            text = value.__doc__ or ""
            unnamed = [one for one in inspect.signature(value).parameters if not re.search(rf"\b{one}\b", text)]
            assert not unnamed and ">>> " in text, (name, unnamed)


def lines_of_use() -> Iterator[str]:
    """What stands behind `>>>` in the docstrings of the source."""
    for path in sorted(Path(vc.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) else None
            if text and ">>>" in text:
                yield from (one.source for one in doctest.DocTestParser().get_examples(f"{text}\n"))


def test_lines_of_use_call_what_there_is():
    """`vc.…(…)` in a docstring: the function is there, and takes such arguments. (What they are is not looked at.)"""
    calls = 0
    for call in (node for line in lines_of_use() for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)):
        if re.fullmatch(r"vc(\.\w+)+", name := ast.unparse(call.func)):
            named = {one.arg: None for one in call.keywords if one.arg}
            inspect.signature(attrgetter(name[3:])(vc)).bind(*call.args, **named)
            calls += 1
    assert calls > 250


@pytest.mark.slow  # the site takes ten seconds to build; links of the guides: `test_docs`
@pytest.mark.parametrize("page", public())
def test_every_public_name_has_its_docstring(site, page):
    html = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    headings = re.findall(r'class="doc doc-heading">\s*([\w.]+)', html)
    shown = plain(unescape(re.sub(r"<[^>]+>", "", html)))
    for name in public()[page]:
        assert f"{page}.{name}" in headings, name
        value = getattr(importlib.import_module(page.replace("vc", "veracausa", 1)), name)
        if callable(value):  # tables have a comment in the source
            assert plain((value.__doc__ or "").split("\n\n")[0])[:40] in shown, name


@pytest.mark.slow  # the site takes ten seconds to build; links of the guides: `test_docs`
def test_nothing_is_loaded_from_elsewhere(site):
    """A link may lead out; what a browser fetches by itself may not."""
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)\s*=\s*[\"']?([^\"'>\s]+)", html)
        assert loaded and not [place for place in loaded if "//" in place], path
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"@import|url\([\"']?(?:https?:)?//", styles)
