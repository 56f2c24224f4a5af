"""Rows (example, edge): exact effects of edges as a few sweeps.

Only reader v sees writer u's replaced value. Its output is computed once (all queries, keys and values that see the
same change in one pass through the attention module), joins the stream behind v's write, and only the later blocks and
positions are run. An edge into block l costs (L − l) · S token-layers, one into the logits nothing; beside them, each
(writer, block) costs one pass of the attention (mixer) module. Of SmolLM2-135M's 70,651 edges that is 6.7 times fewer
token-layers than a full forward each. Edges whose writer does not differ between the runs cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.graph import LOGITS, MIXING
from veracausa.cost import Cost
from veracausa.effects.plan import Patching, Plan
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.guard import attention_function
from veracausa.engine.patches import Place, kept_width, sites_for
from veracausa.engine.reader_change import SITES, Reading
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.validate_edges import require_edges
from veracausa.engine.writes import arriving, moving, write_changes
from veracausa.units.edges import Edges
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class WriteRows(Plan):
    """Rows whose replaced parts are what writers write: those of edges, and of paths.

    `zero`: writes are replaced by nothing, else by the other run's.
    """

    lm: Model
    task: Task
    units: Units
    zero: bool
    noising: bool
    rows: int | None
    cost: Cost

    @property
    def coded(self) -> list[Place]:
        """Kinds of dictionaries whose parts are among writers or readers."""
        return []

    @property
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""
        heads = 4 * self.lm.heads * self.lm.decoder.head_dim
        coded = sum(kept_width(self.lm.decoder, kind) for kind in self.coded)
        return max(heads, self.lm.decoder.channels) + 3 * self.lm.width + coded

    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """See `Plan.record`."""
        sites = tuple(dict.fromkeys((*SITES, *(site for kind in self.coded for site in sites_for(kind)))))
        with attention_function(self.lm.decoder, SUFFIX):
            bucket = Bucket.record(self.lm, self.task, start, examples, self.cost, sites=sites, places=self.coded)
            require_edges(self.lm, bucket.tape)
        base, other = bucket.runs(self.noising)
        return Patching(bucket, base, None if self.zero else other)


@dataclass(frozen=True)
class EdgeRows(WriteRows):
    """All rows (example, edge) of one call, and how a bucket of them is run; see `rows.Rows`."""

    units: Edges

    @cached_property
    def kinds(self) -> np.ndarray:
        """Kind of each edge's reader."""
        return self.lm.graph.reader_kind[self.units.reader]

    @cached_property
    def depth(self) -> np.ndarray:
        """Blocks that each edge's row runs; an MLP's own run counts as one. Readers of a block share one pass more."""
        return np.where(self.kinds == LOGITS, 0, self.lm.layers - self.units.layer)

    def beside(self, share: bool) -> float:
        """See `Plan.beside`: each (writer, block) goes through the attention (mixer) once, for all its readers."""
        mixing = np.isin(self.kinds, MIXING)
        attention = self.units[mixing]
        keys = np.stack([attention.layer, attention.writer, attention.position], 1)
        _, sources = np.unique(keys, axis=0, return_index=True)
        found = 0
        for start, members in self.buckets(share):
            length = len(self.task.clean[members[0]])
            found += len(members) * int((length - self.starts(start, length, members)[mixing][sources]).sum())
        return float(found)

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Rows (example, edge) that cannot change anything, and rows whose position does not exist."""
        tape = patching.bucket.tape
        position, start = self.units.position, tape.start
        # [writers, examples, positions]
        moves: np.ndarray = moving(self.lm.decoder, patching.base, patching.other).cpu().numpy()
        where = np.clip(position - start, 0, moves.shape[2] - 1)
        ever: np.ndarray = np.any(moves, axis=2)
        changed = np.where(position < 0, ever[self.units.writer].T, moves[self.units.writer, :, where].T)
        changed = changed & ~((position >= 0) & (position < start))
        at_end = self.kinds == LOGITS  # read at the tail alone
        late = np.any(moves[self.units.writer, :, -tape.tail :], axis=2).T
        changed = np.where(at_end & (position < 0), late, changed)
        changed = changed & ~(at_end & (position >= 0) & (position < tape.length - tape.tail))
        absent = np.broadcast_to(position >= tape.length, changed.shape)
        waiting = todo.numpy()
        for chosen, effect in ((~changed & ~absent, 0.0), (absent, float("nan"))):
            rows = np.argwhere(waiting & chosen)
            if len(rows):
                yield rows, effect

    def order(self, chosen: np.ndarray) -> np.ndarray:
        """See `Plan.order`; one writer's rows stand side by side."""
        units = self.units
        order = np.lexsort((units.reader, units.writer, ~np.isin(self.kinds, MIXING), units.layer))
        unit, example = np.nonzero(chosen[:, order].T)
        return np.stack([example, order[unit]], 1)

    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """See `Plan.chunk`; rows are sorted by block, attention before MLP."""
        kinds, layers = self.kinds[rows[:, 1]], self.units.layer[rows[:, 1]]
        group = np.asarray(2 * layers + ~np.isin(kinds, MIXING))
        borders: list[int] = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(rows)]
        joins = [self._join(patching, rows[a:b], int(layers[a]), start) for a, b in pairwise(borders)]
        last = sweep(self.lm.decoder, patching.bucket.tape, patching.base, joins, start=start, cost=self.cost)
        found = patching.bucket.read(last, torch.cat([join.example for join in joins]))
        return found.to("cpu", self.lm.score_dtype)

    def _join(self, patching: Patching, rows: np.ndarray, layer: int, start: int) -> Join:
        """Rows whose readers are in the attention of one block, or its MLP."""
        decoder, device, offset = self.lm.decoder, self.lm.device, start - patching.bucket.tape.start
        reading = Reading(decoder, patching.bucket.tape, patching.base, offset)
        reader, writer = self.units.reader[rows[:, 1]], self.units.writer[rows[:, 1]]
        position = self.units.position[rows[:, 1]]
        sources, source = np.unique(np.stack([rows[:, 0], writer, position], 1), axis=0, return_inverse=True)
        of, writes, at = (torch.as_tensor(column, device=device) for column in sources.T)
        kind, index, seen = (
            torch.as_tensor(column, device=device)
            for column in (decoder.graph.reader_kind[reader], decoder.graph.reader_index[reader], source.reshape(-1))
        )

        def entered() -> Tensor:
            delta = write_changes(decoder, patching.base, patching.other, writes, of, offset)
            delta = arriving(decoder, layer, writes, delta)
            if self.units.positional:  # the change is seen at the edge's position alone
                delta[torch.arange(start, start + delta.shape[1], device=device) != at[:, None]] = 0
            return reading.enter(layer, kind, index, seen, delta, of, self.cost)

        return Join(*reading.joins_at(layer, int(kind[0])), of[seen], entered)
