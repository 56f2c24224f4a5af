"""The guides and the README say what the library really does: their Python blocks are run, in order, as one session.

Lines `# → text` in a block are what the code before them prints: all of it, and each line whole. Where a guide shows
the beginning only, its last line is `# → …`. Two things may differ from what is shown, since a page is written on one
machine and tested on others: the last digit of a number with a decimal point, by one (float32 sums are taken in another
order on another processor), and times ("3.1 s"). Whole numbers, names and words are exactly what is printed.
"""

import io
import re
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest
from shown_lines import same

import veracausa as vc

ROOT = Path(__file__).parents[1]
NAME = "smollm2-135m"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def steps(source: str):
    """(code, promised output or None) of a block, cut behind each promise."""
    code: list[str] = []
    promised: list[str] = []
    for line in source.splitlines():
        if line.startswith("# → "):
            promised.append(line.removeprefix("# → "))
            continue
        if promised:
            yield "\n".join(code), promised
            code, promised = [], []
        code.append(line)
    yield "\n".join(code), promised


#: Tables that docs/recipes.md adds to.
TABLES = [
    "units.kinds:KINDS", "effects.replacements:MAKERS", "scores.estimands:ABLATIONS",
    "estimates.paths:WALKS", "estimates.parts:PATHS", "estimates.parts:RULES", "engine.rule:RULES",
    "tasks.registry:BUILTIN", "tasks.metrics:METRICS", "report.chapters.registry:CHAPTERS",
]  # fmt: skip


@pytest.fixture
def tables_as_they_were():
    """What a page adds to a table is gone after it; gives how many entries the tables have together."""
    tables = [getattr(import_module(f"veracausa.{place}"), name) for place, name in (one.split(":") for one in TABLES)]
    kept = [dict(table) for table in tables]
    yield lambda: sum(map(len, tables))
    for table, entries in zip(tables, kept, strict=True):
        table.clear()
        table.update(entries)


#: Guides that take long beside what their own tests already hold: `make test-all` runs them.
LONG = {
    *("spans.md", "replacements.md", "attention_patterns.md", "circuits.md", "paths.md", "learned-masks.md"),
    *("trust.md", "receipts.md", "methods.md", "questions.md", "first-look.md", "ablation.md", "groups.md", "lens.md"),
    *("wrapped.md", "experts.md", "dictionaries.md", "features.md", "interactions.md", "attribution-graphs.md"),
    *("pruning.md", "which-circuit.md", "sweeps.md", "large-models.md", "chat.md", "page.md"),
}
GUIDES = [
    pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name in LONG else ())
    for page in PAGES
    if BLOCK.search(page.read_text())
]


@pytest.mark.parametrize("page", GUIDES)
def test_python_blocks_run_and_print_what_they_promise(page, tmp_path, monkeypatch, tables_as_they_were, smollm2):
    monkeypatch.chdir(tmp_path)
    load = vc.load  # the model that most guides begin with is read once for all of them
    monkeypatch.setattr(vc, "load", lambda *what, **how: load(*what, **how) if how or what != (NAME,) else smollm2)
    session: dict = {}
    ran, before = 0, tables_as_they_were()
    for block in BLOCK.findall(page.read_text()):
        for code, promised in steps(block):
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(code, str(page), "exec"), session)
            ran += 1
            shown = [line.rstrip() for line in promised]
            lines = [line.rstrip() for line in printed.getvalue().splitlines() if line.strip()]
            if shown and shown[-1] == "…":
                shown, lines = shown[:-1], lines[: len(shown) - 1]
            assert len(shown) == len(lines) and all(map(same, shown, lines)), (
                f"{page.name} shows\n{chr(10).join(shown)}\nbut this is printed:\n{chr(10).join(lines)}"
            )
    assert ran
    recipes = len(TABLES) if page.name == "recipes.md" else 0
    assert tables_as_they_were() == before + recipes  # none of the recipes has become one that changes something else


@pytest.mark.parametrize(
    ("shown", "printed", "alike"),
    [
        ("gap 14.23", "gap 14.23", True),
        ("gap 14.23", "gap 14.24", True),  # another processor
        ("gap 14.23", "gap 14.25", False),
        ("gap 1", "gap 14.23", False),  # a cut line
        ("gap 14.2", "gap 14.23", False),
        ("a20.h0 +0.000", "a20.h0 -0.001", True),
        ("a20.h0 +0.000", "a20.h0 +0.000 -0.028", False),
        ("a20.h0 −0.028", "a20.h1 −0.028", False),
        ("9.99, 2,345.67%", "10.00, 2,345.68%", True),
        ("43 of 270", "44 of 270", False),  # a count is a count
        ("version 0.1.2", "version 0.1.3", False),
        ("cost 12 token-layers, 44.5 s", "cost 12 token-layers, 3.1 s", True),
        ("cost 12 token-layers, 44.5 s", "cost 13 token-layers, 44.5 s", False),
    ],
)
def test_what_counts_as_the_same_line(shown, printed, alike):
    assert same(shown, printed) == alike


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from veracausa.cli.app import app

    known = set(get_command(app).commands)
    used = {match for page in PAGES for match in re.findall(r"^veracausa ([a-z]+)", page.read_text(), re.M)}
    assert used, "the pages show no command"
    assert used <= known
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)) <= targets


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links: small letters and numbers, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "docs" / "results").glob("*.md"), ROOT / "CONTRIBUTING.md"], ids=str)
def test_every_link_leads_somewhere(page):
    for place, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / place if place else page
        assert target.exists(), place
        assert not anchor or anchor in anchors(target), f"{place}#{anchor}"


def test_every_paper_is_in_the_references():
    """Each arXiv number in the source, and each published estimate by name."""
    from veracausa.estimates.presets import PAPERS

    listed = (ROOT / "docs" / "references.md").read_text(encoding="utf-8")
    source = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    numbers = {number for text in source for number in re.findall(r"\b[12]\d{3}\.\d{5}\b", text)}
    assert len(numbers) > 15 and not [number for number in numbers if number not in listed]
    assert not [name for name in PAPERS if name != "mask" and f"`{name}`" not in listed]


def test_the_citation_names_this_version():
    from veracausa import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
