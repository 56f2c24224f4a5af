"""Which parts of a study feed which: the strongest edges, and how faithful circuits of them are."""

from __future__ import annotations

from collections.abc import Sequence

from veracausa.circuits.quality.curve import Curve
from veracausa.report.charts.faithfulness import curves_figure
from veracausa.report.charts.figures import Figure
from veracausa.report.pages.discovery_tables import curve_table, rows_of
from veracausa.report.tables import Column, Table
from veracausa.scores.scores import Scores

#: Edges that the chapter lists; the live circuit has more.
LISTED = 50


def figures(found: Scores, name: str, curves: Sequence[Curve]) -> list[Figure]:
    """f over the size of circuits, where they were run."""
    return [curves_figure(curves, f"{name}-curve")] if curves else []


def tables(found: Scores, name: str, curves: Sequence[Curve]) -> list[Table]:
    """The strongest edges; circuits of every size."""
    frame = found.table()
    frame["importance"] = found.importance().double().numpy()
    columns = [Column("name", "edge"), Column("importance", "importance", "signed", 4)]
    columns += [Column("stderr", "± SE", "plain", 4)] if found.per_example and found.n > 1 else []
    kept = frame.iloc[found.ranking()[:LISTED]][[one.key for one in columns]]
    note = f"Estimated by {found.method}; none is verified by an exact effect. Positive supports the behaviour."
    strongest = Table(f"{name}-edges", f"The {len(kept)} strongest edges", tuple(columns), rows_of(kept), note)
    return [strongest, *(curve_table(one, f"{name}-sizes") for one in curves)]
