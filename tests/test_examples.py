"""The notebooks in examples/ show what the library really does: all cells are run again, in a kernel of their own.

Text must be what the committed notebook holds, whole (`shown_lines` says what may differ); pictures must be there,
too.
"""

from __future__ import annotations

import importlib.util
import re
from decimal import Decimal
from pathlib import Path

import pytest
from nbformat import NotebookNode
from shown_lines import same

ROOT = Path(__file__).parents[1]
BOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
#: A table's cell holds four digits without zeros at the end, so that its last digit can be of several places.
NUMBER = re.compile(r"<td>(-?[\d.]+(?:e-?\d+)?)</td>")


@pytest.fixture(scope="module")
def examples():
    spec = importlib.util.spec_from_file_location("run_examples", ROOT / "scripts" / "run_examples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(path: Path) -> NotebookNode:
    import nbformat

    return nbformat.read(path, as_version=4)


def texts(book: NotebookNode) -> list[str]:
    """Every line of text that the cells show, each cell's printed text first."""
    lines = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for text in (output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")):
                lines += text.splitlines()
    return lines


def alike(shown: str, printed: str) -> bool:
    """Whether a line of text or of a table is the same; a table's number by one in its fourth digit, or 1e-6."""
    one, other = NUMBER.search(shown), NUMBER.search(printed)
    if not (one and other and "." in one[1] + other[1]):
        return same(shown, printed)
    a, b = Decimal(one[1]), Decimal(other[1])
    digit = Decimal(1).scaleb(max(a.adjusted(), b.adjusted()) - 3)
    return abs(a - b) <= max(digit, Decimal("1e-6")) and shown.replace(one[1], "") == printed.replace(other[1], "")


def pictures(book: NotebookNode) -> list[int]:
    """Cells that show a picture."""
    shown = [[output for output in cell.get("outputs", []) if "data" in output] for cell in book.cells]
    return [i for i, outputs in enumerate(shown) if any("image/svg+xml" in one.data for one in outputs)]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=pytest.mark.slow) for path in BOOKS],
)
def test_cells_run_and_show_what_was_committed(path, examples, tmp_path):
    shown, book = kept(path), examples.executed(path, str(tmp_path))
    bars = [one for cell in book.cells for one in cell.get("outputs", []) if examples.is_finished_bar(one)]
    assert bars  # progress bars were there, and are gone
    before, after = texts(shown), texts(examples.without_bars(book))
    for old, new in zip(before, after, strict=False):
        assert alike(old, new), f"{path.name} shows\n{old}\nbut now this is shown:\n{new}"
    assert len(before) == len(after) > 20
    assert pictures(book) == pictures(shown) != []


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_small_whole_and_ask_nobody(path):
    book = kept(path)
    assert path.stat().st_size < 300_000
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]  # run from top to bottom
    assert not [one for cell in cells for one in cell.outputs if one.get("name") == "stderr"]  # no warning
    assert not re.search(r"<script|(?:src|href)\s*=\s*\\?[\"']https?:", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)]+)\)", "\n".join(cell.source for cell in book.cells if cell not in cells)):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("<td>0.2071</td>", "<td>0.2072</td>", True),
        ("<td>4.61</td>", "<td>4.609</td>", True),
        ("<td>4.61</td>", "<td>4.63</td>", False),
        ("<td>1.976e-08</td>", "<td>-3.1e-09</td>", True),
        ("<td>1.976e-03</td>", "<td>1.996e-03</td>", False),
        ("<td>23</td>", "<td>24</td>", False),
        ("<td>a23.h3</td>", "<td>a23.h4</td>", False),
    ],
)
def test_what_counts_as_the_same_number_of_a_table(shown, printed, equal):
    assert alike(shown, printed) == equal


def test_readme_and_guides_lead_to_every_notebook():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for path in BOOKS:
        linked = [page.name for page in pages if f"examples/{path.name})" in page.read_text(encoding="utf-8")]
        assert "README.md" in linked and len(linked) > 1, path
