"""A list of named things as text: a title, then a row each, in columns that fit the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence


def listing(title: str, rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows in columns under a title; the last is wrapped into what is left of the line (`width`: the terminal's).

    >>> print(listing("Directions:", [("noising", "the clean run, with a unit replaced")]))
    Directions:
      noising  the clean run, with a unit replaced
    """
    if not rows:
        return title
    width = width or shutil.get_terminal_size((100, 24)).columns
    columns = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    indent = 2 + sum(columns) + 2 * len(columns)
    lines = [title]
    for row in rows:
        start = "  " + "".join(f"{cell:<{wide}}  " for cell, wide in zip(row, columns, strict=False))
        wrapped = textwrap.wrap(row[-1], max(30, width - indent), break_on_hyphens=False) or [""]
        lines += [f"{start if i == 0 else ' ' * indent}{line}".rstrip() for i, line in enumerate(wrapped)]
    return "\n".join(lines)
