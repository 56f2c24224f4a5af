"""A circuit that grows by whole ways: each edge is taken together with the best way through it.

From the strongest edge on, an edge is taken if it fits into the budget with the way from the input to the logits that
leads through it: the one along which the product of |c| / max |c| is largest, edges of the circuit counting as 1. So
every edge lies on a way at every moment, nothing has to be pruned, and a smaller budget is nearly a part of a larger
one. With ranks by importance the factors are c / max c, and edges with c ≤ 0 are taken last.

The best ways to all writers and from all readers are found in one pass along the stream each (the graph has no cycles),
and anew only where an edge is not between two nodes that lie on ways already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.circuits.wiring import readers_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

#: Factor of an edge without importance, or against the ranking: tiny, but some way is better than none.
_LEAST = 1e-12


def connected(
    graph: Graph,
    writer: Int[np.ndarray, " edges"],
    reader: Int[np.ndarray, " edges"],
    value: Float[np.ndarray, " edges"],
    n: int,
) -> Int[np.ndarray, " chosen"]:
    """Rows of at most n of these edges, all on ways from the input to the logits; none where no way fits into n."""
    largest = float(value.max(initial=0.0))
    factor = np.clip(value / largest, _LEAST, None) if largest > 0 else np.ones(len(value))
    ways = Ways.of(graph, writer, reader, -np.log(factor))
    for row in np.argsort(-value, kind="stable").tolist():
        if ways.taken == n:
            break
        ways.take(int(writer[row]), int(reader[row]), n - ways.taken)
    return np.flatnonzero(ways.inside[reader, writer])


def shortest(graph: Graph, writer: Int[np.ndarray, " edges"], reader: Int[np.ndarray, " edges"]) -> int | None:
    """The fewest of these edges that lead from the input to the logits; None where none do."""
    ways = Ways.of(graph, writer, reader, np.ones(len(writer)))
    fewest = ways.to_reader[-1]
    return round(float(fewest)) if np.isfinite(fewest) else None


@dataclass
class Ways:
    """Costs of edges [readers, writers] (infinite: no edge), which are taken, and the cheapest ways.

    `to_writer`, `to_reader`: cost from the input; `from_writer`, `from_reader`: cost to the logits. `came_writer`,
    `came_reader`: what stands before a writer or reader on its way; `goes_writer`, `goes_reader`: what stands after it.
    """

    graph: Graph
    cost: Float[np.ndarray, "readers writers"]
    inside: Bool[np.ndarray, "readers writers"]
    taken: int = 0
    stale: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        readers, writers = self.cost.shape
        self.to_writer, self.from_writer = np.full(writers, np.inf), np.full(writers, np.inf)
        self.to_reader, self.from_reader = np.full(readers, np.inf), np.full(readers, np.inf)
        self.came_writer, self.goes_writer = np.zeros(writers, dtype=int), np.zeros(writers, dtype=int)
        self.came_reader, self.goes_reader = np.zeros(readers, dtype=int), np.zeros(readers, dtype=int)
        self.reached = np.zeros(writers, dtype=bool)
        self.leading = np.zeros(readers, dtype=bool)
        self.refresh()

    @classmethod
    def of(cls, graph: Graph, writer: np.ndarray, reader: np.ndarray, cost: np.ndarray) -> Ways:
        """With these edges, none of them taken."""
        table = np.full((graph.readers, graph.writers), np.inf)
        table[reader, writer] = cost
        return cls(graph, table, np.zeros(table.shape, dtype=bool))

    def take(self, writer: int, reader: int, room: int) -> None:
        """Take an edge with its way, if they are at most `room` edges that are not taken yet."""
        if self.inside[reader, writer]:
            return
        if not (self.reached[writer] and self.leading[reader]) and self.stale:
            self.refresh()
        if self.reached[writer] and self.leading[reader]:
            way = [(writer, reader)]
        elif np.isfinite(self.to_writer[writer]) and np.isfinite(self.from_reader[reader]):
            way = [edge for edge in self._through(writer, reader) if not self.inside[edge[1], edge[0]]]
        else:
            return
        if len(way) > room:
            return
        for one, other in way:
            self.inside[other, one] = True
            self.cost[other, one] = 0.0
        self.taken += len(way)
        self.stale = True

    def refresh(self) -> None:
        """Find the cheapest ways, and what lies on ways of taken edges."""
        self._forwards()
        self._backwards()
        self.reached = self.graph.reached(self.inside)
        self.leading = self.graph.leading(self.inside)
        self.stale = False

    def _through(self, writer: int, reader: int) -> list[tuple[int, int]]:
        """(writer, reader) of the edges of the best way through an edge."""
        way = [(writer, reader)]
        while writer != 0:
            before = int(self.came_writer[writer])
            writer = int(self.came_reader[before])
            way.append((writer, before))
        last = self.graph.readers - 1
        while reader != last:
            after = int(self.goes_reader[reader])
            reader = int(self.goes_writer[after])
            way.append((after, reader))
        return way

    def _forwards(self) -> None:
        self.to_writer[:], self.to_reader[:] = np.inf, np.inf
        self.to_writer[0] = 0.0
        for layer in range(self.graph.layers):
            block = self.graph.block(layer)
            self._arrive(block.attention)
            for k, head in enumerate(range(block.heads.start, block.heads.stop)):
                readers = self._feeding(layer, k)
                best = readers[int(np.argmin(self.to_reader[readers]))]
                self.to_writer[head], self.came_writer[head] = self.to_reader[best], best
            if block.mlp.stop > block.mlp.start:
                self._arrive(block.mlp_reader)
                self.to_writer[block.mlp], self.came_writer[block.mlp] = (
                    self.to_reader[block.mlp_reader], block.mlp_reader.start
                )  # fmt: skip
        self._arrive(slice(self.graph.readers - 1, self.graph.readers))

    def _arrive(self, readers: slice) -> None:
        """The cheapest ways to readers, from those to the writers that they see."""
        costs = self.cost[readers] + self.to_writer
        self.came_reader[readers] = costs.argmin(1)
        self.to_reader[readers] = costs.min(1)

    def _backwards(self) -> None:
        self.from_writer[:], self.from_reader[:] = np.inf, np.inf
        self.from_reader[-1] = 0.0
        for layer in reversed(range(self.graph.layers)):
            block = self.graph.block(layer)
            if block.mlp.stop > block.mlp.start:
                self._leave(block.mlp)
                self.from_reader[block.mlp_reader] = self.from_writer[block.mlp]
                self.goes_reader[block.mlp_reader] = block.mlp.start
            self._leave(block.heads)
            for k, head in enumerate(range(block.heads.start, block.heads.stop)):
                for reader in self._feeding(layer, k):
                    if self.from_writer[head] < self.from_reader[reader]:
                        self.from_reader[reader], self.goes_reader[reader] = self.from_writer[head], head

    def _leave(self, writers: slice) -> None:
        """The cheapest ways from writers, by those from the readers that see them."""
        costs = self.cost[:, writers] + self.from_reader[:, None]
        self.goes_writer[writers] = costs.argmin(0)
        self.from_writer[writers] = costs.min(0)

    def _feeding(self, layer: int, head: int) -> list[int]:
        """The readers that feed a head of a block: its query, and the key and value of its group; or the mixer."""
        return readers_of(self.graph, self.graph.block(layer).heads.start + head)
