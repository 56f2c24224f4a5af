"""Rows (example, group): several units replaced in one run; see `rows`.

A row enters the stream unpatched before the first block that its group touches, and takes other values at each of its
members when it gets there (`engine.overrides`): what hooks on all of them would give. It runs that block whole, where a
single unit's row begins behind its own write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.effects.replacements import Replacement
from veracausa.effects.rows import Patching, Plan
from veracausa.engine.bucket import Bucket
from veracausa.engine.overrides import Override
from veracausa.engine.patches import Place, site_width, sites_for
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import Tape
from veracausa.units.groups import Groups, Member
from veracausa.units.kinds import Kind
from veracausa.units.table import per_layer

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Place → the kind whose units are side by side there.
KIND_AT: dict[Place, Kind] = {
    "z": "heads", "neurons": "neurons", "mlp": "mlps", "residual": "residual", "queries": "queries", "keys": "keys",
    "values": "values", "pattern": "patterns",
}  # fmt: skip


@dataclass(frozen=True)
class GroupRows(Plan):
    """All rows (example, group) of one call. `sources`: what units at each place are replaced by; else see `Rows`."""

    lm: Model
    task: Task
    units: Groups
    sources: Mapping[Place, Replacement]
    noising: bool
    rows: int | None
    cost: Cost

    @property
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""
        longest = max(self.task.lengths)
        return sum(site_width(self.lm.decoder, place, longest) for place in self.units.places) + 2 * self.lm.width

    @property
    def depth(self) -> np.ndarray:
        """Blocks that each group's row runs: from the first that it touches."""
        return self.lm.layers - self.units.layer

    def starts(self, start: int, length: int) -> np.ndarray:
        """First position that each group's row must run; `length` where there is nothing to run."""
        exists, reaches = self.units.within(start, length)
        first = (
            self.units.earliest(start, length) if self.lm.decoder.anatomy.causal else np.full(len(self.units), start)
        )
        return np.where(exists & reaches, first, length)

    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """See `Plan.record`."""
        places = tuple(self.units.places)
        sites = tuple(dict.fromkeys(site for place in places for site in sites_for(place)))
        bucket = Bucket.record(self.lm, self.task, start, examples, self.cost, sites=sites, places=places)
        return Patching(bucket, *bucket.runs(self.noising))

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Groups with a position that does not exist, or of which nothing can change."""
        tape = patching.bucket.tape
        exists, reaches = self.units.within(tape.start, tape.length)
        for chosen, effect in ((~exists, float("nan")), (exists & ~reaches, 0.0)):
            rows = np.argwhere(todo.numpy() & chosen)
            if len(rows):
                yield rows, effect

    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """See `Plan.chunk`."""
        tape, base, read = patching.bucket.tape, patching.base, patching.bucket.read
        offset = start - tape.start

        def joined(layer: int, example: Tensor) -> Join:
            return Join(layer, False, example, lambda: base.residual[layer][example, offset:])

        joins = [joined(layer, example) for layer, _, example in self.by_layer(rows)]
        overrides = self._overrides(tape, rows, start)
        last = sweep(self.lm.decoder, tape, base, joins, start=start, overrides=overrides, cost=self.cost)
        return read(last, torch.as_tensor(rows[:, 0], device=self.lm.device)).to("cpu", self.lm.score_dtype)

    def _overrides(self, tape: Tape, rows: np.ndarray, start: int) -> dict[int, list[Override]]:
        """Layer → what the rows of a chunk take there, place by place."""
        asked: dict[tuple[int, Place], dict[int, list[Member]]] = {}
        for row, unit in enumerate(rows[:, 1].tolist()):
            for member in self.units.members[unit]:
                asked.setdefault((member.layer, member.place), {}).setdefault(row, []).append(member)
        found: dict[int, list[Override]] = {}
        for (layer, place), members in asked.items():
            found.setdefault(layer, []).append(self._override(tape, rows, start, layer, place, members))
        return found

    def _override(
        self, tape: Tape, rows: np.ndarray, start: int, layer: int, place: Place, members: dict[int, list[Member]]
    ) -> Override:
        own, device = np.array(list(members)), self.lm.device
        parts = max(1, per_layer(self.lm, KIND_AT[place]))
        keys = tape.length if place == "pattern" else 1  # of patterns single keys may be taken
        taken = torch.zeros(len(own), tape.length - start, parts, keys, dtype=torch.bool)
        for at, group in enumerate(members.values()):
            for one in group:
                first, last = one.span(tape.length)
                first = max(first, start)
                part = slice(None) if one.index < 0 or parts == 1 else slice(one.index, one.index + 1)
                looked_at = one.looked_at(tape.length) if keys > 1 else slice(None)
                taken[at, first - start : max(last + 1 - start, 0), part, looked_at] = True
        example = torch.as_tensor(rows[own, 0], device=device)

        def values() -> Tensor:
            return self.sources[place].rows(tape, place, layer, example, None)[:, start - tape.start :]

        return Override(place, torch.as_tensor(own, device=device), taken.flatten(2).to(device), values)
