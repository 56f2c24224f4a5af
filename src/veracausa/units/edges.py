"""Edges: units that are a writer seen by one reader, their names and their table (see `anatomy.graph`).

`a9.h6->m10` is the edge over all positions; `a9.h6->m10@7` lets the reader see the change at position 7 only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.errors import UnitError
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool

    from veracausa.engine.patches import Place


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
    def mask(self) -> Bool[np.ndarray, "readers writers"]:
        """True where the edge from a writer to a reader is among these, at whichever position."""
        mask = np.zeros((self.graph.readers, self.graph.writers), dtype=bool)
        mask[self.reader, self.writer] = True
        return mask

    def at_each(self, positions: int) -> Edges:
        """Each of these edges at every position from 0 on, edge after edge: [edges · positions].

        >>> edges[:2].at_each(3).names  # a0.h0->m1@0, a0.h0->m1@1, a0.h0->m1@2, a0.h0->m2@0, …
        """
        writer, reader = (np.repeat(end, positions) for end in (self.writer, self.reader))
        return Edges.of(self.graph, writer, reader, np.tile(np.arange(positions), len(self)))

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
        return hashlib.sha256(f"{super().digest()} {self.graph.sizes}".encode()).hexdigest()[:16]
