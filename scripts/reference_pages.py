"""A hook of mkdocs: pages that are not in docs/, above all the reference: every public name with its docstring.

What is public is asked of the packages themselves, so a new name needs no entry here.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

import veracausa as vc

ROOT = Path(__file__).parents[1]
#: Pages and notebooks beside docs/ that guides point at; notebooks are there to be fetched.
BESIDE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md"),
    *(f"examples/{path.name}" for path in sorted((ROOT / "examples").glob("*.ipynb"))),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, README as the first page, and the pages beside docs/; none of them is written to the disk."""
    beside = {place: (ROOT / place).read_text(encoding="utf-8") for place in BESIDE}
    first = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    for place, text in (first | beside | pages()).items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the repository has them, from docs/ and from its root, lead to the same pages here."""
    here = page.file.src_uri
    if here == "index.md" or here in BESIDE:
        return re.sub(r"\]\((?:\.\./)*docs/", "](../" if "/" in here else "](", markdown)
    return re.sub(rf"\]\(((?:\.\./)*)\.\./(?=(?:{'|'.join(BESIDE)}))", r"](\1", markdown)


class Examples(griffe.Extension):
    """Lines of use in a docstring (`>>>`, and what they give) are shown as code; in Markdown they would be quotes."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of anything that griffe has read; a verb returns what its work gives."""
        for decorator in getattr(obj, "decorators", ()):
            if (given := re.fullmatch(r"gives\((\w+)\)", str(decorator.value))) and obj.is_function:
                obj.returns = griffe.ExprName(given[1], obj.parent)
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with its lines of use between fences, each group up to the next empty line; `<` is no markup in it."""
    text = re.sub(r"^( *)(>>> .*(?:\n\1\S.*)*)", r"\1```python\n\1\2\n\1```", text, flags=re.M)
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def pages() -> dict[str, str]:
    """Place of a page → its text."""
    packages = [name for name in vc.__all__ if name not in vc._HOMES and name != "__version__"]
    face = homes(vc)
    made = {"reference/vc.md": _page("vc", vc.__doc__, face)}
    for name in packages:
        package = import_module(f"veracausa.{name}")
        own = {key: home for key, home in homes(package).items() if face.get(key) != home}  # others: on the face
        made[f"reference/vc.{name}.md"] = _page(f"vc.{name}", package.__doc__, own)
    return made


def homes(package: Any) -> dict[str, str]:
    """Public name → the module that it lives in."""
    if hasattr(package, "_HOMES"):
        return {name: _home(getattr(package, name), home) for name, home in package._HOMES.items()}
    names = getattr(package, "__all__", None) or [name for name, value in vars(package).items() if _own(value, package)]
    return {name: _home(getattr(package, name), package.__name__) for name in names}


def _home(value: Any, otherwise: str) -> str:
    """Where a function or class is written; a value has no such place of its own."""
    return inspect.unwrap(value).__module__ if callable(value) else otherwise


def _own(value: Any, package: Any) -> bool:
    return isinstance(value, type) and value.__module__ == package.__name__


def _page(title: str, text: str | None, names: dict[str, str]) -> str:
    entries = "\n\n".join(
        f"::: {home}.{name}\n    options: {{heading: {title}.{name}, toc_label: {name}, heading_level: 2}}"
        for name, home in sorted(names.items())
    )
    return f"# {title}\n\n{fenced(text or '')}\n\n{entries}\n"
