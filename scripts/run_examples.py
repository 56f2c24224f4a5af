"""Run the notebooks in examples/, each in a kernel of its own, and keep what they show.

python scripts/run_examples.py                          # all of them
python scripts/run_examples.py examples/circuit.ipynb   # one
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parent.parent / "examples"
#: What the display of a progress bar holds when the work has ended.
FINISHED_BAR = ""


def executed(path: Path, folder: str) -> NotebookNode:
    """The notebook as it is after all its cells have run, in `folder`, where it may write files."""
    book = nbformat.read(path, as_version=4)
    before = book.metadata
    client = NotebookClient(book, timeout=600, record_timing=False, resources={"metadata": {"path": folder}})
    # nobody's own startup files; one thread adds up in the same order on every machine, and leaves room for others
    client.execute(env={**os.environ, "IPYTHONDIR": folder, "OMP_NUM_THREADS": "1"})
    book.metadata = before  # without the version of the Python that ran it
    return book


def is_finished_bar(output: NotebookNode) -> bool:
    """Whether an output is what a progress bar leaves behind."""
    return output.output_type == "display_data" and output.data.get("text/html") == FINISHED_BAR


def without_bars(book: NotebookNode) -> NotebookNode:
    """The same notebook without what progress bars have left behind."""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_finished_bar(output)]
    return book


def main() -> None:
    for path in [Path(name) for name in sys.argv[1:]] or sorted(EXAMPLES.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(without_bars(executed(path, folder)), path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
