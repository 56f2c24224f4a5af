"""What the script of two circuits' page knows: every edge that either keeps, where it is, its numbers in A and in B."""

from __future__ import annotations

from typing import Any

import numpy as np

from veracausa.circuits.comparison import CircuitComparison
from veracausa.report.instrument.circuits import MOST, drawn, short
from veracausa.report.packing import Columns

#: The element that they are drawn in.
PLACE = "circuits-live"


def laid_circuits(found: CircuitComparison, columns: Columns) -> dict[str, Any]:
    """Two circuits side by side as the page's script reads them: one section, with one circuit that has `sides`."""
    section = {
        "id": "circuits", "title": "both circuits", "metric": found.one.task["metric"], "pairs": [], "kinds": [],
        "told": [], "circuits": [_circuit(found, columns)],
    }  # fmt: skip
    return {"sections": [section], "calls": []}


def _circuit(found: CircuitComparison, columns: Columns) -> dict[str, Any]:
    """Edges of the best ranks, at most `MOST`; `importance` is the larger share of the strongest of its own circuit."""
    kept = np.sort(np.argsort(found.best, kind="stable")[:MOST])
    order = np.argsort(found.best[kept], kind="stable").tolist()
    sizes = np.max([_share(values) for values in found.values], 0)[kept]
    graph = found.one.graph
    return {
        "place": PLACE,
        "method": "",
        "unit": "",
        "signed": False,
        "total": len(found.edges),
        "layers": graph.layers,
        "heads": graph.heads,
        "orders": {"selected": columns.add(order), "abs": columns.add(order)},
        **drawn(found.edges[kept], sizes, np.full(len(kept), np.nan), columns),
        "exact": {"at": columns.add([]), "value": columns.add([])},
        "measured": [],
        "sides": columns.add(found.side[kept].tolist()),
        "a": columns.add([short(value) for value in found.values[0][kept]]),
        "b": columns.add([short(value) for value in found.values[1][kept]]),
        "ranks": [columns.add(ranks[kept].tolist()) for ranks in found.ranks],
    }


def _share(values: np.ndarray) -> np.ndarray:
    """|values| over the largest of them; 0 where they are not known, and 1 throughout where none is."""
    known = np.isfinite(values)
    if not known.any():
        return np.ones(len(values))
    sizes = np.where(known, np.abs(values), 0.0)
    return sizes / max(float(sizes.max()), np.finfo(float).tiny)
