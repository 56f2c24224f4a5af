"""Rows (example, group): several units replaced in one run; see `rows`.

A row enters the stream unpatched before the first block that its group touches, and takes other values at each of its
members when it gets there (`engine.overrides`): what hooks on all of them would give. It runs that block whole, where a
single unit's row begins behind its own write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.adapters import adapted_of
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.counterparts import sources, with_means
from veracausa.effects.crossing_rows import crossed, crosses
from veracausa.effects.expert_values import new_neurons
from veracausa.effects.plan import Patching, Plan
from veracausa.effects.replacements import Counterfactual, Moving, Multiple, Replacement
from veracausa.engine.bucket import Bucket
from veracausa.engine.overrides import Override
from veracausa.engine.patches import Place, kept_width, sites_for
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, Tape
from veracausa.errors import MethodError
from veracausa.tasks.placing import corresponding, elsewhere, length_of, places, ranges
from veracausa.tasks.spans import Range
from veracausa.units.groups import Groups
from veracausa.units.kinds import Kind, inside_of
from veracausa.units.members import Member
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Place → the kind whose units are side by side there.
KIND_AT: dict[Place, Kind] = {
    "z": "heads", "neurons": "neurons", "mlp": "mlps", "residual": "residual", "queries": "queries", "keys": "keys",
    "values": "values", "pattern": "patterns", "experts": "experts", "shared": "shared",
    "router": "routers", "channels": "channels", "adapters": "layer_adapters",
    "gate": "gates", "expert_neurons": "expert_neurons",
}  # fmt: skip


def kind_at(place: Place) -> Kind:
    """The kind whose units are side by side at a place; of dictionaries it bears their name."""
    return cast("Kind", place) if is_coded(place) else KIND_AT[place]


def part_of(lm: Model, one: Member, parts: int) -> slice:
    """Which parts of its site a unit is: one, all of them, the channels of a mixer's head, a feature, an adapter."""
    if is_coded(one.kind):
        return lm.decoder.codes[one.kind, one.layer].numbers(one.index)
    if one.place == "adapters":
        return adapted_of(lm.decoder.blocks[one.layer]).numbers(one.index)
    if one.index < 0:
        return slice(parts)
    size = parts // per_layer(lm, one.kind)
    return slice(one.index * size, (one.index + 1) * size)


def units_at_places(lm: Model, groups: Groups) -> dict[Place, Units]:
    """Place → the units that members of groups are there, each once."""
    found: dict[Place, list[tuple[int, int]]] = {}
    for one in (one for group in groups.members for one in group):
        index = [one.index]
        if one.kind != kind_at(one.place) and one.index >= 0:  # a mixer's head, which is several channels
            whole = part_of(lm, one, per_layer(lm, kind_at(one.place)))
            index = [*range(whole.start, whole.stop)]
        found.setdefault(one.place, []).extend((one.layer, i) for i in index)
    return {place: _whole_units(kind_at(place), members) for place, members in found.items()}


def _whole_units(kind: Kind, members: list[tuple[int, int]]) -> Units:
    """Units (layer, index) of a kind, each once."""
    layer, index = np.array([*dict.fromkeys(members)], dtype=np.int64).T
    return Units(kind, layer, index, np.full(len(layer), -1))


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
    aligned: ClassVar[bool] = True

    @property
    def kept(self) -> int:
        """Floats a token that a tape keeps of each layer beside the stream."""
        longest = max(self.task.lengths)
        return sum(kept_width(self.lm.decoder, place, longest) for place in self.units.places) + 2 * self.lm.width

    @property
    def depth(self) -> np.ndarray:
        """Blocks that each group's row runs: from the first that it touches."""
        return self.lm.layers - self.units.layer

    def starts(self, start: int, length: int, examples: tuple[int, ...]) -> np.ndarray:
        """See `Plan.starts`."""

        def first(where: dict[str, Range]) -> np.ndarray:
            exists, reaches = self.units.within(start, length, where)
            earliest = self.units.earliest(start, length, where) if self.lm.decoder.anatomy.causal else start
            return np.where(exists & reaches, earliest, length)

        return self._by_spans(examples, first)

    def _by_spans(self, examples: tuple[int, ...], told: Callable[[dict[str, Range]], np.ndarray]) -> np.ndarray:
        """What is told of the groups given where the spans are: once if there are none, else pair by pair."""
        if not self.units.named:
            return told({})
        found: dict[tuple[tuple[str, Range], ...], np.ndarray] = {}
        for example in examples:
            if (key := tuple(self._own[example].items())) not in found:
                found[key] = told(self._own[example])
        return np.stack([found[tuple(self._own[example].items())] for example in examples])

    @cached_property
    def _own(self) -> list[dict[str, Range]]:
        """Where each pair has the spans in the run that is patched."""
        return [places(self.task, i, self.units.named, self.noising) for i in range(len(self.task))]

    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """See `Plan.record`."""
        places = tuple(self.units.places)
        sites = tuple(dict.fromkeys(site for place in places for site in sites_for(place)))
        asked = (self.lm, self.task, start, examples, self.cost)
        bucket = Bucket.record(*asked, sites=sites, places=places, noising=self.noising)
        return Patching(bucket, *bucket.runs(self.noising))

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Groups with a position that does not exist, or of which nothing can change."""
        tape = patching.bucket.tape

        def told(where: dict[str, Range]) -> np.ndarray:
            exists, reaches = self.units.within(tape.start, tape.length, where)
            return np.where(exists, np.where(reaches, 1, 0), -1)

        found = self._by_spans(tape.examples, told)
        for chosen, effect in ((found < 0, float("nan")), (found == 0, 0.0)):
            rows = np.argwhere(todo.numpy() & chosen)
            if len(rows):
                yield rows, effect

    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """See `Plan.chunk`."""
        last = self.streams(patching, rows, start)
        example = torch.as_tensor(rows[:, 0], device=self.lm.device)
        return patching.bucket.read(last, example).to("cpu", self.lm.score_dtype)

    def streams(self, patching: Patching, rows: np.ndarray, start: int) -> Float[Tensor, "rows tail width"]:
        """The final stream of rows (example, group), run from position `start` on, where it is read."""
        tape, base = patching.bucket.tape, patching.base
        offset = start - tape.start

        def joined(layer: int, example: Tensor) -> Join:
            return Join(layer, False, example, lambda: base.residual[layer][example, offset:])

        joins = [joined(layer, example) for layer, _, example in self.by_layer(rows)]
        overrides = self._overrides(patching.base, tape, rows, start)
        return sweep(self.lm.decoder, tape, base, joins, start=start, overrides=overrides, cost=self.cost)

    def _overrides(self, base: State, tape: Tape, rows: np.ndarray, start: int) -> dict[int, list[Override]]:
        """Layer → what the rows of a chunk take there, place by place."""
        asked: dict[tuple[int, Place], dict[int, list[Member]]] = {}
        for row, unit in enumerate(rows[:, 1].tolist()):
            for member in self.units.members[unit]:
                asked.setdefault((member.layer, member.place), {}).setdefault(row, []).append(member)
        found: dict[int, list[Override]] = {}
        crossing = {place for _, place in asked if crosses(self.lm, place)}
        for (layer, place), members in asked.items():
            if place not in crossing:
                found.setdefault(layer, []).append(self._override(tape, rows, start, layer, place, members))
        for place in crossing:
            own = {layer: members for (layer, at), members in asked.items() if at == place}
            made = partial(self._override, tape, rows, start, place=place)
            for layer, several in crossed(self.lm, base, tape, place, own, rows[:, 0], start, made).items():
                found.setdefault(layer, []).extend(several)
        return found

    def _override(
        self, tape: Tape, rows: np.ndarray, start: int, layer: int, place: Place, members: Mapping[int, list[Member]]
    ) -> Override:
        if place == "expert_neurons":
            return self._of_neurons(tape, rows, start, layer, members)
        own, device, source = np.array(list(members)), self.lm.device, self.sources[place]
        code = self.lm.decoder.codes[place, layer] if is_coded(place) else None
        parts = self._parts(place, layer)
        keys = tape.length if place == "pattern" else 1  # of patterns single keys may be taken
        taken = torch.zeros(len(own), tape.length - start, parts, keys, dtype=torch.bool)
        there = torch.zeros(len(own), tape.length - start, parts, dtype=torch.long)
        pairs = [tape.examples[example] for example in rows[own, 0]]
        moving = elsewhere(self.task, self.units.named) and isinstance(source, Counterfactual)
        for at, (group, pair) in enumerate(zip(members.values(), pairs, strict=True)):
            for one in group:
                first, last = one.span(tape.length, self._own[pair])
                if moving:
                    first, last, values_at = self._elsewhere(one, pair, first, last)
                part = slice(None) if parts == 1 else part_of(self.lm, one, parts)
                looked_at = one.looked_at(tape.length, self._own[pair]) if keys > 1 else slice(None)
                here = slice(max(first, start) - start, max(last + 1 - start, 0))
                taken[at, here, part, looked_at] = True
                if moving:
                    there[at, here, part] = values_at[max(start - first, 0) :, None] - tape.start
        example = torch.as_tensor(rows[own, 0], device=device)

        def values() -> Tensor:
            if isinstance(source, Moving):
                return source.moves(tape, place, layer, example)[:, start - tape.start :]
            if isinstance(source, Multiple):  # so much of the way to nothing
                return torch.zeros_like(source.rows(tape, place, layer, example, None))[:, start - tape.start :]
            new = source.rows(tape, place, layer, example, None)
            if not moving:
                return new[:, start - tape.start :]
            if self.task.align == "mean":
                new = with_means(new, self._means[pairs] - tape.start)
            split = new.unflatten(-1, (parts, -1))
            return split.gather(1, there.to(new.device)[..., None].expand(-1, -1, -1, split.shape[-1])).flatten(2)

        added, share = isinstance(source, Moving), taken.flatten(2).to(device)
        if isinstance(source, Multiple):
            share = share.to(torch.float64) * (1 - source.factor)
        return Override(place, torch.as_tensor(own, device=device), share, values, added, code)

    def _of_neurons(
        self, tape: Tape, rows: np.ndarray, start: int, layer: int, members: Mapping[int, list[Member]]
    ) -> Override:
        """The same of experts' neurons: of those that some member is, side by side, not of all that there are."""
        own, device, source = np.array(list(members)), self.lm.device, self.sources["expert_neurons"]
        index = np.unique([one.index for group in members.values() for one in group])
        if elsewhere(self.task, self.units.named) and isinstance(source, Counterfactual):
            raise MethodError(
                "Neurons of experts in a group take the other run's values at their own positions, and these prompts "
                "have others at other positions. Take whole experts, or pairs whose spans stand at the same positions."
            )
        taken = torch.zeros(len(own), tape.length - start, len(index), dtype=torch.bool)
        for at, (group, example) in enumerate(zip(members.values(), rows[own, 0].tolist(), strict=True)):
            for one in group:
                first, last = one.span(tape.length, self._own[tape.examples[example]])
                here = slice(max(first, start) - start, max(last + 1 - start, 0))
                taken[at, here, int(np.searchsorted(index, one.index))] = True
        example = torch.as_tensor(rows[own, 0], device=device)

        def values() -> Tensor:
            every = example.repeat_interleave(len(index))
            new = new_neurons(source, tape, layer, every, np.tile(index, len(own)))
            return new[:, start - tape.start :].unflatten(0, (len(own), -1)).transpose(1, 2)

        inside = tuple(torch.as_tensor(one, device=device) for one in inside_of(index))
        at_rows = torch.as_tensor(own, device=device)
        return Override("expert_neurons", at_rows, taken.to(device), values, inside=(inside[0], inside[1]))

    def _parts(self, place: Place, layer: int) -> int:
        """Of how many parts members are told at a place: numbers where these are not all of one size."""
        if is_coded(place):
            return self.lm.decoder.codes[place, layer].width
        if place == "adapters":
            return adapted_of(self.lm.decoder.blocks[layer]).width
        return max(1, per_layer(self.lm, KIND_AT[place]))

    def _elsewhere(self, one: Member, pair: int, first: int, last: int) -> tuple[int, int, Int[Tensor, " positions"]]:
        """First and last position at which a member at `first` … `last` takes values, and where the other run has each.

        A mean is behind that run's positions, in the order of the spans.
        """
        length, other = (length_of(self.task, pair, side) for side in (self.noising, not self.noising))
        if one.at is None:  # from the end, or prompts of one length
            return first, last, torch.arange(first, last + 1) + other - length
        here, there = (each[one.at] for each in corresponding(self.task, pair, [one.at], self.noising))
        return here[0], here[1] - 1, sources(here, there, other + self.units.named.index(one.at))

    @cached_property
    def _means(self) -> Int[Tensor, "examples spans 2"]:
        """Where the spans are in the run that replacements come from."""
        return torch.as_tensor(ranges(self.task, self.units.named, not self.noising))
