"""What plans of rows (example, unit) share: which runs a call takes, what they cost, how a bucket is run.

Rows of a bucket are sorted by the block at which they join and cut into chunks (`engine.memory`). A row's result is M
of its patched run minus M of the same engine's unpatched run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import chunks
from veracausa.engine.tape import State
from veracausa.errors import NumericsError
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: (example, unit, effect) of some rows.
Piece = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Patching:
    """A recorded bucket, the run of it that is patched, and the one that replacements come from (None: zeros)."""

    bucket: Bucket
    base: State
    other: State | None


class Plan(ABC):
    """Rows (example, unit) of one call: which positions and blocks they run, what that costs, and how they are run."""

    lm: Model
    task: Task
    units: Units
    noising: bool
    rows: int | None
    cost: Cost
    #: Whether it can do with pairs whose prompts have different lengths.
    aligned: ClassVar[bool] = False
    #: `depth` of a larger table, in whose batches these rows run.
    within: np.ndarray | None = None

    @property
    def patched(self) -> Task:
        """A task whose clean prompts are as long as those that are patched."""
        return self.task.side(self.noising) if self.task.uneven else self.task

    def buckets(self, share: bool) -> list[tuple[int, tuple[int, ...]]]:
        """Groups of pairs that share a tape: (start, examples)."""
        most = examples_per_batch(self.lm, self.task, self.kept)
        rows = float((self.depth if self.within is None else self.within).sum()) / self.lm.layers
        # beside them the engine's own run; both begin once a batch at least
        return buckets(self.lm.decoder, self.task, share, most, self.mixed, rows + 1, 2.0)

    @property
    def mixed(self) -> bool:
        """Whether pairs of several lengths run together: where neither units nor replacements have positions."""
        return False

    @property
    @abstractmethod
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""

    @property
    @abstractmethod
    def depth(self) -> np.ndarray:
        """Blocks that each unit's row runs."""

    @abstractmethod
    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """Record a bucket of pairs with all that rows need, and check what their patches rest on."""

    @abstractmethod
    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Rows (example in the bucket, unit) whose effect is known without a run, and that effect (NaN: no such)."""

    def order(self, chosen: np.ndarray) -> np.ndarray:
        """Rows (example in the bucket, unit) that are `chosen`, [examples, units], in the order in which they join."""
        order = np.argsort(self.units.layer, kind="stable")
        # unit by layer first, then example: rows of one layer stay together
        unit, example = np.nonzero(chosen[:, order].T)
        return np.stack([example, order[unit]], 1)

    def by_layer(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        """(layer, its rows, their examples) of rows in that order."""
        layers = self.units.layer[rows[:, 1]]
        borders = [0, *(np.flatnonzero(np.diff(layers)) + 1).tolist(), len(rows)]
        for a, b in pairwise(borders):
            yield int(layers[a]), rows[a:b], torch.as_tensor(rows[a:b, 0], device=self.lm.device)

    @abstractmethod
    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """M of some rows, which are in that order, run from position `start` on."""

    def run(self, start: int, examples: tuple[int, ...], done: Tensor) -> Generator[Piece, None, None]:
        """Run a bucket; yields (example, unit, effect) of each finished chunk, indices into the whole table."""
        lm = self.lm
        with torch.no_grad():
            patching = self.record(start, examples)
            bucket, index, length = patching.bucket, patching.bucket.index, patching.bucket.tape.length
            with attention_function(lm.decoder, SUFFIX):
                unpatched = bucket.unpatched(patching.base).to("cpu", lm.score_dtype)
                todo = ~done[index]
                starts = np.broadcast_to(self.starts(start, length, examples), todo.shape)
                for rows, effect in self.free(patching, todo):
                    local, unit = torch.as_tensor(rows).unbind(1)
                    todo[local, unit] = False
                    yield index[local], unit, torch.full((len(rows),), effect, dtype=lm.score_dtype)
                for first in np.unique(starts[starts < length]).tolist():
                    rows, what = self.order(todo.numpy() & (starts == first)), f"{length - first} tokens"
                    size = self.rows or rows_per_chunk(lm, length - first, length)
                    for part, metric in chunks(rows, size, partial(self.chunk, patching, start=first), what):
                        self._require_finite(metric, part, examples)
                        local, unit = torch.as_tensor(part).unbind(1)
                        yield index[local], unit, metric - unpatched[local]

    def _require_finite(self, metric: Tensor, rows: np.ndarray, examples: tuple[int, ...]) -> None:
        if not torch.isfinite(metric).all():
            example, unit = rows[int((~torch.isfinite(metric)).nonzero()[0])]
            raise NumericsError(
                f"NaN or infinity after patching {self.units[unit : unit + 1].names[0]} in pair {examples[example]} of "
                f"{self.task.name!r}. Run the model in float32."
            )

    def starts(self, start: int, length: int, examples: tuple[int, ...]) -> np.ndarray:
        """First position that each unit's row must run, [units] or, where examples differ, [examples, units].

        `length` where there is nothing to run.
        """
        position = self.units.position
        within = (position >= start) & (self.units.furthest < length)
        first = position if self.lm.decoder.anatomy.causal else start  # else earlier positions see the patch, too
        return np.where(position < 0, start, np.where(within, first, length))

    def costs(self, share: bool) -> np.ndarray:
        """Token-layers that each unit takes in the whole call (each row's own blocks and positions)."""
        wanted, found = self.units.wanted(len(self.task)), np.zeros(len(self.units))
        for start, members in self.buckets(share):
            length = self.patched.lengths[members[0]]
            positions = length - self.starts(start, length, members)
            found = found + self.depth * (positions * wanted[list(members)]).sum(0)
        return found

    def beside(self, share: bool) -> float:
        """Token-layers that units take together, beside their own."""
        return 0.0
