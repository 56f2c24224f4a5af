"""What the page's own script knows of a circuit: scored edges, where their nodes lie, and what was measured of it.

docs/page.md describes it. No model is needed to move the threshold: circuits of every size are the strongest edges of
a ranking, and f, KL and the rest stand at those sizes that were run, nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import READERS, K, Q, V
from veracausa.circuits.attacks.attack import RANDOM, Attack
from veracausa.circuits.attacks.budgets import BUDGETS
from veracausa.circuits.nodes import edges_of
from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.discovery.evaluation import Evaluation
from veracausa.discovery.results import Discovery
from veracausa.report.charts.circuit_layout import Grid, grid
from veracausa.report.charts.data import number
from veracausa.scores.scores import Scores
from veracausa.statistics.means import mean_of_known
from veracausa.studies.summary import called
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from veracausa.circuits.nodes import Node
    from veracausa.report.packing import Columns
    from veracausa.tasks.task import Task

#: Edges of each ranking that a page holds, the strongest.
MOST = 10_000
#: Budgets of an adversary that have a radius.
_AMOUNTS = ("sparse", "bounded")
#: Left, in the middle, right of a head: where edges into its query, key and value end.
_SIDES = {Q: -1.0, K: 0.0, V: 1.0}
_RANKED = {"signed": "importance", "abs": "abs_mean"}


def discovery_contents(found: Discovery, columns: Columns) -> dict[str, Any]:
    """A discovery's page as its script reads it: one section, that of the circuit."""
    task = found.pairs
    section: dict[str, Any] = {
        "id": "circuit", "title": called(task), "metric": task.metric, "pairs": [], "kinds": [], "told": [],
        "circuits": [_of_discovery(found, columns)],
    }  # fmt: skip
    return {"sections": [section], "calls": []}


def _of_discovery(found: Discovery, columns: Columns) -> dict[str, Any]:
    measured = [_evaluated(one, found.scores.signed) for one in (found.evaluation, *found.further)]
    chosen = found.circuit.edges.index.tolist()
    made = circuit_contents(found.scores, columns, "circuit-live", measured, found.pairs, chosen, found.exact())
    return made | {"positions": found.by_position and _by_position(found.by_position, found.pairs, columns)}


def study_circuit(
    scores: Scores, curve: Curve | None, by_position: Scores | None, task: Task, place: str, columns: Columns
) -> dict[str, Any]:
    """A study's scores of edges, and circuits of them that were run on other pairs of its task (None: they were not).

    `by_position`: the strongest at every position; `place`: the element that it is drawn in.
    """
    measured = [] if curve is None else [_curved(curve, scores)]
    made = circuit_contents(scores, columns, place, measured, task)
    return made | {"positions": by_position and _by_position(by_position, task, columns)}


def circuit_contents(
    scores: Scores,
    columns: Columns,
    place: str,
    measured: Sequence[dict[str, Any]],
    task: Task,
    chosen: Sequence[int] = (),
    exact: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """The strongest scored edges with their places, and what was `measured` of circuits of them.

    `chosen`: a selected circuit, by the index of its edges; `exact`: name of an edge → its exact importance.
    """
    every = edges_of(scores)
    row = {int(index): i for i, index in enumerate(every.index)}
    selected = [row[int(index)] for index in chosen]
    ranked = _rankings(scores)
    kept = np.array(sorted({*selected, *(i for order in ranked.values() for i in order)}), dtype=int)
    at = {int(i): k for k, i in enumerate(kept)}
    importance = scores.importance().double().numpy()
    strongest = sorted(selected, key=lambda i: -abs(importance[i]))
    orders = {"selected": strongest, **ranked}
    return {
        "place": place,
        "method": scores.method,
        "unit": scores.unit,
        "signed": scores.signed,
        "total": every.graph.size,
        "layers": every.graph.layers,
        "heads": every.graph.heads,
        "orders": {name: columns.add([at[int(i)] for i in order]) for name, order in orders.items()},
        "known": {name: len(order) for name, order in orders.items()},
        **drawn(every[kept], importance[kept], _errors(scores, kept), columns),
        "exact": _exact(exact, every[kept], columns),
        "measured": list(measured),
        "prompt": _prompt(task),
    }


def _by_position(scores: Scores, task: Task, columns: Columns) -> dict[str, Any]:
    """The strongest edges at positions, placed over layers × positions; those before the first difference are 0.

    `tokens`: whether the columns are named by the first pair's tokens, which all pairs must be as long as.
    """
    every = edges_of(scores)
    importance = scores.importance().double().numpy()
    order = [i for i in scores.ranking("abs_mean") if np.isfinite(importance[i]) and importance[i]]
    kept = np.array(sorted(order[:MOST]), dtype=int)
    alike = len(set(task.lengths)) == 1
    tokens = task.tokens(0)[0] if alike else ()
    made = drawn(every[kept], importance[kept], _errors(scores, kept), columns, tokens)
    return {
        **made, "method": scores.method, "unit": scores.unit, "signed": scores.signed, "total": len(order),
        "layers": every.graph.layers, "heads": every.graph.heads, "named": alike, "caution": scores.pooled,
    }  # fmt: skip


def _rankings(scores: Scores) -> dict[str, list[int]]:
    """The strongest edges by signed importance, as circuits of `Curve.signed` have them, and by |score|; no unknown
    ones. Magnitudes have one ranking."""
    known = np.isfinite(scores.importance().double().numpy())
    names = ("signed", "abs") if scores.signed else ("abs",)
    return {name: [i for i in scores.ranking(_RANKED[name])[:MOST] if known[i]] for name in names}  # type: ignore[arg-type]


def _errors(scores: Scores, kept: np.ndarray) -> np.ndarray:
    """Standard errors of some edges' scores; NaN where they are one for all pairs."""
    return scores.stderr().double().numpy()[kept] if scores.per_example else np.full(len(kept), np.nan)


def drawn(
    edges: Edges, importance: np.ndarray, error: np.ndarray, columns: Columns, tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """Nodes, edges by the places of their ends, joins from what heads share to the heads, and the axes; `tokens`: texts
    of the positions."""
    placed = grid(edges, tuple(tokens))
    node = {one: i for i, one in enumerate(placed.nodes)}
    graph = edges.graph
    into, which = np.unique(edges.reader, return_inverse=True)
    apart = graph.reader_index[into] >= 0
    sides = [_SIDES.get(int(kind), 0.0) * own for kind, own in zip(graph.reader_kind[into], apart, strict=True)]
    return {
        "nodes": _nodes(placed, columns),
        "readers": {
            "names": [graph.reader_names[i] for i in into], "side": sides,
            "reads": [READERS[int(kind)] for kind in graph.reader_kind[into]],
        },
        "edges": {
            "start": columns.add([node[start] for start, _ in placed.ends]),
            "end": columns.add([node[end] for _, end in placed.ends]),
            "into": columns.add(which.tolist()),
            "importance": columns.add([short(value) for value in importance]),
            "stderr": columns.add([short(value) for value in error]),
        },
        "joins": [[node[one], node[other]] for one, other in placed.joins],
        "axes": {
            "columns": [[x, text] for x, text in placed.columns.items()], "up": list(placed.up),
            "rows": [[y, text] for y, text in placed.rows.items()], "across": list(placed.across),
            "aside": placed.aside, "positional": edges.positional,
            "places": [[number(one["x"]), number(one["y"])] for one in placed.places],
        },
    }  # fmt: skip


def _nodes(placed: Grid, columns: Columns) -> dict[str, Any]:
    nodes: list[Node] = placed.nodes
    return {
        "name": columns.add([one.name for one in nodes]),
        "kind": columns.add([one.kind for one in nodes]),
        "layer": columns.add([one.layer for one in nodes]),
        "which": columns.add([one.which for one in nodes]),
        "position": columns.add([one.position for one in nodes]),
        "x": columns.add([number(placed.where[one][0]) for one in nodes]),
        "y": columns.add([number(placed.where[one][1]) for one in nodes]),
    }


def _exact(known: Mapping[str, float], kept: Edges, columns: Columns) -> dict[str, Any]:
    """The exact importances that are known: of edges by their places."""
    rows = [(i, known[name]) for i, name in enumerate(kept.names) if name in known] if known else []
    return {"at": columns.add([i for i, _ in rows]), "value": columns.add([short(value) for _, value in rows])}


def _evaluated(one: Evaluation, signed: bool) -> dict[str, Any]:
    """What was run on some pairs: the selected circuit, circuits of every size, random ones, and an adversary."""
    chance = _sizes(one.random_curve.signed, one.random_curve, "signed")
    rankings = {"abs": one.curve.absolute} | ({"signed": one.curve.signed} if signed else {})
    return {
        "name": one.name,
        "title": f"{called(one.pairs)}: {one.held_out}",
        "pairs": len(one.pairs),
        "ablation": one.ablation,
        "sizes": {
            "selected": [_size(one.circuit, None)],
            **{name: _sizes(found, one.curve, name) for name, found in rankings.items()},
        },
        "random": {"selected": [_size(one.random, None)], **dict.fromkeys(rankings, chance)},
        "attack": [] if one.attack is None else _radii(one.attack),
        "attacked": list(one.attacked),
    }


def _curved(curve: Curve, scores: Scores) -> dict[str, Any]:
    """What was run of a study's circuits."""
    held = curve.task["digest"] != scores.task["digest"]
    rankings = {"abs": curve.absolute} | ({"signed": curve.signed} if scores.signed else {})
    first = curve.signed[0]
    return {
        "name": "study",
        "title": curve.task["description"].rstrip(".")
        + ("; the edges were scored on other pairs" if held else "; not held out: the edges were scored on these"),
        "pairs": len(first.metric),
        "ablation": first.ablation,
        "sizes": {name: _sizes(found, curve, name) for name, found in rankings.items()},
        "random": {name: [] for name in rankings},
        "attack": [],
        "attacked": [],
    }


def _sizes(found: Sequence[Faithfulness], curve: Curve, ranking: str) -> list[dict[str, Any]]:
    return [_size(one, living) for one, living in zip(found, curve.living[ranking], strict=True)]


def _size(one: Faithfulness, living: int | None) -> dict[str, Any]:
    """A circuit that was run. `living`: edges of it that can matter, where they were counted."""
    return {
        "edges": one.edges, "living": living, "f": number(one.f), "stderr": number(one.stderr()),
        "kl": number(float(one.kl.mean())), "ndf": number(mean_of_known(one.ndf)),
    }  # fmt: skip


def _radii(attack: Attack) -> list[dict[str, Any]]:
    """Every kind of weights whose radius is known: over `inside`, at most `outside` (None: not reached)."""
    chosen = [one for one in attack.attempts if one.by != RANDOM and one.budget in _AMOUNTS]
    tried = dict.fromkeys((one.budget, one.each) for one in chosen)
    made = []
    for budget, each in tried:
        radius = attack.radius(budget, each=each)
        made.append({"what": BUDGETS[budget], "each": each, "inside": radius.inside, "outside": radius.outside})
    return made


def _prompt(task: Task) -> dict[str, Any]:
    """The first pair's tokens and answer, as a graph of one prompt needs them."""
    tokens, _ = task.tokens(0)
    clean, corrupted = list(task.clean[0]), list(task.corrupted[0])
    even = len(clean) == len(corrupted)
    return {
        "task": task.name,
        "tokens": list(tokens),
        "ids": [int(one) for one in clean],
        "differs": [one != other for one, other in zip(clean, corrupted, strict=True)] if even else None,
        "answer": int(task.correct[0][0]),
        "said": task.answer_strings(0)[0][0],
        "text": task.clean_text[0] or "".join(tokens),
    }


def short(value: float) -> float | None:
    """A number of so many digits as a reader can use: five."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
