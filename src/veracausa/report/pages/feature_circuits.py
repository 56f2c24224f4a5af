"""The page of a circuit of features: its drawing, its parts and edges, and how faithful it is by exact runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from veracausa.circuits.featured import FeatureCircuit
from veracausa.circuits.quality.part_curve import PartCurve
from veracausa.errors import MethodError
from veracausa.report.chapters.features import plainly
from veracausa.report.charts.feature_circuits import feature_circuit_part
from veracausa.report.charts.figures import Figure
from veracausa.report.charts.part_curves import part_curve_part
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.single import Single, single
from veracausa.report.readable import readable
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.storage.files import at, write_text
from veracausa.words import whole

_METHODS = (
    (
        "Nodes",
        "Every feature and every error of a dictionary is scored by its change from the clean to the corrupted run (or "
        "to zero) times the metric's gradient, at the clean run (atp) or averaged along the straight way of its whole "
        "site (ig). Those over a threshold are the circuit's nodes (Marks et al., 2403.19647).",
    ),
    (
        "Edges",
        "From node to node: the upstream change times the slope of the downstream part at the clean run times the "
        "metric's gradient at the downstream part. No edge goes past a dictionary that lies between.",
    ),
    (
        "Faithfulness",
        "By exact runs: all parts outside of the circuit are replaced, with everything that follows live. 1 is the "
        "model's behaviour, 0 that of the model with every ranked part replaced. Completeness is the same of what is "
        "left when the circuit is taken out. Errors are nodes like features, or kept as they are in every run, or "
        "replaced in every run.",
    ),
)
_READING = (
    ("Names", "f20.517 is feature 517 of the dictionary at layer 20, f20.error what that dictionary leaves out, "
              "f20.517@5 the feature at position 5."),
    ("Sign", "An effect is the metric with the part replaced minus without: negative parts support the behaviour."),
    ("Estimates", "Scores of nodes and edges are estimates; the curves are exact runs."),
)  # fmt: skip
_TITLES = {"node": "Errors are nodes", "kept": "Errors are kept", "moved": "Errors are replaced"}


def write_page(found: FeatureCircuit, path: str | Path, curves: Sequence[PartCurve] = ()) -> Path:
    """Write the page as one offline file (public as `circuit.page`).

    Raises:
        MethodError: a curve of another model or task. FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found, curves))


def page(found: FeatureCircuit, curves: Sequence[PartCurve] = ()) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    for curve in curves:
        if (curve.model["identity"], curve.task["digest"]) != (found.model["identity"], found.task["digest"]):
            raise MethodError("A curve is of another model or of other pairs than the circuit: run it on the same.")
    figures = [*spared_figures("drawing", "The circuit", lambda: _drawing(found))]
    figures += spared_figures("curves", "Faithfulness", lambda: _curves(curves)) if curves else []
    tables = [
        *spared_tables("nodes", "Nodes", lambda: [_nodes(found)]),
        *spared_tables("edges", "Edges", lambda: [_edges(found)]),
        *(spared_tables("shares", "Faithfulness and completeness", lambda: [_shares(curves)]) if curves else []),
    ]
    unchecked = "Nothing here was run exactly: nodes and edges are estimates."
    told = Single(
        "circuit of features",
        f"A circuit of features in {found.model['name']}",
        "The circuit",
        found.task["description"],
        _facts(found),
        [*found.sentences[:-1], *(f"{_TITLES[one.errors]}: {one.sentences[0]}" for one in curves)],
        figures,
        tables,
        _METHODS,
        _READING,
        () if curves else (unchecked,),
        ", nodes, edges and exact runs",
        "All numbers are in this page. circuit.save(…) and curve.save(…) keep them whole (vc.open).",
    )
    return single(told, found.model, sum((curve.cost for curve in curves), start=found.cost))


def _facts(found: FeatureCircuit) -> list[tuple[str, str]]:
    told = found.settings
    facts = [
        ("Parts scored", whole(found.candidates)), ("Nodes", whole(len(found.parts))),
        ("Edges", whole(len(found.table()))), ("Nodes over", f"{found.node_threshold:g}"),
        ("Edges over", f"{found.edge_threshold:g}"), ("Method", str(told["method"])),
        ("Replaced by", str(told["ablation"])), ("Pairs", whole(len(found.values))),
        ("Dictionaries", plainly(str(told["dictionary"]))),
    ]  # fmt: skip
    return facts


def _drawing(found: FeatureCircuit) -> list[Figure]:
    part = feature_circuit_part(found, "drawing")
    across = "Tokens of the first prompt across, layers upward" if found.settings.get("tokens") else "Layers upward"
    said = f"{across}. Lines are the strongest edges, wider where stronger; squares are errors of dictionaries. Blue "
    said += "supports the behaviour, orange works against it."
    bare = type(part)("", part.view, part.data, part.alt)
    return [Figure("drawing", "The circuit", (bare,), said, width=900)]


def _curves(curves: Sequence[PartCurve]) -> list[Figure]:
    parts = []
    for curve in curves:
        part = part_curve_part(curve, f"curve-{curve.errors}")
        parts.append(type(part)(_TITLES[curve.errors], part.view, part.data, part.alt))
    said = "Share of the behaviour that the strongest parts hold alone, and that is left without them, by exact runs."
    return [Figure("curves", "Faithfulness", tuple(parts), said)]


def _nodes(found: FeatureCircuit) -> Table:
    frame = found.node_table()
    tokens = found.settings.get("tokens") or []
    frame["layer"] = frame["name"].str.extract(r"^[a-z]+(\d+)")[0].astype(float)
    frame["kind"] = ["error" if one else "feature" for one in frame["error"]]
    columns = [Column("name", "node"), Column("layer", "layer", "index"), Column("kind", "kind")]
    if tokens:
        places = [int(one.partition("@")[2] or -1) for one in frame["name"]]
        frame["token"] = [f"{tokens[p].strip() or '␣'} @{p}" if 0 <= p < len(tokens) else "–" for p in places]
        columns.append(Column("token", "token (first prompt)"))
    columns += [Column("effect", "effect", "signed", 4), Column("stderr", "s. e.", "plain", 4)]
    return Table("nodes", "Nodes", tuple(columns), _rows(frame), _note(len(frame), "nodes"), SHOWN)


def _edges(found: FeatureCircuit) -> Table:
    columns = (
        Column("upstream", "from"), Column("downstream", "to"), Column("effect", "effect", "signed", 4),
        Column("stderr", "s. e.", "plain", 4),
    )  # fmt: skip
    frame = found.table()
    return Table("edges", "Edges", columns, _rows(frame), _note(len(frame), "edges"), SHOWN)


def _note(many: int, what: str) -> str:
    return f"Strongest first; of {whole(many)} {what} the first {min(SHOWN, many)} are shown."


def _shares(curves: Sequence[PartCurve]) -> Table:
    rows: list[dict[str, Any]] = []
    for curve in curves:
        rows += [{"errors": _TITLES[curve.errors], **row} for row in rows_of(curve.table())]
    columns = [Column("errors", "errors"), Column("parts", "parts", "whole")]
    for name in ("faithfulness", "completeness"):
        columns += [Column(name, name, "signed", 3), Column(f"{name}_stderr", "s. e.", "plain", 3)]
    return Table("shares", "Faithfulness and completeness", tuple(columns), tuple(rows))


def _rows(frame: Any) -> tuple[dict[str, Any], ...]:
    for column in frame.columns[frame.dtypes.map(lambda one: one.kind not in "fib")]:
        frame[column] = [readable(str(one)) for one in frame[column]]
    return tuple(rows_of(frame))
