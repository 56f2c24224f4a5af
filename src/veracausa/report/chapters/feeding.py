"""Which parts of a study feed which: the strongest edges, and how faithful circuits of them are."""

from __future__ import annotations

from collections.abc import Sequence

from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.report.charts.faithfulness import curves_figure
from veracausa.report.charts.figures import Figure
from veracausa.report.pages.discovery_tables import curve_table, rows_of
from veracausa.report.tables import Column, Table
from veracausa.scores.scores import Scores
from veracausa.words import plain, sentence, signed, whole

#: Edges that the chapter lists; the live circuit has more.
LISTED = 50
#: f of a circuit that "keeps" the behaviour, in a sentence.
KEPT = 0.8


def smallest(curve: Curve) -> tuple[Faithfulness | None, Faithfulness | None]:
    """The smallest circuit by |importance| that was run and keeps `KEPT`, and the next smaller one that was run."""
    sizes = sorted(curve.absolute, key=lambda one: one.edges)
    kept = next((one for one in sizes if one.f >= KEPT), None)
    below = [one for one in sizes if kept is None or one.edges < kept.edges]
    return kept, below[-1] if below else None


def sentences(found: Scores, curves: Sequence[Curve], placed: Scores | None = None) -> tuple[str, ...]:
    """The strongest edge by importance, whose sign the drawing has too; the smallest circuit run that keeps most.

    Scores by themselves say effects, of the other sign: not here.
    """
    importance, best = found.importance().double(), found.ranking()[0]
    said = [
        f"The strongest of {whole(len(found))} edges is {found.units[[best]].names[0]}, importance "
        f"{signed(float(importance[best]))} (positive supports the behaviour); estimated by {found.method}, not "
        "verified."
    ]
    for curve in curves:
        enough, _ = smallest(curve)
        said.append(
            f"Of the circuits that were run, by |importance|, the smallest that keeps {KEPT:.0%} has "
            f"{whole(enough.edges)} of them (f = {plain(enough.f)})."
            if enough
            else f"No circuit that was run, by |importance|, keeps {KEPT:.0%}."
        )
        said += [sentence(one) for one in curve.signed[0].cautions]
    if placed is not None:
        at_each, which = placed.importance().double(), placed.ranking("abs_mean")[0]
        said.append(
            f"Of the edges that were scored at every position, the strongest part is {placed.units[[which]].names[0]}, "
            f"importance {signed(float(at_each[which]))}."
        )
    return tuple(said)


def figures(found: Scores, name: str, curves: Sequence[Curve], placed: Scores | None = None) -> list[Figure]:
    """f over the size of circuits, where they were run."""
    return [curves_figure(curves, f"{name}-curve")] if curves else []


def tables(found: Scores, name: str, curves: Sequence[Curve], placed: Scores | None = None) -> list[Table]:
    """The strongest edges; circuits of every size; the strongest edges at positions."""
    sizes = [curve_table(one, f"{name}-sizes") for one in curves]
    at_each = [_strongest(placed, f"{name}-at-positions", "edges at positions")] if placed else []
    return [_strongest(found, f"{name}-edges", "edges"), *sizes, *at_each]


def _strongest(found: Scores, name: str, what: str) -> Table:
    frame = found.table()
    frame["importance"] = found.importance().double().numpy()
    columns = [Column("name", "edge"), Column("importance", "importance", "signed", 4)]
    columns += [Column("stderr", "± SE", "plain", 4)] if found.per_example and found.n > 1 else []
    kept = frame.iloc[found.ranking()[:LISTED]][[one.key for one in columns]]
    note = f"Estimated by {found.method}; none is verified by an exact effect. Positive supports the behaviour."
    return Table(name, f"The {len(kept)} strongest {what}", tuple(columns), rows_of(kept), note)
