"""Scores of items as one: numbers of a pair and a unit stand in one item each, so nothing is added up but costs.

Items are read one by one, so that this takes the memory of the scores and of one item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.scores.completeness import Completeness
from veracausa.scores.convergence import UNCONVERGED, unconverged
from veracausa.scores.scores import UNPAIRED, Scores
from veracausa.sweeps.shards import Shard, Shards


def joined(shards: Shards) -> Scores:
    """Scores of all items as one.

    A part lacks units that none of its pairs has; so do they have no number.
    """
    made = _Joining(shards)
    for shard in shards:
        made.add(shard)
    return made.scores()


class _Joining:
    """Scores that are being put together, part by part."""

    def __init__(self, shards: Shards) -> None:
        self._frame, self._n = shards.frame, shards.pairs
        self._places = shards.folder.facts[shards.cell]["places"]
        self._first: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        self._notes: dict[str, None] = {}
        self._cost, self._full = Cost(), dict[Sequence[int] | None, int]()

    def add(self, shard: Shard) -> None:
        """Lay a part's numbers where they belong."""
        self._first = self._first or shard.header
        rows, columns = torch.from_numpy(shard.rows), torch.from_numpy(shard.columns)
        for name in ("values", "draw_stderr"):
            if name in shard.tensors:
                self._whole(name, shard, self._n, len(self._frame.units))[rows[:, None], columns] = shard.tensors[name]
        for name in ("clean", "corrupted"):
            self._whole(name, shard, self._n)[rows] = shard.tensors[name]
        for name in ("claimed", "true"):
            if name in shard.tensors:
                self._whole(name, shard, len(shard.tensors[name]), self._n)[:, rows] = shard.tensors[name]
        self._notes |= dict.fromkeys(shard.header["notes"])
        cost = Cost.from_dict(shard.header["cost"])
        self._cost += cost
        self._full[shard.item.pairs] = cost.full

    def _whole(self, name: str, shard: Shard, *shape: int) -> Tensor:
        if name not in self._tensors:
            self._tensors[name] = shard.tensors[name].new_full(shape, float("nan"))
        return self._tensors[name]

    def scores(self) -> Scores:
        """What all parts together are; in passes over all pairs, what they cost."""
        first, tensors = self._first, self._tensors
        summed = "claimed" in tensors
        made = Scores(
            values=tensors["values"],
            units=self._frame.units,
            method=first["method"],
            settings=first["settings"] | self._frame.settings,
            model=self._frame.model,
            task=self._frame.task,
            clean=tensors["clean"],
            corrupted=tensors["corrupted"],
            cost=replace(self._cost, full=sum(self._full.values())),
            completeness=Completeness(tensors["claimed"], tensors["true"]) if summed else None,
            signed=first["signed"],
            draw_stderr=tensors.get("draw_stderr"),
            verified=first["verified"],
        )
        return replace(made, notes=self._said(made))

    def _said(self, made: Scores) -> tuple[str, ...]:
        """The notes of all parts; what they say of sums that miss is said of the whole anew."""
        said = [*self._notes]
        at = next((i for i, note in enumerate(said) if note.startswith(UNCONVERGED)), len(said))
        kept = [note for note in said if not note.startswith(UNCONVERGED)]
        gap = None if made.unit == UNPAIRED else made.gap
        own = unconverged(made.completeness, gap, self._places, int(made.settings.get("nodes", 1)))
        return (*kept[:at], *own, *kept[at:])
