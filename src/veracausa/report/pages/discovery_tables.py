"""Tables of a discovery's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from veracausa.report.tables import SHOWN, Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.circuits.quality.curve import Curve
    from veracausa.discovery.evaluation import Evaluation
    from veracausa.discovery.results import Discovery

#: A curve's two rankings, in words.
_RANKED = {"signed": "by signed importance", "abs": "by |score|"}


def edges_table(found: Discovery) -> Table:
    """The circuit's edges, the strongest first, with what is known of each."""
    frame = found.table()
    shown = min(SHOWN, len(frame))
    heading = f"The {shown} strongest edges" if shown < len(frame) else f"All {len(frame)} edges"
    columns = [
        Column("name", "edge"),
        Column("layer", "layer", "index", help="the reader's block"),
        Column("importance", "importance", "signed", 4, help="estimated; positive supports the behaviour"),
        *([Column("stderr", "± SE", "plain", 4)] if "stderr" in frame and found.scores.n > 1 else []),
        *([Column("share", "share of gap", "signed", 3)] if "share" in frame else []),
        *([Column("exact", "exact", "signed", 4, help="exact importance; – : not verified")] if found.checked else []),
        *([Column("chosen", "chosen", "percent", 0, help="bootstrap draws that keep it")] if "chosen" in frame else []),
    ]
    note = "Importance is −E: positive supports the behaviour. "
    if found.checked == len(frame):
        note += "Exact effects of all of them are known."
    elif found.checked:
        note += f"Exact effects are known of {found.checked:,} of {len(frame):,}; the others (–) are not verified."
    else:
        note += "None of them is verified by an exact effect."
    if shown < len(frame):
        note += " edges.csv holds all."
    return Table("edges", heading, tuple(columns), rows_of(frame), note, shown)


def ranking_table(evaluation: Evaluation) -> Table:
    """The circuit and its ranking beside a random ranking."""
    columns = (
        Column("ranking", "ranking"),
        Column("edges", "edges", "whole"),
        Column("f", "f", "plain"),
        *([Column("stderr", "± SE", "plain")] if len(evaluation.pairs) > 1 else []),
        Column("KL", "KL", "plain"),
        Column("NDF", "NDF", "plain"),
        Column("CPR", "CPR", "plain", help="area under f over the share of edges, by signed importance"),
        Column("CMD", "CMD", "plain", help="area of |1 − f|, by |score|; 0 is best"),
        Column("CPR log", "CPR, log axis", "plain"),
        Column("CMD log", "CMD, log axis", "plain"),
    )
    note = "The random ranking is one draw, selected from in the same way."
    return Table(f"{evaluation.name}-rankings", "Beside a random ranking", columns, rows_of(evaluation.table()), note)


def sizes_table(evaluation: Evaluation) -> Table:
    """Every size of every ranking."""
    frame = evaluation.sizes()
    frame["ranking"] = [
        "at random" if scores == "random" else _RANKED[by]
        for scores, by in zip(frame["scores"], frame["ranking"], strict=True)
    ]
    return _of_sizes(frame, evaluation.name, len(evaluation.pairs), [Column("scores", "scores")])


def curve_table(curve: Curve, name: str) -> Table:
    """Every size of a curve by itself; `name`: of the table."""
    frame = curve.table()
    frame["ranking"] = frame["ranking"].map(_RANKED)
    return replace(_of_sizes(frame, "", len(curve.signed[0].metric)), name=name)


def _of_sizes(frame: pd.DataFrame, name: str, pairs: int, first: Sequence[Column] = ()) -> Table:
    columns = (
        *first,
        Column("ranking", "ranked"),
        Column("share", "share", "percent", 1),
        Column("edges", "edges", "whole"),
        Column("living", "can matter", "whole", help="edges on a way from the input to the logits"),
        Column("f", "f", "plain"),
        *([Column("stderr", "± SE", "plain")] if pairs > 1 else []),
        Column("KL", "KL", "plain"),
        Column("NDF", "NDF", "plain"),
    )
    return Table(f"{name}-sizes", "Circuits of each size", columns, rows_of(frame))


def faithfulness_table(evaluation: Evaluation) -> Table:
    """The circuit pair by pair, the least faithful first."""
    frame = evaluation.by_pair().sort_values("f", kind="stable")
    shown = min(SHOWN, len(frame))
    columns = (
        Column("pair", "pair", "index"),
        Column("clean", "clean prompt"),
        Column("f", "f", "plain"),
        Column("metric", "M, circuit", "signed"),
        Column("full", "M, model", "signed"),
        Column("none", "M, corrupted", "signed"),
        Column("KL", "KL", "plain"),
        Column("NDF", "NDF", "plain"),
    )
    note = "The least faithful first." + (" faithfulness.csv holds all." if shown < len(frame) else "")
    return Table(f"{evaluation.name}-pairs", "Pair by pair", columns, rows_of(frame), note, shown)


def cost_table(found: Discovery) -> Table:
    """What each step cost, beside its forecast."""
    rows = []
    for step, plan in zip(found.steps, found.plan, strict=True):
        row: dict[str, Any] = {"what": step.what, "token-layers": step.token_layers, "passes": step.passes}
        rows.append(row | {"forecast": plan.token_layers, "seconds": step.seconds})
    columns = (
        Column("what", "step"),
        Column("token-layers", "token-layers", "whole"),
        Column("forecast", "forecast", "whole", help="for circuits an upper bound"),
        Column("passes", "forward passes", "plain", 1, help="of the whole model over the step's pairs"),
        Column("seconds", "seconds", "plain", 1),
    )
    return Table("cost", "What it cost", columns, tuple(rows))


def rows_of(frame: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """A table's rows as plain values."""
    return tuple(frame.to_dict("records"))
