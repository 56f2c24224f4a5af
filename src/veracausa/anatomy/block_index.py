"""Where one block's writers and readers stand among those of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BlockIndex:
    """Indices of one block's writers and readers.

    `heads`, `attention`: writers and readers of what mixes the positions: heads of the attention, the mixer's, or both.
    `parts`: of each of these ("attention", "mixer") how many writers it has, and how many readers of each kind, in
    their order; a kind's readers share its heads evenly, neighbours together. `mlp`, `mlp_reader`: the MLP's, none
    where there is none.
    """

    parts: tuple[tuple[str, int, tuple[int, ...]], ...]
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
        for first, count, heads in self._kinds():
            fed[heads] |= np.repeat(readers[first : first + count], len(fed[heads]) // count)
        return fed

    def to_readers(self, heads: np.ndarray) -> np.ndarray:
        """For each reader of the block's attention, whether (any of) its heads is True."""
        found = (heads[own].reshape(count, -1).any(1) for _, count, own in self._kinds())
        return np.concatenate([heads[:0], *found])

    def fed_by(self, reader: int) -> list[int]:
        """Indices of the heads, as writers, that a reader of the attention feeds."""
        for first, count, heads in self._kinds():
            own = reader - self.attention.start - first
            if own < count:
                share, begin = (heads.stop - heads.start) // count, self.heads.start + heads.start
                return [*range(begin + own * share, begin + (own + 1) * share)]
        raise IndexError(reader)

    def feeding(self, head: int) -> list[int]:
        """Indices of the readers that feed a head, one of each kind; `head`: its index as a writer."""
        own = head - self.heads.start
        return [
            self.attention.start + first + (own - heads.start) * count // (heads.stop - heads.start)
            for first, count, heads in self._kinds()
            if heads.start <= own < heads.stop
        ]

    def of(self, mixing: str) -> tuple[slice, slice]:
        """Writers and readers of the "attention" or the "mixer" alone."""
        writer, reader = self.heads.start, self.attention.start
        for name, heads, counts in self.parts:
            if name == mixing:
                return slice(writer, writer + heads), slice(reader, reader + sum(counts))
            writer, reader = writer + heads, reader + sum(counts)
        raise KeyError(mixing)

    def _kinds(self) -> Iterator[tuple[int, int, slice]]:
        """(first reader, how many, heads that they feed) of each kind, counted from the block's first."""
        reader = head = 0
        for _, heads, counts in self.parts:
            for count in counts:
                yield reader, count, slice(head, head + heads)
                reader += count
            head += heads
