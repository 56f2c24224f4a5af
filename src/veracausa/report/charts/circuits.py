"""Circuits and scores of edges as parts and figures of a page: what is drawn, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from veracausa.circuits.circuit import Circuit
from veracausa.circuits.nodes import at_positions, edges_of
from veracausa.report.charts.circuit_drawing import MOST_EDGES, drawing_view
from veracausa.report.charts.circuit_layout import layout
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.theme import Support
from veracausa.scores.scores import Scores
from veracausa.words import joined, signed, whole

_SIGNS = {"noising": "importance = −effect of noising: ", "denoising": "importance = effect of denoising: "}


def circuit_part(
    data: Datasets,
    circuit: Circuit,
    name: str,
    *,
    positions: Scores | None = None,
    tokens: Sequence[str] = (),
    most: int = MOST_EDGES,
) -> Part:
    """A circuit on the grid of layers × heads; with `positions`, scores of edges at positions, layers × positions.

    Raises:
        CircuitError: `positions` that are no scores of its edges at positions.
    """
    if positions is not None and len(circuit):
        kept = at_positions(circuit, positions)
        heading = f"{positions.method}: circuit of {whole(len(circuit))} edges, by position"
        return _strongest_part(data, positions, kept, name, heading, tokens, most)
    groups = {node: group for group, nodes in circuit.settings.get("groups", {}).items() for node in nodes}
    plan = layout(circuit.edges, circuit.importance, most=most, groups=groups)
    magnitudes = circuit.settings.get("signed") is False
    size = f"{whole(len(circuit))} of {whole(circuit.graph.size)} edges ({circuit.share:.2%})"
    sign = "importances are not known"
    if circuit.importance is not None:
        sign = _sign(str(circuit.settings.get("direction", "")), not magnitudes)
    if not len(circuit):
        lines = _lines(circuit.model, circuit.task, empty_sentence(circuit), 0, 0, True)
        return Part(f"{circuit.method}: no edges", drawing_view(data, plan, name), data, empty_sentence(circuit), lines)
    return Part(
        f"{circuit.method}: circuit of {size}",
        drawing_view(data, plan, name, signed=not magnitudes),
        data,
        f"Circuit of {circuit.describe().splitlines()[0].removeprefix('circuit of ')}",
        _lines(circuit.model, circuit.task, sign, len(plan.edges), len(circuit), circuit.importance is not None)
        + f"\n{circuit.verified}",
    )


def edges_part(
    data: Datasets, scores: Scores, name: str, *, tokens: Sequence[str] = (), most: int = MOST_EDGES
) -> Part:
    """The strongest of scores of edges, on the grid of layers × heads, or of positions if they are per position."""
    kept = np.flatnonzero(np.isfinite(scores.importance().numpy()))
    heading = f"{scores.method}: {whole(len(scores))} {scores.units.kind}"
    return _strongest_part(data, scores, kept, name, heading, tokens, most)


def circuit_figure(circuit: Circuit, name: str, **options: Any) -> Figure:
    """A circuit as a figure of a page, with a sentence; `options`: those of `circuit_part`."""
    part = circuit_part(Datasets(), circuit, name, **options)
    width = int(part.view.to_dict(validate=False)["width"])
    return Figure(name, "The circuit", (part,), circuit_sentence(circuit), least=320, width=width)


def empty_sentence(circuit: Circuit) -> str:
    """Why a circuit has no edges, as far as its notes say."""
    told = [note for note in circuit.notes if note.startswith("no edges")]
    return told[-1] if told else circuit.describe().splitlines()[0]


def circuit_sentence(circuit: Circuit) -> str:
    """How many nodes, the strongest edge, and how many edges work against the behaviour; or why there are none."""
    if not len(circuit):
        said = empty_sentence(circuit)
        return f"{said[0].upper()}{said[1:]}."
    nodes = circuit.nodes
    heads, mlps = (sum(name.startswith(letter) for name in nodes) for letter in "am")
    text = f"{whole(len(circuit))} edges between {joined([f'{heads} heads', f'{mlps} MLPs'])}, input and logits"
    if circuit.importance is None:
        return f"{text}; how important each is, is not known."
    best = int(np.argmax(np.abs(circuit.importance)))
    text += f"; the strongest is {circuit.names[best]}, {signed(float(circuit.importance[best]))}"
    against = int((circuit.importance < 0).sum())
    works = "works" if against == 1 else "work"
    return f"{text}; {whole(against)} {works} against the behaviour." if against else f"{text}."


def _strongest_part(
    data: Datasets,
    scores: Scores,
    kept: np.ndarray,
    name: str,
    heading: str,
    tokens: Sequence[str],
    most: int,
) -> Part:
    """The `most` strongest of the scored edges `kept`, and the nodes that these touch."""
    importance = scores.importance().double().numpy()[kept]
    best = np.sort(np.argsort(-np.abs(importance), kind="stable")[:most])
    plan = layout(edges_of(scores)[kept[best]], importance[best], most=most, tokens=tuple(tokens))
    what = "edges at positions" if plan.positional else "edges"
    sign = _sign(scores.direction, scores.signed)
    lines = _lines(scores.model, scores.task, sign, len(best), int((importance != 0).sum()), True, what)
    lines = "\n".join([lines, scores.verified, *scores.cautions])
    alt_text = f"The {len(best)} strongest {what} of {scores.method}"
    return Part(heading, drawing_view(data, plan, name, signed=scores.signed), data, alt_text, lines)


def _sign(direction: str, has_sign: bool) -> str:
    if not has_sign:
        return Support.UNSIGNED.value
    return _SIGNS.get(direction, "importance: ") + Support.POSITIVE.value


def _lines(
    model: dict[str, str], task: dict[str, Any], sign: str, drawn: int, total: int, known: bool, what: str = "edges"
) -> str:
    """Model, task with its number of pairs, sign, and what was left out."""
    lines = [" · ".join(filter(None, (model["name"] or model["source"], task["description"].rstrip(".")))), sign]
    if drawn < total:
        lines.append(f"{whole(drawn)} of {whole(total)} {what} drawn: the {'strongest' if known else 'first'}")
    return "\n".join(lines)
