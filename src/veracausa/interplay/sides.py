"""What talks and what listens: the parts of one site, as `vc.interactions` is asked for them.

    "heads:10"           all heads of layer 10 ("neurons:12", "mlps:3", "features.mlp:20", …)
    "heads:10@positions" each at every position ("@spans": at every span; "@subject", "@end": at one)
    ["a10.h1", "a10.h4"] some of them, by name, each with @7 or @subject if you like; one name may stand alone

A colon, because `@` says a position ("heads@7" would be heads at position 7).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.dictionaries.words import is_coded
from veracausa.effects.laid import laid_units
from veracausa.engine.coded import narrowed
from veracausa.engine.patches import site_width
from veracausa.errors import UnitError
from veracausa.interplay.places import Places
from veracausa.units.dictionaries import in_parts
from veracausa.units.groups import Groups
from veracausa.units.table import Units, layers_with, per_layer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from veracausa.engine.patches import Place
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Kinds whose parts can talk and listen.
KINDS = (
    "heads", "mlps", "attention", "neurons", "residual", "mixers", "mixer_heads", "channels", "features", "directions",
)  # fmt: skip
_LAYER = re.compile(r"([a-z_]+(?:\.[a-z_][a-z0-9_]*)?):(0|[1-9][0-9]{0,9})(@(?:([0-9]{1,9})|\w+))?")

#: What can be asked for: a kind of one layer, a name, several names, a table.
Asked = str | Sequence[str] | Units


@dataclass(frozen=True, eq=False)
class Side:
    """Units of one site: each is a part of it at some positions.

    `number[k]`: which of the site's numbers belong to parts that are asked for, in order, and `part[k]`: whose each is.
    `own[u]`: unit u's part; where it is, `places` says.

    >>> side = Side.of(lm, units)
    >>> side.sums(torch.ones(len(side.number)))          # how many numbers each part has
    """

    units: Units
    width: int
    number: Int[Tensor, " numbers"]
    part: Int[Tensor, " numbers"]
    own: Int[Tensor, " units"]
    places: Places

    @classmethod
    def of(cls, lm: Model, units: Units) -> Side:
        """The parts that a table of units of one layer names."""
        layer, place = int(units.layer[0]), units.place
        if is_coded(units.kind):
            code = lm.decoder.codes[place, layer]
            widths = code.widths
        else:
            parts = max(1, per_layer(lm, units.kind))
            widths = [site_width(lm.decoder, place, layer=layer) // parts] * parts
        of_site = np.repeat(np.arange(len(widths)), widths)
        own = np.maximum(in_parts(lm, units).index, 0)
        distinct = np.array([*dict.fromkeys(own.tolist())])
        column = np.full(len(widths), -1)
        column[distinct] = np.arange(len(distinct))
        part = column[of_site]
        number = np.flatnonzero(part >= 0)
        order = number[np.argsort(part[number], kind="stable")]
        numbers, whose, mine = (torch.as_tensor(each, device=lm.device) for each in (order, part[order], column[own]))
        return cls(units, sum(widths), numbers, whose, mine, Places.of(units, lm.device))

    @property
    def site(self) -> tuple[Place, int]:
        """The place, and its layer."""
        return self.units.place, int(self.units.layer[0])

    def __len__(self) -> int:
        return len(self.units)

    @property
    def parts(self) -> int:
        """Different parts of the site."""
        return int(self.own.max()) + 1

    @property
    def widths(self) -> Int[Tensor, " parts"]:
        """How many numbers each part is: 1 for a neuron or a feature, as wide as its values for a head."""
        return torch.bincount(self.part, minlength=self.parts)

    @property
    def sizes(self) -> Int[np.ndarray, " units"]:
        """The same of each unit."""
        return self.widths[self.own].cpu().numpy()

    @property
    def single(self) -> bool:
        """Whether every part is one number."""
        return bool((self.sizes == 1).all())

    def sums(self, values: Float[Tensor, "*shape numbers"]) -> Float[Tensor, "*shape parts"]:
        """Sums over each part's own numbers, of values of `number`."""
        found = values.new_zeros(*values.shape[:-1], self.parts)
        return found.index_add_(-1, self.part, values)

    def over(
        self, values: Float[Tensor, "rows positions numbers"], where: Bool[Tensor, "places positions"]
    ) -> Float[Tensor, "rows units"]:
        """Sums over each unit's own numbers and positions, of values of `number`."""
        return self.picked(torch.einsum("rtn,gt->rgn", values, where.to(values)))

    def picked(self, values: Float[Tensor, "rows places numbers"]) -> Float[Tensor, "rows units"]:
        """Sums over each unit's own numbers, of what was summed over the positions of every place."""
        return self.sums(values)[:, self.places.of_unit, self.own]

    def asked(self, where: Bool[Tensor, "places positions"]) -> Bool[Tensor, "parts positions"]:
        """At which positions some unit of each part is."""
        return self._count(where) > 0

    def _count(self, where: Bool[Tensor, "places positions"]) -> Float[Tensor, "parts positions"]:
        """How many units of each part are at each position."""
        there = torch.zeros(self.parts, len(where), device=where.device)
        there[self.own, self.places.of_unit] = 1.0
        return there @ where.float()

    def masks(
        self, chosen: Int[Tensor, " rows"], where: Bool[Tensor, "places positions"]
    ) -> Float[Tensor, "rows positions site"]:
        """1 at the numbers and positions of some units, row by row."""
        numbers = self._whose == self.own[chosen][:, None]
        return (where[self.places.of_unit[chosen]][:, :, None] & numbers[:, None]).double()

    def rest(self, where: Bool[Tensor, "places positions"]) -> Float[Tensor, "positions site"]:
        """1 at the numbers and positions of no unit."""
        taken = torch.cat([self.asked(where), where.new_zeros(1, where.shape[1])])
        return (~taken[self._whose].T).double()

    @property
    def _whose(self) -> Int[Tensor, " site"]:
        """The part of every number of the site; of none: `parts`."""
        whose = torch.full((self.width,), self.parts, device=self.number.device)
        whose[self.number] = self.part
        return whose

    def overlap(self, where: Bool[Tensor, "places positions"]) -> tuple[int, int] | None:
        """Two units that have a number at a position in common, if there are such."""
        part, position = (found.tolist() for found in (self._count(where) > 1).nonzero()[:1].T)
        if not part:
            return None
        both = (self.own == part[0]) & where[self.places.of_unit, position[0]]
        one, other, *_ = both.nonzero()[:, 0].tolist()
        return one, other


def both_sides(lm: Model, task: Task, sources: Asked, readers: Asked) -> tuple[Model, Side, Side]:
    """Both sides of a call, and the model whose dictionaries tell their features apart.

    Raises:
        UnitError: no such parts, parts of several layers, or of a kind that cannot talk.
    """
    tables = [_of_layer(lm, task, asked, what) for asked, what in ((sources, "sources"), (readers, "readers"))]
    for kind in sorted({one.kind for one in tables if is_coded(one.kind)}):
        own = [one for one in tables if one.kind == kind]
        layer, index = (np.concatenate([getattr(one, name) for one in own]) for name in ("layer", "index"))
        lm = narrowed(lm, kind, layer, index)
    source, reader = (Side.of(lm, table) for table in tables)
    return lm, source, reader


def _of_layer(lm: Model, task: Task, asked: Asked, what: str) -> Units:
    """The table that one side of a call is about."""
    match = _LAYER.fullmatch(asked) if isinstance(asked, str) else None
    if match:
        kind, layer = match[1], int(match[2])
        _require_kind(kind, shown(asked), what)
        at = int(match[4]) if match[4] else None
        table = laid_units(lm, task, kind + ((match[3] or "") if at is None else "@positions"))[1]
        if layer not in (known := layers_with(lm, kind)):
            raise UnitError(f"{what}={asked!r}: {lm.name} has {kind} in layers {', '.join(map(str, known))}.")
        found = table[np.flatnonzero((table.layer == layer) & ((table.position == at) | (at is None)))]
        if not len(found):
            raise UnitError(f"{what}={asked!r}: no prompt of {task.name!r} has a position {at}, counted from 0.")
        return found
    if isinstance(asked, str) and (asked.partition("@")[0] in KINDS or ":" in asked):
        raise UnitError(
            f"{what}={asked!r}: name one layer of a kind, as in 'heads:10' or 'heads:10@end', or parts by their names."
        )
    table = laid_units(lm, task, [asked] if isinstance(asked, str) else asked)[1]
    if isinstance(table, Groups) or table.joint or table.cells is not None:
        raise UnitError(f"{what}={shown(asked)}: parts are single, as in ['a10.h1', 'a10.h4'].")
    _require_kind(table.kind, shown(asked), what)
    if len(set(table.layer.tolist())) > 1:
        layers = ", ".join(map(str, sorted(set(table.layer.tolist()))))
        raise UnitError(f"{what}: parts of layers {layers}, but one side of an interaction is one layer's.")
    return table


def _require_kind(kind: str, asked: str, what: str) -> None:
    if (kind not in KINDS and not is_coded(kind)) or kind.startswith("components"):
        raise UnitError(f"{what}={asked}: interactions are between {', '.join(KINDS)}, not {kind}.")
