"""What the script of a comparison's page knows: of every unit A's number and B's, and whether they differ.

As `contents` of a study, with A in the place of the exact effects and B in that of an estimate; `laid` says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from veracausa.report.instrument.contents import packed_told, placed, ranged
from veracausa.report.instrument.naming import percent
from veracausa.report.instrument.told import Told
from veracausa.report.packing import Columns
from veracausa.scores.comparison import Compared
from veracausa.statistics.ratios import LEVEL
from veracausa.words import counted, p_value, signed

if TYPE_CHECKING:
    pass


def laid(compared: list[tuple[str, Compared]], columns: Columns) -> dict[str, Any]:
    """All that is compared, by anchor, as the page's script reads it."""
    return {"sections": [_section(name, one, columns) for name, one in compared], "calls": []}


def _section(name: str, one: Compared, columns: Columns) -> dict[str, Any]:
    first, second = (_ranged(one, i, columns) for i in (0, 1))
    kind = placed(one.one.units, columns) | {
        "first": "A", "laid": True, "anchor": name, "n": one.one.n, "share": one.shares, "title": one.unit,
        "supports": one.supports, "sampled": 0, "exact": first, "each": None,
        "estimates": [{"label": "B", "alike": True, "title": one.unit} | second],
    }  # fmt: skip
    told = Told("sentence", "Do they differ?", "", one.names, {"text": _said(one)})
    return {
        "id": name, "title": one.title, "metric": one.one.task["metric"], "pairs": [], "kinds": [kind],
        "told": packed_told([told], columns),
    }  # fmt: skip


def _ranged(one: Compared, which: int, columns: Columns) -> dict[str, Any]:
    """A's values (B's) with Student's 95% intervals."""
    value, count = one.values[which], (one.one, one.other)[which].pairs().numpy()
    half = np.where(count > 1, stats.t.ppf((1 + LEVEL) / 2, np.maximum(count - 1, 1)) * one.errors[which], np.nan)
    return ranged(value, value - half, value + half, columns)


def _said(one: Compared) -> list[str]:
    """Of every unit: its difference, whether that is more than chance, and its ranks."""
    value, error, _ = one.found
    size = (lambda x: percent(x)) if one.shares else (lambda x: signed(x, 3))
    rows = zip(value, error, one.p_holm, one.differs, *one.ranks, strict=True)
    return [_sentence(one, size(v), size(e).removeprefix("+"), p, differs, a, b) for v, e, p, differs, a, b in rows]


def _sentence(one: Compared, value: str, error: str, p: float, differs: bool, a: int, b: int) -> str:
    moved = f"It ranks {a:,} in A and {b:,} in B" + (
        "." if a == b else f", {abs(a - b):,} {'up' if a > b else 'down'}."
    )
    if not np.isfinite(p):
        return f"B − A is {value}; {one.how}. {moved}"
    verdict = "more than chance" if differs else "not told from chance"
    over = f"after Holm’s correction over {counted(len(one.names), 'part')}" if len(one.names) > 1 else "by that test"
    return f"B − A is {value} ± {error} (standard error): {verdict}, {p_value(p)} {over}. {moved}"
