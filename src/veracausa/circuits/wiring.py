"""Which edges a circuit keeps, as sets: names, live edges, heads and nodes that they touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import HEAD, INPUT, LOGITS, MLP, WRITER_MIXER, WRITER_MLP, Graph
from veracausa.arguments import shown
from veracausa.errors import CircuitError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


def parse_names(graph: Graph, names: Sequence[str]) -> Int[np.ndarray, "edges 2"]:
    """(writer, reader) of edges by name.

    Raises:
        UnitError: a name that is no edge of this graph.
        CircuitError: a name twice, or one with a position.
    """
    ends = []
    for name in names:
        if "@" in name:
            raise CircuitError(f"{shown(name)}: a circuit keeps an edge at all positions or at none. Leave the @… out.")
        ends.append(graph.parse(name))
    if len(set(ends)) < len(ends):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise CircuitError(f"Edges are listed twice: {', '.join(twice[:5])}.")
    return np.array(ends, dtype=np.int64).reshape(-1, 2)


def live_edges(graph: Graph, mask: Bool[np.ndarray, "readers writers"]) -> Bool[np.ndarray, "readers writers"]:
    """Edges of `mask` that lie on a path of its edges from the input to the logits.

    Every path to an edge's writer and from its reader is kept with it, so nothing is left to drop afterwards.
    """
    return np.asarray(mask & graph.reached(mask) & graph.leading(mask)[:, None])


def heads_of(graph: Graph, reader: int) -> list[int]:
    """Indices, as writers, of the heads that a reader feeds: one of a query, the group of a key or value, all of a
    reader that they share, a mixer's."""
    return graph.block(int(graph.reader_layer[reader])).fed_by(reader)


def writers_fed(graph: Graph, reader: int) -> list[int]:
    """Indices of the writers that a reader feeds: heads, an MLP, none for the logits."""
    kind = graph.reader_kind[reader]
    if kind == LOGITS:
        return []
    return [graph.block(int(graph.reader_layer[reader])).mlp.start] if kind == MLP else heads_of(graph, reader)


def readers_of(graph: Graph, writer: int) -> list[int]:
    """Indices of the readers that feed a writer: a head's query, key and value; an MLP's own; the mixer; or none."""
    if graph.writer_kind[writer] == INPUT:
        return []
    at = graph.block(int(graph.writer_layer[writer]))
    return [at.mlp_reader.start] if graph.writer_kind[writer] == WRITER_MLP else at.feeding(writer)


def touched_by(graph: Graph, mask: Bool[np.ndarray, "readers writers"]) -> dict[int, list[int]]:
    """For every reader of a kept edge, the writers whose node it touches (see `Circuit.nodes`)."""
    reads, own = np.any(mask, axis=1), np.any(mask, axis=0)
    fed = {reader: writers_fed(graph, reader) for reader in np.flatnonzero(reads).tolist()}
    for alone in (writers for writers in fed.values() if len(writers) == 1):
        own[alone] = True
    return {reader: [writer for writer in writers if own[writer]] or writers for reader, writers in fed.items()}


def require_heads_and_mlps(graph: Graph, what: str) -> None:
    """CircuitError where a format of others, `what`, has no words for what a graph holds."""
    if graph.has_mixers:
        raise CircuitError(
            f"{what} is made of heads and MLPs, and {graph} has mixers, for which it has no word. Save the circuit "
            "itself (circuit.save), or as GraphML."
        )


def nodes_of(graph: Graph, mask: Bool[np.ndarray, "readers writers"]) -> list[str]:
    """See `Circuit.nodes`."""
    touched = set(np.flatnonzero(mask.any(0)).tolist())
    touched.update(*touched_by(graph, mask).values())
    names = [graph.writer_names[writer] for writer in sorted(touched)]
    return [*names, "logits"] if mask[-1].any() else names


def node_table(graph: Graph) -> Mapping[str, dict[str, Any]]:
    """Name of every node → its kind, layer and head (those that apply)."""
    table: dict[str, dict[str, Any]] = {}
    columns = zip(graph.writer_names, graph.writer_kind, graph.writer_layer, graph.writer_index, strict=True)
    for name, kind, layer, index in columns:
        if kind == HEAD:
            table[name] = {"kind": "head", "layer": int(layer), "head": int(index)}
        elif kind == WRITER_MIXER:
            table[name] = {"kind": "mixer", "layer": int(layer)} | ({"head": int(index)} if index >= 0 else {})
        else:
            table[name] = {"kind": "mlp", "layer": int(layer)} if kind == WRITER_MLP else {"kind": "input"}
    return table | {"logits": {"kind": "logits"}}
