"""Edges: units that are a writer seen by one reader, their names and their table (see `anatomy.graph`).

`a9.h6->m10` is the edge over all positions; `a9.h6->m10@7` lets the reader see the change at position 7 only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.arguments import texts
from veracausa.attribution.units import NUMBER, Units
from veracausa.errors import UnitError

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.engine.patches import Place
    from veracausa.model import Model

_POSITION = re.compile(rf"(.*)@{NUMBER}")


@dataclass(frozen=True, eq=False)
class Edges(Units):
    """A table of edges. `layer`: the reader's block (L: the logits); `index`: writer · (number of readers) + reader."""

    graph: Graph

    @classmethod
    def of(cls, graph: Graph, writer: np.ndarray, reader: np.ndarray, position: np.ndarray | None = None) -> Edges:
        """Edges by the indices of their ends in `graph`; `position` −1 (default): all positions."""
        if position is None:
            position = np.full(len(writer), -1)
        return cls("edges", graph.reader_layer[reader], writer * graph.readers + reader, position, graph)

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> Edges:
        return Edges("edges", self.layer[chosen], self.index[chosen], self.position[chosen], self.graph)

    @property
    def writer(self) -> np.ndarray:
        """Index of each edge's writer in the graph."""
        return self.index // self.graph.readers

    @property
    def reader(self) -> np.ndarray:
        """Index of each edge's reader in the graph."""
        return self.index % self.graph.readers

    @property
    def place(self) -> Place:
        """Edges are changes of what a reader takes from the stream."""
        return "residual"

    @property
    def names(self) -> list[str]:
        """The edges' names, in order."""
        writers, readers = self.graph.writer_names, self.graph.reader_names
        ends = zip(self.writer.tolist(), self.reader.tolist(), self.position.tolist(), strict=True)
        return [f"{writers[w]}->{readers[r]}" + (f"@{p}" if p >= 0 else "") for w, r, p in ends]

    def table(self) -> pd.DataFrame:
        """One row per edge: name, writer, reader, layer of the reader, position where there is one."""
        import pandas as pd

        writers, readers = np.array(self.graph.writer_names), np.array(self.graph.reader_names)
        columns: dict[str, object] = {
            "name": self.names,
            "writer": writers[self.writer],
            "reader": readers[self.reader],
            "layer": self.layer,
        }
        if self.positional:
            columns["position"] = self.position
        return pd.DataFrame(columns)

    def require_existing(self) -> None:
        """Raise UnitError unless every writer comes before its reader in the graph."""
        outside = (self.writer < 0) | (self.writer >= self.graph.writers) | (self.reader < 0)
        order = self.graph.writer_order[np.where(outside, 0, self.writer)]
        unseen = outside | (order > self.graph.reader_order[self.reader])
        if unseen.any():
            where = int(np.flatnonzero(unseen)[0])
            raise UnitError(f"Edge {where} of the table cannot exist: its writer does not come before its reader.")

    def digest(self) -> str:
        """A hash of the table and of the graph."""
        sizes = (self.graph.layers, self.graph.heads, self.graph.kv_heads, self.graph.parallel)
        return hashlib.sha256(f"{super().digest()} {sizes}".encode()).hexdigest()[:16]


def all_edges(lm: Model, positions: int = 0) -> Edges:
    """Every edge of a model, reader by reader; with `positions` > 0 one per position, position fastest."""
    writer, reader = lm.graph.edges
    if not positions:
        return Edges.of(lm.graph, writer, reader)
    position = np.tile(np.arange(positions), len(writer))
    return Edges.of(lm.graph, np.repeat(writer, positions), np.repeat(reader, positions), position)


def parse_edges(lm: Model, names: Sequence[str]) -> Edges:
    """Edges by name.

    Raises:
        UnitError: a name that this model has not, twice the same, or some with and some without a position.
    """
    rows = []
    names = texts(names, "A list of edges", UnitError)
    for name in names:
        match = _POSITION.fullmatch(name)
        stem, position = (match[1], int(match[2])) if match else (name, -1)
        rows.append((*lm.graph.parse(stem), position))
    if len({position < 0 for *_, position in rows}) > 1:
        raise UnitError("The list mixes edges at one position (with @) and at all positions. Make two calls.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnitError(f"Edges are listed twice: {', '.join(twice[:5])}.")
    columns = np.array(rows, dtype=np.int64)
    return Edges.of(lm.graph, columns[:, 0], columns[:, 1], columns[:, 2])


def checked_edges(lm: Model, edges: Edges, longest: int) -> Edges:
    """The table, if it is about this model's graph and its positions exist."""
    if not len(edges):
        raise UnitError("The table of edges is empty. Name at least one, e.g. ['a0.h0->logits'].")
    if edges.graph != lm.graph:
        raise UnitError(f"The edges are those of {edges.graph}, but {lm.name} is {lm.graph}.")
    edges.require_existing()
    if (edges.position >= longest).any():
        name = edges[np.flatnonzero(edges.position >= longest)[:1]].names[0]
        raise UnitError(
            f"{name!r}: no prompt of this task has such a position; the longest has {longest} tokens, counted from 0."
        )
    return edges
