"""Rows (example, unit) or (example, coalition of units): how many patched runs become a few sweeps.

Rows of a bucket are sorted by the block at which they join and cut into chunks; a chunk is one `engine.suffix.sweep`.
A row's result is M of its patched run minus M of the same engine's unpatched run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.adapters import adapted_of
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.expert_values import new_neurons, new_sum, own_neurons, own_sum
from veracausa.effects.feature_values import shared_site, still_units
from veracausa.effects.moves import own_part
from veracausa.effects.plan import Patching, Plan
from veracausa.effects.replacements import Replacement, Zero
from veracausa.engine.bucket import Bucket
from veracausa.engine.carried import carrying
from veracausa.engine.coded import written_change
from veracausa.engine.inner_maps import changed_map
from veracausa.engine.overrides import Override
from veracausa.engine.patches import (
    CARRIED,
    RUN_AGAIN,
    Place,
    Where,
    activation,
    acts_inside,
    depth_behind,
    join,
    kept_width,
    neuron_change,
    output_change,
    sites_for,
    where,
)
from veracausa.engine.suffix import Join, sweep, through
from veracausa.engine.tape import State, Tape
from veracausa.units.kinds import inside_of
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class Rows(Plan):
    """All rows (example, unit) of one call, and how a bucket of them is run.

    `source`: what units are replaced by. `noising`: patch the clean run, else the corrupted one. `rows`: rows per
    chunk, or None for as many as the budget allows. `alpha[u]`: the share of the way from a unit's own value to its
    replacement that its row goes (None: all the way). `late`: rows begin where their prompts first differ, though a
    recording begins with the prompt: of models whose prompts share no prefix.
    """

    lm: Model
    task: Task
    units: Units
    source: Replacement
    noising: bool
    rows: int | None
    cost: Cost
    alpha: np.ndarray | None = None
    within: np.ndarray | None = None
    late: bool = False

    @property
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""
        return kept_width(self.lm.decoder, self.units.place, max(self.task.lengths)) + self.lm.width

    @property
    def mixed(self) -> bool:
        """See `Plan.mixed`."""
        placed = self.aligned or self.units.positional or self.units.kind == "patterns"
        return not placed and getattr(self.source, "anywhere", False)

    @property
    def depth(self) -> np.ndarray:
        """Blocks that each unit's row runs: those from where it joins the stream."""
        layers, which = np.unique(self.units.layer, return_inverse=True)
        depths = [depth_behind(self.lm.decoder, self.units.place, int(layer)) for layer in layers]
        return np.array(depths, dtype=np.int64)[which]

    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """See `Plan.record`."""
        place = self.units.place
        bucket = Bucket.record(
            self.lm, self.task, start, examples, self.cost, sites=sites_for(place), places=(place,),
            noising=self.noising if self.aligned else None,
        )  # fmt: skip
        return Patching(bucket, *bucket.runs(self.noising))

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Units at positions that do not exist, or that cannot change."""
        position, tape = self.units.position, patching.bucket.tape
        nothing_later = (position == tape.length - 1) & (self.units.place in CARRIED)
        first = np.minimum(self._first(tape.start, tape.examples), tape.length - 1)
        alike = (position >= 0) & (position < first)
        beyond = self.units.furthest >= tape.length
        for chosen, effect in ((beyond, float("nan")), ((alike | nothing_later) & ~beyond, 0.0)):
            rows = np.argwhere(todo.numpy() & chosen)
            if len(rows):
                yield rows, effect
        for own, still in self._still(patching):
            example, unit = np.nonzero(todo.numpy()[:, own] & still)
            if len(unit):
                yield np.stack([example, own[unit]], 1), 0.0

    def starts(self, start: int, length: int, examples: tuple[int, ...]) -> np.ndarray:
        """See `Plan.starts`; what is carried away from a position acts from the next on."""
        found, position = super().starts(start, length, examples), self.units.position
        if self.late:
            first = np.minimum(self._first(start, examples), length - 1)
            found = np.where(position < 0, np.maximum(found, first), np.where(position < first, length, found))
        return np.minimum(found + 1, length) if self.units.place in CARRIED else found

    def _first(self, start: int, examples: tuple[int, ...]) -> np.ndarray:
        """The first position at which anything can change, [examples, 1]."""
        first = [self.task.first_difference[i] if self.late else start for i in examples]
        return np.array(first)[:, None]

    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """See `Plan.chunk`."""
        tape, base, read = patching.bucket.tape, patching.base, patching.bucket.read
        last = sweep(self.lm.decoder, tape, base, self.joins(tape, base, rows, start), start=start, cost=self.cost)
        return read(last, torch.as_tensor(rows[:, 0], device=self.lm.device)).to("cpu", self.lm.score_dtype)

    def joins(self, tape: Tape, base: State, rows: np.ndarray, start: int) -> list[Join]:
        """Where rows (sorted by layer) enter the stream, layer by layer."""
        return [self._join(tape, base, layer, example, own[:, 1], start) for layer, own, example in self.by_layer(rows)]

    def _join(self, tape: Tape, base: State, layer: int, example: Tensor, units: np.ndarray, start: int) -> Join:
        decoder, kind = self.lm.decoder, self.units.kind
        at = where(decoder, self.units.place, layer)
        offset = start - tape.start
        if at.place in CARRIED:
            return Join(*at.join, example, lambda: self._carrying(tape, base, at, example, units, start))
        if acts_inside(decoder, at.place, layer):
            return Join(*at.join, example, lambda: self._inner(tape, base, at, example, units, start))
        if at.place in RUN_AGAIN:
            return Join(*at.join, example, lambda: self._again(tape, base, at, example, units, start))

        def change() -> Tensor:
            if is_coded(at.place):
                changed = self._coded_change(tape, base, at, example, units, start)
                return written_change(decoder, decoder.codes[at.place, layer], changed, base.residual[layer])
            new = self._new(tape, at.place, layer, example, units)[:, offset:]
            if kind == "experts":
                delta = new - own_sum(base, layer, example, self._shares(units).to(new))[:, offset:]
                own = self._at_position(delta, tape, example, units, start)
                return output_change(decoder, base, at, example, offset, own)
            if kind == "expert_neurons":
                return self._inside_change(tape, base, at, example, units, new[..., 0], start)
            if kind == "routers":  # its own MLP is run again
                self.cost.add(len(units), tape.length - start)
            old = activation(base, at.place, layer)
            if kind == "neurons" and not self.units.joint:  # one neuron a row: a multiple of one row of W_down
                index = torch.as_tensor(self.units.index[units], device=example.device)
                row = torch.arange(len(units), device=example.device)
                delta = new[row, :, index] - old[example, offset:, index]
                if self.alpha is not None:
                    delta = delta * torch.as_tensor(self.alpha[units]).to(delta)[:, None]
                return neuron_change(
                    decoder.blocks[layer], index, self._at_position(delta, tape, example, units, start)
                )
            share = self._shares(units).to(delta := new - old[example, offset:])
            moved = (delta.unflatten(-1, (share.shape[1], -1)) * share[:, None, :, None]).flatten(-2)
            return output_change(
                decoder, base, at, example, offset, self._at_position(moved, tape, example, units, start)
            )

        return join(decoder, base, at, example, offset, change)

    def _inside_change(
        self, tape: Tape, base: State, at: Where, example: Tensor, units: np.ndarray, new: Tensor, start: int
    ) -> Tensor:
        """Change of the MLP's output where neurons of experts are `new`: a multiple of what each writes."""
        mixture, offset, index = self.lm.decoder.blocks[at.layer].mixture, start - tape.start, self.units.index[units]
        own, weight = own_neurons(base, at.layer, example, index)
        delta = (new - own[:, offset:]) * weight[:, offset:]
        if self.alpha is not None:
            delta = delta * torch.as_tensor(self.alpha[units]).to(delta)[:, None]
        delta = self._at_position(delta, tape, example, units, start)
        parts = (torch.as_tensor(one, device=example.device) for one in inside_of(index))
        written = mixture.written(*parts)  # type: ignore[union-attr]
        # some routers give weights in float32 whatever the model's precision is
        change = torch.einsum("rs,rw->rsw", delta, written.to(delta)).to(base.residual[at.layer].dtype)
        return output_change(self.lm.decoder, base, at, example, offset, change)

    def _again(self, tape: Tape, base: State, at: Where, example: Tensor, units: np.ndarray, start: int) -> Tensor:
        """The stream behind a block in which adapters add something else, or gates are others: the block, run again."""
        block, offset = self.lm.decoder.blocks[at.layer], start - tape.start
        own = activation(base, at.place, at.layer)[example, offset:]
        share = self._adapter_shares(at.layer, units) if at.place == "adapters" else self._shares(units)
        share = share.expand(-1, own.shape[-1]).to(own)[:, None]
        delta = self._new(tape, at.place, at.layer, example, units)[:, offset:] - own
        whole = (share != 0).to(own).expand_as(own)
        taken = self._at_position(whole, tape, example, units, start) != 0
        rows = torch.arange(len(units), device=own.device)
        override = Override(at.place, rows, taken, lambda: own + delta * share)
        return through(tape, base, block, example, [override], start=start, cost=self.cost)

    def _inner(self, tape: Tape, base: State, at: Where, example: Tensor, units: np.ndarray, start: int) -> Tensor:
        """The stream behind a block whose map gives something else where components are replaced: it is run again."""
        changed = self._coded_change(tape, base, at, example, units, start)
        again = changed_map(self.lm.decoder, at, changed)
        return through(tape, base, self.lm.decoder.blocks[at.layer], example, [again], start=start, cost=self.cost)

    def _carrying(self, tape: Tape, base: State, at: Where, example: Tensor, units: np.ndarray, start: int) -> Tensor:
        """The stream behind a block whose mixer carries something else away from the position before `start`."""
        block, own = self.lm.decoder.blocks[at.layer], activation(base, at.place, at.layer)[example]
        mixer = block.mixer
        assert mixer is not None
        other = None if isinstance(self.source, Zero) else self._new(tape, at.place, at.layer, example, units)

        def mixed() -> Tensor:
            return carrying(mixer, own, other, tape.call(mixer), start - 1 - tape.start, at.place)  # type: ignore

        return through(tape, base, block, example, (), start=start, mixed=mixed, cost=self.cost)

    def _adapter_shares(self, layer: int, units: np.ndarray) -> Tensor:
        """The share of the way to its replacement that each number of an adapters' site goes, [rows, site]."""
        found = adapted_of(self.lm.decoder.blocks[layer])
        if self.units.joint or self.units.kind == "layer_adapters":
            return found.spread(self._shares(units).double())
        share = np.zeros((len(units), len(found.maps)))
        share[np.arange(len(units)), found.parts(self.units.index[units])] = 1
        return found.spread(torch.as_tensor(share if self.alpha is None else share * self.alpha[units, None]))

    def _coded_change(
        self, tape: Tape, base: State, at: Where, example: Tensor, units: np.ndarray, start: int
    ) -> Tensor:
        """Change of what a dictionary explains where parts of it are replaced."""
        decoder, offset = self.lm.decoder, start - tape.start
        code, old = decoder.codes[at.place, at.layer], activation(base, at.place, at.layer)[:, offset:]
        shared = self._shared_new(tape, at.place, at.layer)
        if shared is None or self.units.joint:
            new = self._new(tape, at.place, at.layer, example, units)[:, offset:], torch.arange(len(units))
        else:
            new = shared[:, offset:], example
        if self.units.joint:
            delta = (new[0] - old[example]) * code.spread(self._shares(units).to(old))[:, None]
            changed = code.change(self._at_position(delta, tape, example, units, start))
        else:
            changed = code.moved(new, (old, example), code.parts(self.units.index[units]))
            if self.alpha is not None:
                changed = changed * torch.as_tensor(self.alpha[units]).to(changed)[:, None, None]
            changed = self._at_position(changed, tape, example, units, start)
        return changed

    def _shared_new(self, tape: Tape, place: Place, layer: int) -> Tensor | None:
        """See `feature_values.shared_site`."""
        return shared_site(self.source, tape, place, layer)

    def _still(self, patching: Patching) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `feature_values.still_units`."""
        return still_units(self.lm.decoder, self.source, patching.bucket.tape, patching.base, self.units)

    def _shares(self, units: np.ndarray) -> Tensor:
        """The share of the way to its replacement that each part of the site goes, row by row, [rows, parts]."""
        share = self.units.shares(units, max(1, per_layer(self.lm, self.units.kind)))
        return torch.as_tensor(share if self.alpha is None else share * self.alpha[units, None])

    def _new(self, tape: Tape, place: Place, layer: int, example: Tensor, units: np.ndarray) -> Tensor:
        """What the site of each row is replaced by, [rows, positions, site]; of experts the sum of those that move."""
        unit = torch.as_tensor(units)
        if place == "expert_neurons":
            own = self.units[units]
            return new_neurons(self.source, tape, layer, example, own.index, own.draws)[..., None]
        if place != "experts":
            return self.source.rows(tape, place, layer, example, unit)
        share = self._shares(units).to(self.lm.device, self.lm.dtype)
        return new_sum(self.source, tape, layer, example, unit, share)

    def _at_position(self, delta: Tensor, tape: Tape, example: Tensor, units: np.ndarray, start: int) -> Tensor:
        """A positional unit changes only its own position; rows hold the positions from `start` on."""
        return own_part(delta, self.units[units], start, self.lm.heads)
