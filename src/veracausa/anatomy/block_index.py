"""Where one block's writers and readers stand among those of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BlockIndex:
    """Indices of one block's writers and readers.

    `heads`, `attention`: writers and readers of what mixes the positions: heads of the attention, or the mixer's.
    `counts`: how many of these readers there are of each kind, in their order; a kind's readers share all heads evenly,
    neighbours together. `mlp`, `mlp_reader`: the MLP's, none where there is none.
    """

    counts: tuple[int, ...]
    heads: slice
    mlp: slice
    attention: slice
    mlp_reader: slice

    @property
    def count(self) -> int:
        """Writers of what mixes the positions."""
        return int(self.heads.stop - self.heads.start)

    def of_heads(self, readers: np.ndarray) -> np.ndarray:
        """For each head, whether a reader that feeds it (of the block's attention readers) is True."""
        fed = np.zeros(self.count, dtype=bool)
        for first, count in self._kinds():
            fed |= np.repeat(readers[first : first + count], self.count // count)
        return fed

    def to_readers(self, heads: np.ndarray) -> np.ndarray:
        """For each reader of the block's attention, whether (any of) its heads is True."""
        return np.concatenate([heads[:0], *(heads.reshape(count, -1).any(1) for count in self.counts)])

    def fed_by(self, reader: int) -> list[int]:
        """Indices of the heads, as writers, that a reader of the attention feeds."""
        for first, count in self._kinds():
            own = reader - self.attention.start - first
            if own < count:
                share = self.count // count
                return [*range(self.heads.start + own * share, self.heads.start + (own + 1) * share)]
        raise IndexError(reader)

    def feeding(self, head: int) -> list[int]:
        """Indices of the readers that feed a head, one of each kind; `head`: its index as a writer."""
        own = head - self.heads.start
        return [self.attention.start + first + own * count // self.count for first, count in self._kinds()]

    def _kinds(self) -> Iterator[tuple[int, int]]:
        """(first reader, how many) of each kind, counted from the block's first."""
        first = 0
        for count in self.counts:
            yield first, count
            first += count
