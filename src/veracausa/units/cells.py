"""Cells of attention patterns: how much one query takes from one key, as a unit.

    a9.h6<pattern>@12     the row of query 12: where it looks, a distribution over the keys up to 12
    a9.h6<pattern>@12,5   one cell of it: what query 12 takes from key 5

Where one cell is replaced the rest of its row stays and is not made to sum to 1 again, so that cells add up to rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.errors import UnitError
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Cells(Units):
    """A table of cells of patterns: `index` is the head, `position` the query, `key` what it looks at.

    In causal models a query sees the keys from 0 to its own position, which is asked where the model is known.
    """

    key: np.ndarray

    @classmethod
    def of(cls, layer: np.ndarray, head: np.ndarray, query: np.ndarray, key: np.ndarray) -> Cells:
        """Cells by these columns."""
        return cls("patterns", np.asarray(layer), np.asarray(head), np.asarray(query), np.asarray(key))

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> Cells:
        return Cells(
            "patterns", self.layer[chosen], self.index[chosen], self.position[chosen], self.key[chosen]
        )  # fmt: skip

    @property
    def cells(self) -> np.ndarray | None:
        """The keys."""
        return self.key

    @property
    def furthest(self) -> np.ndarray:
        """The later of query and key."""
        return np.maximum(self.position, self.key)

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """What every cell is: (layer, head, query, key)."""
        return [(*unit, key) for unit, key in zip(super().keys, self.key.tolist(), strict=True)]

    @property
    def names(self) -> list[str]:
        """The cells' names, in order."""
        return [f"{name},{key}" for name, key in zip(super().names, self.key.tolist(), strict=True)]

    def table(self) -> pd.DataFrame:
        """One row per cell: name, layer, head, query and key."""
        return super().table().rename(columns={"position": "query"}).assign(key=self.key)

    def require_seen(self) -> None:
        """Raise UnitError for a key behind its query, which causal models hide from it."""
        if (hidden := np.flatnonzero(self.key > self.position)).size:
            raise UnitError(hidden_cell(self.names[hidden[0]]))

    def digest(self) -> str:
        """A hash of the table, for files that must belong together."""
        parts = hashlib.sha256(super().digest().encode())
        parts.update(np.ascontiguousarray(self.key, dtype=np.int64).tobytes())
        return parts.hexdigest()[:16]


def hidden_cell(name: str) -> str:
    """What is wrong with a cell whose key comes after its query."""
    return (
        f"{name!r} is no cell of a pattern of this model: a query sees the keys from 0 to its own position. The query "
        "comes first: a9.h6<pattern>@12,5."
    )
