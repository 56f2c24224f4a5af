"""The guides and the README say what the library really does: their Python blocks are run, in order, as one session.

A line `# → text` in a block promises that what the line before printed starts with that text.
"""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_they_promise(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session: dict = {}
    ran = 0
    for block in BLOCK.findall(page.read_text()):
        for code, promised in steps(block):
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(code, str(page), "exec"), session)
            ran += 1
            lines = [line.rstrip() for line in printed.getvalue().splitlines() if line.strip()]
            for want, got in zip(promised, lines, strict=False):
                assert got.startswith(want.rstrip()), f"{page.name}: promised {want!r}, printed {got!r}"
            assert len(lines) >= len(promised), f"{page.name}: promised {promised}, printed {lines}"
    assert ran


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from veracausa.cli import app

    known = set(get_command(app).commands)
    used = {match for page in PAGES for match in re.findall(r"^veracausa ([a-z]+)", page.read_text(), re.M)}
    assert used, "the pages show no command"
    assert used <= known
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)) <= targets
