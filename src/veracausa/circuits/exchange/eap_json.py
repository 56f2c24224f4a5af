"""The JSON graph of EAP-IG and the MIB benchmark, in both directions.

What the format is, read off `Graph.to_json` and `Graph.from_json` of hannamw/EAP-IG (src/eap/graph.py; eap/graph.py for
the older form), and off cisnlp/MIB-circuit-track (scripts/convert_mask_to_graph.py, export_ep_to_mib.py,
run_evaluation.py), which writes and reads the same files, usually named `importances.json`:

    {"cfg":   {"n_layers": int, "n_heads": int, "parallel_attn_mlp": bool, "d_model": int},
     "nodes": {"input" | "a0.h0" | "m0" | "logits": {"in_graph": bool}},
     "edges": {"input->a0.h0<q>" | "a0.h0->m0" | "m0->logits": {"score": float, "in_graph": bool}}}

* Keys and values are named per *query* head; models with grouped queries are run with the groups taken apart.
* A node may also have `score`, `neurons` (one flag for each dimension of the stream) and `neurons_scores`.
* The older form has plain flags as nodes, allows `null` as a score, and has no `d_model`.
* The reader takes every edge's `score` and `in_graph`, and ignores the flag of `logits`; without `d_model` it fails. An
  edge that is not in the file has score 0 and is not in the graph.
* Files of scores have all flags false: MIB's evaluation chooses the edges itself, by score or its magnitude. Scores are
  importances there: positive supports the behaviour.

**Here**: on export a key/value head's flag is copied to its query heads and its score split evenly among them, and so
are those of a reader that all heads of a block share (`a2<kv>` to the keys and values of all of them); on
import scores are summed and flags must agree (their pruning may have cut some heads of a group: `groups="any"` takes
those).
Nodes' flags follow from the edges. A circuit without importances is written with score 0 everywhere, which is read
as "not known". Neuron-level files have no counterpart here and are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.anatomy.graph import LOGITS, MLP, READERS, Graph
from veracausa.choices import Direction
from veracausa.circuits.circuit import NO_TASK, Circuit
from veracausa.circuits.wiring import node_table, nodes_of, require_heads_and_mlps, writers_fed
from veracausa.cost import Cost
from veracausa.errors import CircuitError, FileError, MethodError
from veracausa.scores.about import require_about
from veracausa.scores.scores import Scores, task_header
from veracausa.storage.files import at, read_json, write_text
from veracausa.storage.schema import reading
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges
from veracausa.units.existing import checked_edges

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task


def write_eap_json(
    lm: Model, path: str | Path, *, circuit: Circuit | None = None, scores: Scores | None = None
) -> Path:
    """Write a circuit, scores of edges, or both as one EAP-IG graph, whole or not at all.

    Args:
        lm: the model; the file states its sizes.
        path: the file.
        circuit: the edges that are in the graph; none: all flags are false, as in MIB's files of scores.
        scores: of edges; their importances are written. None: the circuit's own. Edges without one get 0.

    Raises:
        CircuitError: a circuit of another model; neither a circuit nor scores; a model with mixers.
        MethodError: scores of other units, of another model, or per position.
        UnitError: scores of another graph.
    """
    if circuit is None and scores is None:
        raise CircuitError("Nothing to write: pass circuit=…, scores=…, or both.")
    graph = lm.graph
    require_heads_and_mlps(graph, "EAP-IG's graph")
    score = np.zeros((graph.readers, graph.writers))
    mask = np.zeros((graph.readers, graph.writers), dtype=bool)
    if circuit is not None:
        edges = circuit.require_for(lm).edges
        mask = circuit.mask
        if circuit.importance is not None:
            score[edges.reader, edges.writer] = circuit.importance
    if scores is not None:
        units = _edges_of(lm, scores)
        score[:] = 0.0
        score[units.reader, units.writer] = scores.importance().double().numpy()
    if not np.isfinite(score).all():
        raise MethodError("A score is NaN or infinite; EAP-IG's graph holds numbers only.")
    inside, values, flags = set(nodes_of(graph, mask)), score.tolist(), mask.tolist()
    body = {
        "cfg": {
            "n_layers": graph.layers,
            "n_heads": graph.heads,
            "parallel_attn_mlp": graph.parallel,
            "d_model": lm.width,
        },
        "nodes": {name: {"in_graph": name in inside} for name in node_table(graph)},
        "edges": {
            name: {"score": values[reader][writer] / parts, "in_graph": flags[reader][writer]}
            for name, writer, reader, parts in _their_edges(graph)
        },
    }
    return write_text(path, json.dumps(body))


def read_eap_json(path: str | Path, lm: Model, *, groups: str = "agree") -> Circuit:
    """The circuit in an EAP-IG or MIB graph: edges whose `in_graph` is true, with their scores as importances.

    Args:
        path: the file.
        lm: the model that it is about; sizes must be the same.
        groups: "agree": flags of all heads that share a reader (a key/value head) must be equal. "any": one true flag
            keeps the edge.

    Raises:
        FileError: no such file, cut short, another format or model, flags that disagree, a score that is no number.
        CircuitError: no edge is in the graph, as in files of scores (`vc.circuits.scores_from_eap_json`).
    """
    path = at(path)
    kept, score = _read(path, lm, groups)
    reader, writer = np.nonzero(kept)
    if not len(reader):
        raise CircuitError(
            f"No edge of {path} is in the graph. Is it a file of scores? Then select from them: "
            "vc.select(vc.circuits.scores_from_eap_json(path, lm), n=…)."
        )
    return Circuit.of(
        lm.graph,
        writer,
        reader,
        importance=None if score is None else score[reader, writer],
        model=lm.header(),
        method=f"read from {path.name}",
    )


def scores_from_eap_json(
    path: str | Path, lm: Model, *, task: Task | None = None, direction: Direction = "noising", signed: bool = True
) -> Scores:
    """The scores of all edges in an EAP-IG or MIB graph, as `Scores` that can be selected from and compared.

    Args:
        path: the file.
        lm: the model that it is about; sizes must be the same.
        task: the task that the scores are about, to compare them with others of it; runs the bare model for its metric.
        direction: E = −score for "noising", +score for "denoising".
        signed: False: the scores are magnitudes.

    Returns:
        `Scores`; every example of the task has the same values (one example without a task).

    Raises:
        FileError: as `vc.circuits.read`; flags are not looked at.
        MethodError: a direction that does not exist.

    >>> vc.select(vc.circuits.scores_from_eap_json("scores.json", lm), n=500)
    """
    if direction not in ("noising", "denoising"):
        raise MethodError(f"direction={direction!r} is neither 'noising' nor 'denoising'.")
    path = at(path)
    _, score = _read(path, lm, "any")
    units = all_edges(lm)
    importance = np.zeros(len(units)) if score is None else score[units.reader, units.writer]
    sign = -1.0 if signed and direction == "noising" else 1.0
    values = torch.from_numpy(sign * importance).to(lm.score_dtype)
    measured = lm.measure(task) if task is not None else None
    unknown = torch.full((1,), math.nan)
    return Scores(
        values=values.repeat(1 if task is None else len(task), 1),
        units=units,
        method=f"read from {path.name}",
        settings={"direction": direction, "per_example": False},
        model=lm.header(),
        task=NO_TASK | {"n": 1} if task is None else task_header(task),
        clean=unknown if measured is None else measured.clean,
        corrupted=unknown if measured is None else measured.corrupted,
        cost=Cost(),
        signed=signed,
        notes=("scores of a file: how they were computed is not known here",),
    )


@lru_cache(maxsize=4)
def _their_edges(graph: Graph) -> list[tuple[str, int, int, int]]:
    """(their name, writer, reader, number of inputs of heads that share the reader) of every edge of theirs."""
    names = graph.writer_names
    ends = []  # of each reader
    for reader, kind in enumerate(graph.reader_kind.tolist()):
        suffixes = [""] if kind in (MLP, LOGITS) else [f"<{letter}>" for letter in READERS[kind]]
        ends.append([names[one] + suffix for one in writers_fed(graph, reader) for suffix in suffixes] or ["logits"])
    edges = zip(*(indices.tolist() for indices in graph.edges), strict=True)
    return [(f"{names[w]}->{end}", w, r, len(ends[r])) for w, r in edges for end in ends[r]]


def _edges_of(lm: Model, scores: Scores) -> Edges:
    if not isinstance(scores.units, Edges) or scores.units.positional:
        raise MethodError(f"EAP-IG's graph holds scores of edges over all positions, not {scores.units!r}.")
    require_about(lm, scores)
    return checked_edges(lm, scores.units, 1)


def _read(
    path: Path, lm: Model, groups: str
) -> tuple[Bool[np.ndarray, "readers writers"], Float[np.ndarray, "readers writers"] | None]:
    """Flags and summed scores of our edges; no scores where all are 0 or null."""
    if groups not in ("agree", "any"):
        raise MethodError(f"groups={groups!r} is neither 'agree' nor 'any'.")
    require_heads_and_mlps(lm.graph, "EAP-IG's graph")
    body = read_json(path, "an EAP-IG graph", sealed=False)
    with reading(path):
        return _graph_in(path, lm, body, groups)


def _graph_in(
    path: Path, lm: Model, body: dict[str, Any], groups: str
) -> tuple[Bool[np.ndarray, "readers writers"], Float[np.ndarray, "readers writers"] | None]:
    lacking = [key for key in ("cfg", "nodes", "edges") if not isinstance(body.get(key), dict)]
    if lacking:
        raise FileError(f"{path} is no EAP-IG graph: it lacks {', '.join(lacking)}.")
    _require_sizes(path, lm, body["cfg"])
    _require_nodes(path, lm.graph, body["nodes"])
    graph = lm.graph
    flags = np.zeros((graph.readers, graph.writers), dtype=np.int64)
    heads = np.ones_like(flags)
    score = np.zeros(flags.shape)
    for name, writer, reader, parts in _their_edges(graph):
        heads[reader, writer] = parts
        if name in body["edges"]:
            value, flag = _entry(path, name, body["edges"][name])
            score[reader, writer] += value
            flags[reader, writer] += flag
    theirs = {name for name, *_ in _their_edges(graph)}
    unknown = next((name for name in body["edges"] if name not in theirs), None)
    if unknown is not None:
        raise FileError(f"{path}: {unknown!r} is no edge of {lm.name}, {graph}.")
    uneven = (flags > 0) & (flags < heads)
    if groups == "agree" and uneven.any():
        reader, writer = (int(ends[0]) for ends in np.nonzero(uneven))
        ours = Edges.of(graph, np.array([writer]), np.array([reader])).names[0]
        raise FileError(
            f"{path}: {ours} is one edge here, but its flag is true for {flags[reader, writer]} of the "
            f"{heads[reader, writer]} inputs of heads that share it ({int(uneven.sum()):,} edges like that). "
            "groups='any' keeps such edges."
        )
    return flags > 0, score if score.any() else None


def _entry(path: Path, name: str, entry: Any) -> tuple[float, bool]:
    """Score and flag of one edge; a missing score is 0."""
    value = entry.get("score", 0.0) if isinstance(entry, Mapping) else None
    value = 0.0 if value is None and isinstance(entry, Mapping) else value
    flag = entry.get("in_graph", False) if isinstance(entry, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e30:
        raise FileError(f"{path}: the score of {name!r} is no finite number.")
    if not isinstance(flag, bool):
        raise FileError(f"{path}: 'in_graph' of {name!r} is {flag!r}, neither true nor false.")
    return float(value), flag


def _require_sizes(path: Path, lm: Model, cfg: Mapping[str, Any]) -> None:
    graph = lm.graph
    wanted = {"n_layers": graph.layers, "n_heads": graph.heads, "parallel_attn_mlp": graph.parallel}
    wanted |= {"d_model": lm.width} if "d_model" in cfg else {}
    wrong = [f"{key} {cfg.get(key)!r} instead of {value!r}" for key, value in wanted.items() if cfg.get(key) != value]
    if wrong:
        raise FileError(f"{path} is about another model than {lm.name}: {', '.join(wrong)}.")


def _require_nodes(path: Path, graph: Graph, nodes: Mapping[str, Any]) -> None:
    table = node_table(graph)
    for name, entry in nodes.items():
        if name not in table:
            raise FileError(f"{path}: {name!r} is no node of {graph}.")
        if isinstance(entry, Mapping) and not all(entry.get("neurons", [])):
            raise FileError(f"{path} keeps only some dimensions of {name}. Circuits here are made of whole edges.")
