"""Where one block's writers and readers stand among those of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BlockIndex:
    """Indices of one block's writers and readers; `group`: query heads of a key/value head, 0 without attention.

    `heads`, `attention`: writers and readers of what mixes the positions: heads of the attention, or the mixer's.
    `mlp`, `mlp_reader`: the MLP's, none where there is none.
    """

    group: int
    heads: slice
    mlp: slice
    attention: slice
    mlp_reader: slice

    @property
    def count(self) -> int:
        """Writers of what mixes the positions."""
        return int(self.heads.stop - self.heads.start)

    def of_heads(self, readers: np.ndarray) -> np.ndarray:
        """For each head, whether its query, key or value (of the block's attention readers) is True."""
        if not self.group:  # a mixer reads for all its heads
            return np.full(self.count, readers.any())
        queries, keys, values = np.split(readers, [self.count, self.count + self.count // self.group])
        return np.asarray(queries | np.repeat(keys | values, self.group))

    def to_readers(self, heads: np.ndarray) -> np.ndarray:
        """For each query, key and value, whether (any of) its heads is True."""
        if not self.group:
            return np.full(self.attention.stop - self.attention.start, heads.any())
        groups = heads.reshape(-1, self.group).any(1)
        return np.concatenate([heads, groups, groups])
