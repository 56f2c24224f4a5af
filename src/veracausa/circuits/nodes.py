"""Between which nodes edges run, also at single positions, for pictures and graphs of other programs.

An edge at a position stays there: a reader sees what was written at its own position. What attention carries on, from a
key/value head at its position to the heads of its group where these read a query or write, now or later, is a pair
beside the edges; so is what a mixer carries from where it reads to where it (or a head of it) writes. A key/value head
is a node of its own at positions and where several heads share it; else its edges enter the head. So is a reader that
all heads of a block share (`a2<q>`), and its pairs are with all of them. Over all positions the pairs join it to the
heads that the circuit touches (`Circuit.nodes`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from veracausa.anatomy.graph import HEAD, INPUT, KV, MIXER, MLP, READERS, WRITER_MIXER, Graph, K, Q, V
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.wiring import heads_of, touched_by
from veracausa.errors import CircuitError
from veracausa.scores.scores import Scores
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Int


#: What a reader that all heads of a block share is called as a node, by its kind.
SHARED = {Q: "queries", K: "keys", KV: "keys and values"}
_LETTERS = {name: READERS[kind] for kind, name in SHARED.items()}


class Node(NamedTuple):
    """A node at a position (−1: all); `which`: of the heads or kv heads.

    `kind`: input, head, kv, mlp, mixer, mixer head, logits, or of `SHARED`.
    """

    kind: str
    layer: int
    which: int
    position: int

    @property
    def stem(self) -> str:
        """The node's name without its position."""
        if self.kind in ("input", "logits"):
            return self.kind
        if self.kind in ("mlp", "mixer"):
            return f"{'m' if self.kind == 'mlp' else 'x'}{self.layer}"
        if self.kind == "mixer head":
            return f"x{self.layer}.h{self.which}"
        if self.kind in _LETTERS:
            return f"a{self.layer}<{_LETTERS[self.kind]}>"
        return f"a{self.layer}.{'h' if self.kind == 'head' else 'kv'}{self.which}"

    @property
    def name(self) -> str:
        """`a9.h6`, or `a9.h6@7` at one position."""
        return self.stem + (f"@{self.position}" if self.position >= 0 else "")


def ends_of(edges: Edges) -> tuple[list[tuple[Node, Node]], list[tuple[Node, Node]]]:
    """The two nodes of every edge, and the (key/value head, head) pairs that the module speaks of."""
    graph = edges.graph
    apart = edges.positional or graph.shares_keys
    ends = []
    columns = (edges.writer.tolist(), edges.reader.tolist(), edges.position.tolist())
    for writer, reader, position in zip(*columns, strict=True):
        ends.append((_writer(graph, writer, position), _reader(graph, reader, position, apart)))
    if edges.positional:
        return ends, _carried(graph, ends)
    joins = {
        (_reader(graph, reader, -1, apart), _writer(graph, head, -1))
        for reader, heads in touched_by(graph, edges.mask).items()
        for head in heads
    }
    return ends, sorted(pair for pair in joins if pair[0] != pair[1])


def _carried(graph: Graph, ends: list[tuple[Node, Node]]) -> list[tuple[Node, Node]]:
    """Of every key/value head at a position, the heads of its group at the same or a later one; of mixers, and of what
    all heads share, likewise (of queries at the same alone)."""
    nodes = {node for pair in ends for node in pair}
    heads = defaultdict(list)
    for node in nodes:
        if node.kind == "head":
            heads["kv", node.layer, node.which // graph.share(node.layer)].append(node)
            for kind in _LETTERS:
                heads[kind, node.layer, -1].append(node)
        elif node.kind == ("mixer head" if graph.mixer_heads else "mixer"):
            heads["mixer", node.layer, -1].append(node)
    return sorted(
        (reader, head)
        for reader in nodes
        if reader.kind in ("kv", "mixer", *_LETTERS)
        for head in heads[reader.kind, reader.layer, reader.which]
        if head.position >= reader.position and head != reader
        if head.position == reader.position or reader.kind != SHARED[Q]
    )


def _writer(graph: Graph, writer: int, position: int) -> Node:
    kinds = {INPUT: "input", HEAD: "head", WRITER_MIXER: "mixer head" if graph.mixer_heads else "mixer"}
    kind = kinds.get(int(graph.writer_kind[writer]), "mlp")
    return Node(kind, int(graph.writer_layer[writer]), int(graph.writer_index[writer]), position)


def _reader(graph: Graph, reader: int, position: int, apart: bool) -> Node:
    kind, layer, index = (int(column[reader]) for column in (graph.reader_kind, graph.reader_layer, graph.reader_index))
    if kind in SHARED and index < 0:
        return Node(SHARED[kind], layer, -1, position)
    if kind in (K, V, KV) and apart:
        return Node("kv", layer, index, position)
    if kind in (Q, K, V, KV):
        return _writer(graph, heads_of(graph, reader)[0], position)
    return Node({MLP: "mlp", MIXER: "mixer"}.get(kind, "logits"), layer, index, position)


def edges_of(scores: Scores) -> Edges:
    """The units of scores, if they are edges.

    Raises:
        CircuitError: they are others.
    """
    if not isinstance(scores.units, Edges):
        raise CircuitError(f"A circuit needs scores of edges, not of {scores.units.kind}. Take units='edges'.")
    return scores.units


def at_positions(circuit: Circuit, scores: Scores) -> Int[np.ndarray, " kept"]:
    """Which of the scored edges at positions belong to the circuit and exist in an example.

    Raises:
        CircuitError: other units, no positions, another graph, or none of the circuit's edges.
    """
    units = edges_of(scores)
    if not units.positional:
        raise CircuitError("positions=… needs scores per position: vc.attribute(…, units='edges@positions').")
    if units.graph != circuit.graph:
        raise CircuitError(f"The scores are of edges of {units.graph}, but the circuit's graph is {circuit.graph}.")
    inside = circuit.mask[units.reader, units.writer] & np.isfinite(scores.importance().numpy())
    if not inside.any():
        raise CircuitError("None of the circuit's edges has a score at any position.")
    return np.flatnonzero(inside)
