"""Rows (example, unit) or (example, coalition of units): how many patched runs become a few sweeps.

Rows of a bucket are sorted by the block at which they join and cut into chunks; a chunk is one `engine.suffix.sweep`.
A row's result is M of its patched run minus M of the same engine's unpatched run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.effects.replacements import Replacement
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import unpatched_metric
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.memory import shrinking
from veracausa.engine.patches import (
    Where,
    activation,
    join,
    neuron_change,
    output_change,
    site_width,
    sites_for,
    where,
)
from veracausa.engine.readout import Readout
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, Tape, buckets, record_pairs
from veracausa.engine.validate import require_sites
from veracausa.errors import NumericsError
from veracausa.progress import Tick
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


class Plan(ABC):
    """Which positions and blocks rows (example, unit) run, and what that costs; `Rows` and `EdgeRows` run them."""

    lm: Model
    task: Task
    units: Units

    def buckets(self, share: bool) -> list[tuple[int, tuple[int, ...]]]:
        """Groups of pairs that share a tape: (start, examples)."""
        most = examples_per_batch(self.lm, self.task, self.kept)
        return buckets(self.lm.decoder, self.task.clean, self.task.corrupted, share, most)

    @property
    @abstractmethod
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""

    @property
    @abstractmethod
    def depth(self) -> np.ndarray:
        """Blocks that each unit's row runs."""

    @abstractmethod
    def run(
        self, start: int, examples: tuple[int, ...], done: Tensor, tick: Tick
    ) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        """Run a bucket; yields (example, unit, effect) of each finished chunk, indices into the whole table."""

    def starts(self, start: int, length: int) -> np.ndarray:
        """First position that each unit's row must run; `length` where there is nothing to run."""
        position = self.units.position
        within = (position >= start) & (position < length)
        first = position if self.lm.decoder.anatomy.causal else start  # else earlier positions see the patch, too
        return np.where(position < 0, start, np.where(within, first, length))

    def weight(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Token-layers of each unit's row."""
        return np.asarray(self.depth * (length - starts))

    def costs(self, share: bool) -> np.ndarray:
        """Token-layers that each unit takes in the whole call (each row's own blocks and positions)."""
        wanted, found = self.units.wanted(len(self.task)), np.zeros(len(self.units))
        for start, members in self.buckets(share):
            length = len(self.task.clean[members[0]])
            found = found + self.weight(self.starts(start, length), length) * wanted[list(members)].sum(0)
        return found

    def total(self, share: bool) -> float:
        """Token-layers of the whole call."""
        return float(self.costs(share).sum()) or 1.0


@dataclass(frozen=True)
class Rows(Plan):
    """All rows (example, unit) of one call, and how a bucket of them is run.

    `source`: what units are replaced by. `noising`: patch the clean run, else the corrupted one. `rows`: rows per
    chunk, or None for as many as the budget allows. `alpha[u]`: the share of the way from a unit's own value to its
    replacement that its row goes (None: all the way).
    """

    lm: Model
    task: Task
    units: Units
    source: Replacement
    noising: bool
    rows: int | None
    cost: Cost
    alpha: np.ndarray | None = None

    @property
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""
        return site_width(self.lm.decoder, self.units.place) + self.lm.width

    @property
    def depth(self) -> np.ndarray:
        """Blocks that each unit's row runs: those from where it joins the stream."""
        joined = np.array([self._where(layer).join[0] for layer in range(self.lm.layers + 1)])[self.units.layer]
        return np.asarray(self.lm.layers - joined)

    def _where(self, layer: int) -> Where:
        return where(self.lm.decoder, self.units.place, min(layer, self.lm.layers - (self.units.kind != "residual")))

    def run(
        self, start: int, examples: tuple[int, ...], done: Tensor, tick: Tick
    ) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        """See `Plan.run`."""
        lm = self.lm
        needed = sites_for(self.units.place)
        clean, corrupted = pair_ids(lm, self.task, examples)
        with torch.no_grad():
            tape = record_pairs(lm.decoder, clean, corrupted, start, examples=examples, sites=needed, cost=self.cost)
            read = readout(lm, self.task, tape)
            base = tape.clean if self.noising else tape.corrupted
            require_sites(lm, tape, self.units.place)
            index = torch.tensor(examples)
            with attention_function(lm.decoder, SUFFIX):
                unpatched = unpatched_metric(lm, tape, base, read, self.cost).to("cpu", lm.score_dtype)
                todo = ~done[index]
                starts = self.starts(start, tape.length)
                if self.units.positional:
                    yield from self._free(starts, start, tape.length, index, todo)
                for first in np.unique(starts[starts < tape.length]):
                    order = self._order(np.flatnonzero(starts == first), todo)
                    size = self.rows or rows_per_chunk(lm, tape.length - int(first), tape.length)
                    while len(order):

                        def attempt(most: int, rows: np.ndarray = order, at: int = int(first)) -> Tensor:
                            return self._chunk(tape, base, read, rows[:most], at)

                        effects, size = shrinking(size, attempt, f"{tape.length - int(first)} tokens")
                        part, order = order[: len(effects)], order[len(effects) :]
                        if not torch.isfinite(effects).all():
                            bad = self.units.names[int(part[int((~torch.isfinite(effects)).nonzero()[0]), 1])]
                            raise NumericsError(
                                f"NaN or infinity after patching {bad} in pair {examples[int(part[0, 0])]} of "
                                f"{self.task.name!r}. Run the model in float32."
                            )
                        local = torch.as_tensor(part[:, 0])
                        tick(float(self.weight(starts, tape.length)[part[:, 1]].sum()))
                        yield index[local], torch.as_tensor(part[:, 1]), effects - unpatched[local]

    def _order(self, chosen: np.ndarray, todo: Tensor) -> np.ndarray:
        """Unfinished rows (example in the bucket, unit) of the chosen units, in the order in which they join."""
        chosen = chosen[np.argsort(self.units.layer[chosen], kind="stable")]
        rows = np.stack(np.meshgrid(np.arange(len(todo)), chosen, indexing="ij"), -1)
        # unit by layer first, then example: rows of one layer stay together
        rows = rows.transpose(1, 0, 2).reshape(-1, 2)
        return rows[todo.numpy()[rows[:, 0], rows[:, 1]]]

    def _free(
        self, starts: np.ndarray, start: int, length: int, index: Tensor, todo: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Units at positions that cannot change (effect 0) or do not exist (NaN)."""
        position = self.units.position
        for chosen, value in ((position >= length, float("nan")), ((position < start) & (position >= 0), 0.0)):
            for local in range(len(index)):
                free = torch.as_tensor(np.flatnonzero(chosen & todo[local].numpy()))
                if len(free):
                    yield (
                        index[local].expand(len(free)),
                        free,
                        torch.full((len(free),), value, dtype=self.lm.score_dtype),
                    )

    def _chunk(self, tape: Tape, base: State, read: Readout, rows: np.ndarray, start: int) -> Tensor:
        """M of patched rows (example in the bucket, unit), which are sorted by layer."""
        last = sweep(self.lm.decoder, tape, base, self.joins(tape, base, rows, start), start=start, cost=self.cost)
        return read(last, torch.as_tensor(rows[:, 0], device=self.lm.device)).to("cpu", self.lm.score_dtype)

    def joins(self, tape: Tape, base: State, rows: np.ndarray, start: int) -> list[Join]:
        """Where rows (sorted by layer) enter the stream, layer by layer."""
        layers = self.units.layer[rows[:, 1]]
        borders = [0, *(np.flatnonzero(np.diff(layers)) + 1).tolist(), len(rows)]
        joins = []
        for a, b in pairwise(borders):
            example = torch.as_tensor(rows[a:b, 0], device=self.lm.device)
            joins.append(self._join(tape, base, int(layers[a]), example, rows[a:b, 1], start))
        return joins

    def _join(self, tape: Tape, base: State, layer: int, example: Tensor, units: np.ndarray, start: int) -> Join:
        decoder, kind = self.lm.decoder, self.units.kind
        at = where(decoder, self.units.place, layer)
        offset = start - tape.start

        def change() -> Tensor:
            new = self.source.rows(tape, at.place, layer, example, torch.as_tensor(units))[:, offset:]
            old = activation(base, at.place, layer)
            if kind == "neurons" and not self.units.joint:  # one neuron a row: a multiple of one row of W_down
                index = torch.as_tensor(self.units.index[units], device=example.device)
                row = torch.arange(len(units), device=example.device)
                delta = new[row, :, index] - old[example, offset:, index]
                if self.alpha is not None:
                    delta = delta * torch.as_tensor(self.alpha[units]).to(delta)[:, None]
                return neuron_change(decoder.blocks[layer], index, self._at_position(delta, units, start))
            share = self._shares(units).to(delta := new - old[example, offset:])
            moved = (delta.unflatten(-1, (share.shape[1], -1)) * share[:, None, :, None]).flatten(-2)
            return output_change(decoder, base, at, example, offset, self._at_position(moved, units, start))

        return join(decoder, base, at, example, offset, change)

    def _shares(self, units: np.ndarray) -> Tensor:
        """The share of the way to its replacement that each part of the site goes, row by row, [rows, parts]."""
        share = self.units.shares(units, max(1, per_layer(self.lm, self.units.kind)))
        return torch.as_tensor(share if self.alpha is None else share * self.alpha[units, None])

    def _at_position(self, delta: Tensor, units: np.ndarray, start: int) -> Tensor:
        """A positional unit changes only its own position; rows hold the positions from `start` on."""
        if not self.units.positional:
            return delta
        row, own = torch.arange(len(units)), torch.as_tensor(self.units.position[units] - start)
        one = torch.zeros_like(delta)
        one[row, own] = delta[row, own]
        return one
