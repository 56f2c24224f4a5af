"""Rows (example, feature) of cross-layer transcoders: each feature runs as a group of its own (see `crossing_rows`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from veracausa.effects.feature_values import still_units
from veracausa.effects.group_rows import GroupRows
from veracausa.effects.plan import Patching
from veracausa.units.table import Units


@dataclass(frozen=True)
class AloneRows(GroupRows):
    """See `GroupRows`; `table`: the same units as a table of one kind."""

    table: Units

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """See `Plan.free`; features that are what replaces them already have effect 0, too."""
        yield from super().free(patching, todo)
        (source,) = self.sources.values()
        how = self.lm.decoder, source, patching.bucket.tape, patching.base, self.table
        for own, still in still_units(*how):
            example, unit = np.nonzero(todo.numpy()[:, own] & still)
            if len(unit):
                yield np.stack([example, own[unit]], 1), 0.0
