"""Lays two circuits, or two discoveries with theirs, beside each other: ranks of their edges, f at equal sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from veracausa.circuits.circuit import Circuit
from veracausa.circuits.comparison import CircuitComparison, Sized, Worth, union_of
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.discovery.evaluation import Evaluation, seen_by
from veracausa.discovery.results import Discovery
from veracausa.engine.identity import difference, require_same_configuration
from veracausa.errors import MethodError, UnitError
from veracausa.statistics.accuracy import holm
from veracausa.statistics.differing import differences
from veracausa.words import counted

#: What two circuits may differ in, as their headers say it.
_HOW = {"how": "Selected", "by": "Ranked by", "direction": "Direction", "asked": "Edges asked for"}


def beside(
    one: Discovery | Circuit, other: Discovery | Circuit, *, paired: bool | None = None, corresponding: bool = False
) -> CircuitComparison:
    """Lay two circuits side by side; of discoveries also the ranks of all scored edges, and f at equal sizes.

    Args:
        one, other: A and B.
        paired: whether both were evaluated on the same pairs, in the same order; None: if their tasks have one digest.
        corresponding: that edges of the same name are the same, although the models have other configurations.

    Raises:
        UnitError: edges of other graphs, or of other models.
        MethodError: what has no circuit; `paired` where the pairs cannot be the same.

    >>> vc.discovery.beside(vc.open("out/eap"), vc.open("out/exact")).by_size()
    """
    circuits = _circuit(one), _circuit(other)
    _require_one_graph(*circuits, corresponding)
    edges = union_of(*circuits)
    laid = [_ranked(result, circuit, edges.index) for result, circuit in zip((one, other), circuits, strict=True)]
    evaluated = [result.evaluation for result in (one, other) if isinstance(result, Discovery)]
    same = _same_pairs(evaluated, paired)
    both = len(evaluated) == 2
    return CircuitComparison(
        *circuits,
        values=(laid[0][0], laid[1][0]),
        ranks=(laid[0][1], laid[1][1]),
        scored=(laid[0][2], laid[1][2]),
        mismatches=(*_mismatches(*circuits, evaluated), *([] if same else _shared(evaluated))),
        worth=(_worth(evaluated[0]), _worth(evaluated[1])) if both else None,
        sizes=_sizes(evaluated[0], evaluated[1], same) if both else (),
        paired=same,
    )


def _circuit(result: Any) -> Circuit:
    if isinstance(result, Discovery):
        return result.circuit
    if isinstance(result, Circuit):
        return result
    raise MethodError(
        f"A {type(result).__name__} has no circuit of edges, so it cannot be laid beside one. Two discoveries or "
        "circuits can, in any mix; scores, receipts and studies are laid beside their own kind."
    )


def _require_one_graph(one: Circuit, other: Circuit, corresponding: bool) -> None:
    """UnitError unless edges of the same name are the same in both."""
    if one.graph != other.graph:
        raise UnitError(
            f"The circuits are of two graphs of other shapes, {one.graph} and {other.graph}; they share no edges."
        )
    if one.model["identity"] and other.model["identity"] and not corresponding:
        require_same_configuration(one.model, other.model, "an edge of one", "edge", "vc.discovery.beside")


def _ranked(result: Any, circuit: Circuit, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Importance and rank of the edges `index` in a result (NaN and 0: not known), and how many it ranks."""
    if isinstance(result, Discovery):
        own, importance = result.scores.units.index, result.scores.importance().double().numpy()
    else:
        own = circuit.edges.index
        importance = np.full(len(own), np.nan) if circuit.importance is None else circuit.importance
    order = np.argsort(-np.abs(np.nan_to_num(importance, nan=-1.0)), kind="stable")
    order = order[np.isfinite(importance[order])]
    rank = np.zeros(len(own), dtype=int)
    rank[order] = np.arange(1, len(order) + 1)
    place = {int(edge): i for i, edge in enumerate(own)}
    at = np.array([place.get(int(edge), len(own)) for edge in index], dtype=int)
    return np.append(importance, np.nan)[at], np.append(rank, 0)[at], len(order)


def _same_pairs(evaluated: list[Evaluation], paired: bool | None) -> bool:
    digests = [one.pairs.digest() for one in evaluated]
    alike = len(evaluated) == 2 and len(evaluated[0].pairs) == len(evaluated[1].pairs)
    if paired and not alike:
        counts = " and ".join(f"{len(one.pairs):,}" for one in evaluated)
        raise MethodError(
            f"paired=True: they were evaluated on {counts} pairs."
            if len(evaluated) == 2
            else "paired=True: pairs are those that two discoveries were evaluated on; a circuit alone has none."
        )
    return alike and (digests[0] == digests[1] if paired is None else paired)


def _mismatches(one: Circuit, other: Circuit, evaluated: list[Evaluation]) -> list[tuple[str, str, str]]:
    """What differs in how they were made."""
    rows = [("Model", one.model["source"], other.model["source"])]
    identities = one.model["identity"], other.model["identity"]
    if all(identities) and (parts := difference(*identities)):
        rows.append((f"The model’s {parts}", *identities))
    mine, theirs = one.settings, other.settings
    rows += [
        ("Precision", str(one.model.get("dtype", "not said")), str(other.model.get("dtype", "not said"))),
        ("Pairs", _prompts(one.task), _prompts(other.task)),
        ("Metric", str(one.task["metric"]), str(other.task["metric"])),
        ("Method", one.method, other.method),
        *((what, str(mine.get(key, "not said")), str(theirs.get(key, "not said"))) for key, what in _HOW.items()),
    ]  # fmt: skip
    if len(evaluated) == 2:
        first, second = evaluated
        rows += [
            ("Evaluated on", _prompts(first.circuit.task), _prompts(second.circuit.task)),
            ("Ablation", first.ablation, second.ablation),
        ]
    return [row for row in rows if row[1] != row[2]]


def _shared(evaluated: list[Evaluation]) -> list[tuple[str, str, str]]:
    """How many pairs both were evaluated on, where some were: Welch's test takes all for independent."""
    if len(evaluated) != 2:
        return []
    sides = [(seen_by(own.pairs, others.pairs), len(own.pairs)) for own, others in (evaluated, evaluated[::-1])]
    if not any(shared for shared, _ in sides):
        return []
    one, other = (f"{shared:,} of {n:,}" for shared, n in sides)
    return [("Pairs evaluated in both, which the test takes for independent", one, other)]


def _prompts(task: dict[str, Any]) -> str:
    """The task in words, with the beginning of its hash: descriptions of two may be alike."""
    return f"{task['description'].rstrip('.')} ({task['digest'][:8] or 'no digest'})"


def _worth(one: Evaluation) -> Worth:
    seen = "" if one.seen else "held-out "
    return Worth(one.circuit.f, one.circuit.stderr(), counted(len(one.pairs), f"{seen}pair"))


def _sizes(one: Evaluation, other: Evaluation, paired: bool) -> tuple[Sized, ...]:
    """f of circuits with as many edges, ranking by ranking; all edges are the model itself, whatever ranked them."""
    rankings = {"signed": (one.curve.signed, other.curve.signed), "abs": (one.curve.absolute, other.curve.absolute)}
    alike = [
        (name, mine, theirs)
        for name, (first, second) in rankings.items()
        for mine in {run.edges: run for run in first}.values()
        for theirs in {run.edges: run for run in second}.values()
        if mine.edges == theirs.edges and mine.share < 1
    ]
    tested = [_tested(mine, theirs, paired) for _, mine, theirs in alike]
    known = [p for *_, p in tested if np.isfinite(p)]
    corrected = iter(holm(known)) if known else iter(())
    return tuple(
        Sized(name, mine.edges, (mine.f, theirs.f), (mine.stderr(), theirs.stderr()), value, error, p,
              next(corrected) if np.isfinite(p) else float("nan"))
        for (name, mine, theirs), (value, error, p) in zip(alike, tested, strict=True)
    )  # fmt: skip


def _tested(one: Faithfulness, other: Faithfulness, paired: bool) -> tuple[float, float, float]:
    """B − A of f, its standard error, and p of H0: none."""
    figures = np.array([one.f]), np.array([other.f])
    parts = [run.influence().double().numpy()[:, None] for run in (one, other)]
    if not all(np.isfinite(run.stderr()) for run in (one, other)):
        parts = [np.full_like(part, np.nan) for part in parts]
    value, error, p = differences(figures, (parts[0], parts[1]), paired=paired)
    return float(value[0]), float(error[0]), float(p[0])
