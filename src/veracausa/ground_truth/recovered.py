"""How well scores or a circuit recover a known circuit.

Over all N units with K true ones, ranked by magnitude (or by importance):

* AUROC: the chance that a true unit scores higher than a false one, ties counted as half; 0.5 for a random ranking;
* average precision: Σ_k (recall_k − recall_{k−1}) · precision_k down the ranking, units of equal score taken together;
  K / N for a random ranking;
* precision, recall and F1 of the n highest (default n = K, where the three are equal unless fewer than n score over 0).

A unit that scores 0 is never counted as found: a ranking of zeros finds nothing, in whatever order it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.choices import Ranking
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.wiring import nodes_of, readers_of
from veracausa.errors import MethodError, UnitError
from veracausa.ground_truth.known import Known
from veracausa.result import Shown
from veracausa.scores.scores import Scores
from veracausa.statistics.ranking import auroc, average_precision
from veracausa.storage.files import at, read_json, write_json
from veracausa.storage.schema import MODEL, TASK, many, maybe, number, reading, record, text, whole
from veracausa.units.edges import Edges
from veracausa.words import listed

if TYPE_CHECKING:
    import pandas as pd

#: What a ranking goes by.
RANKINGS = ("abs_mean", "mean_abs", "importance")


@dataclass(frozen=True)
class Recovery(Shown):
    """A comparison with the truth; see the module. `auroc`, `average_precision`: None for a circuit, which ranks
    nothing. `missed`: true units that are not among the `n` taken; `wrong`: false ones that are. `model`, `task`: of
    what was found; `settings`: how it was ranked, and how it was made.

    >>> lm, program = vc.ground_truth.load_compiled("sort")
    >>> edges = vc.attribute(lm, program.task(n=64), units="edges", method="eap")
    >>> vc.ground_truth.recovery(edges, program).missed
    """

    units: str
    true: int
    of: int
    n: int
    precision: float
    recall: float
    f1: float
    auroc: float | None
    average_precision: float | None
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]

    @property
    def cost(self) -> None:
        """None: what was found has its own, and comparing it with the truth runs no model."""

    def table(self) -> pd.DataFrame:
        """The figures in one row."""
        import pandas as pd

        return pd.DataFrame([{name: getattr(self, name) for name in FIGURES}])

    @property
    def sentences(self) -> tuple[str, ...]:
        """How much of the truth was found, and what was missed or wrong."""
        said = [f"Of {self.true} true {self.units} among {self.of} the {self.n} taken hold {self.recall:.0%}."]
        for what, names in (("Missed", self.missed), ("Wrongly taken", self.wrong)):
            if names:
                said.append(f"{what}: {listed(names[:5])}{' and more' * (len(names) > 5)}.")
        return tuple(said)

    def describe(self) -> str:
        """The figures in a line."""
        return str(self)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all; `vc.open` reads it."""
        return write_json(path, {"format": _FORMAT, **asdict(self)})

    def __str__(self) -> str:
        ranked = ""
        if self.auroc is not None:
            ranked = f"AUROC {self.auroc:.3f}, average precision {self.average_precision:.3f}; "
        return (
            f"{self.true} true of {self.of} {self.units}: {ranked}{self.n} taken, precision {self.precision:.2f}, "
            f"recall {self.recall:.2f}, F1 {self.f1:.2f}"
        )


#: Fields that are figures.
FIGURES = ("units", "true", "of", "n", "precision", "recall", "f1", "auroc", "average_precision")
_FORMAT = "veracausa-recovery-1"
_SHARE = number(0, 1)
_CONTENT = record(
    units=text, true=whole(1), of=whole(1), n=whole(), precision=_SHARE, recall=_SHARE, f1=_SHARE,
    auroc=maybe(_SHARE), average_precision=maybe(_SHARE), missed=many(text), wrong=many(text),
    model=MODEL, task=TASK, settings=record(),
)  # fmt: skip


def load_recovery(path: str | Path) -> Recovery:
    """Read what `Recovery.save` wrote; FileError for any other file."""
    body = read_json(path, "a recovery")
    with reading(at(path)):
        if body.get("format") != _FORMAT:
            raise ValueError(f"it says that it is {body.get('format')!r}")
        found = _CONTENT(body)
        return Recovery(**{field.name: found[field.name] for field in fields(Recovery)})


def recovery(
    found: Scores | Circuit,
    truth: Known | Circuit | Iterable[str],
    *,
    n: int | None = None,
    by: Ranking = "abs_mean",
    nodes: bool = False,
) -> Recovery:
    """Compare scores, or a circuit, with the true parts; the module has the formulas.

    Args:
        found: scores of edges, heads, MLPs or other units without positions, or a circuit.
        truth: a program with a known circuit (its edges for edges, its nodes for other units), a circuit, or names.
            Nodes that are no units of `found` are left out: MLPs where heads are scored.
        n: how many of the highest are taken; default: as many as are true.
        by: "abs_mean" (|mean E|), "mean_abs" (mean |E|) or "importance" (what works against the behaviour ranks last).
        nodes: judge the nodes that edges touch: a node scores what the highest of its edges scores. For edges only.

    Raises:
        MethodError: an unknown ranking, n out of range or given for a circuit, scores per position, or a truth that
            holds none or all of the units, so that nothing is to be told apart.
        UnitError: the truth names edges that are not among those found.

    >>> lm, program = vc.ground_truth.load_compiled("sort")
    >>> vc.ground_truth.recovery(vc.attribute(lm, program.task(n=64), units="edges", method="eap"), program).auroc
    """
    if by not in RANKINGS:
        raise MethodError(f"by={by!r} is not a ranking. Known: {', '.join(RANKINGS)}.")
    if isinstance(found, Circuit):
        names, values, kind = _of_circuit(found, nodes)
    else:
        names, values, kind = _of_scores(found, by, nodes)
    true = np.isin(names, sorted(_true_names(truth, kind, names)))
    if not 0 < true.sum() < len(names):
        raise MethodError(
            f"{int(true.sum())} of {len(names)} {kind} are true, so there is nothing to tell apart. Compare units of "
            "which some are true and some are not."
        )
    size = int(true.sum()) if n is None else n
    if isinstance(found, Circuit):
        size = int((values > 0).sum())
        if n is not None:
            raise MethodError(f"n={n}: a circuit is taken whole, {len(found):,} edges. Leave n= out.")
    elif not 1 <= size <= len(names):
        raise MethodError(f"n={n}: at least 1 and at most as many as were scored, {len(names):,}.")
    order = np.argsort(-values, kind="stable")[:size]
    taken = np.zeros(len(names), dtype=bool)
    taken[order[values[order] > 0]] = True
    hits, many = int((taken & true).sum()), int(taken.sum())
    ranked = not isinstance(found, Circuit)
    return Recovery(
        units=kind,
        true=int(true.sum()),
        of=len(names),
        n=many,
        precision=hits / many if many else 0.0,
        recall=hits / int(true.sum()),
        f1=2 * hits / (many + int(true.sum())),
        auroc=auroc(true, values) if ranked else None,
        average_precision=average_precision(true, values) if ranked else None,
        missed=tuple(names[true & ~taken].tolist()),
        wrong=tuple(names[taken & ~true].tolist()),
        model=found.model,
        task=found.task,
        settings={"by": by, "nodes": nodes, "found": found.method, "how": found.settings},
    )


def _of_scores(scores: Scores, by: str, nodes: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Names, values and kind of what is ranked; a unit that no example has scores 0."""
    units = scores.units
    if units.positional:
        raise MethodError("A known circuit has no positions, and these are scores per position. Score whole units.")
    columns = {"abs_mean": scores.mean().abs(), "mean_abs": scores.values.abs().nanmean(0),
               "importance": scores.importance()}  # fmt: skip
    values = columns[by].nan_to_num().double().numpy()
    if not isinstance(units, Edges):
        if nodes:
            raise MethodError(f"nodes=True judges the nodes of edges, but these are scores of {units.kind}.")
        return np.array(units.names), values, units.kind
    if not nodes:
        return np.array(units.names), values, "edges"
    graph = units.graph
    best = {}
    for name, node in zip(graph.writer_names[1:], range(1, graph.writers), strict=True):
        touched = (units.writer == node) | np.isin(units.reader, readers_of(graph, node))
        best[name] = values[touched].max(initial=0.0)
    return np.array(list(best)), np.array(list(best.values())), "nodes"


def _of_circuit(circuit: Circuit, nodes: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """The same of a circuit: 1 for what it keeps, 0 for the rest of its graph."""
    graph = circuit.graph
    if nodes:
        names = np.array(graph.writer_names[1:])
        return names, np.isin(names, nodes_of(graph, circuit.mask)).astype(float), "nodes"
    writer, reader = graph.edges
    names = np.array(Edges.of(graph, writer, reader).names)
    return names, np.isin(names, circuit.names).astype(float), "edges"


def _true_names(truth: Known | Circuit | Iterable[str], kind: str, names: np.ndarray) -> set[str]:
    """Names of the true units of a kind."""
    if isinstance(truth, Circuit):
        return set(truth.names if kind == "edges" else truth.nodes)
    if isinstance(truth, Known):
        return set(truth.edges if kind == "edges" else truth.nodes)
    listed = set(truth)
    if unknown := sorted(listed - set(names.tolist())):
        raise UnitError(f"true {kind} that are not among those found: {', '.join(unknown[:5])}")
    return listed
