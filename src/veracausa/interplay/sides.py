"""What talks and what listens: the parts of one site, as `vc.interactions` is asked for them.

    "heads:10"           all heads of layer 10 ("neurons:12", "mlps:3", "features.mlp:20", …)
    ["a10.h1", "a10.h4"] some of them, by name; one name may stand alone

A colon, because `@` says a position everywhere else ("heads@7" would be heads at position 7).
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
from veracausa.units.dictionaries import in_parts
from veracausa.units.groups import Groups
from veracausa.units.resolve import all_units
from veracausa.units.table import Units, layers_with, per_layer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.patches import Place
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Kinds whose parts can talk and listen.
KINDS = (
    "heads", "mlps", "attention", "neurons", "residual", "mixers", "mixer_heads", "channels", "features", "directions",
)  # fmt: skip
_LAYER = re.compile(r"([a-z_]+(?:\.[a-z_][a-z0-9_]*)?):(0|[1-9][0-9]{0,9})")

#: What can be asked for: a kind of one layer, a name, several names, a table.
Asked = str | Sequence[str] | Units


@dataclass(frozen=True, eq=False)
class Side:
    """Parts of one site. `number[k]`: which of the site's numbers are theirs, in order, and `part[k]`: whose each is.

    >>> side = Side.of(lm, units)
    >>> side.sums(torch.ones(side.width))          # how many numbers each part has
    """

    units: Units
    width: int
    number: Int[Tensor, " numbers"]
    part: Int[Tensor, " numbers"]

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
        whose = np.repeat(np.arange(len(widths)), widths)
        own = np.maximum(in_parts(lm, units).index, 0)
        column = np.full(len(widths), -1)
        column[own] = np.arange(len(own))
        part = column[whose]
        number = np.flatnonzero(part >= 0)
        order = number[np.argsort(part[number], kind="stable")]
        return cls(units, sum(widths), *(torch.as_tensor(each, device=lm.device) for each in (order, part[order])))

    @property
    def site(self) -> tuple[Place, int]:
        """The place, and its layer."""
        return self.units.place, int(self.units.layer[0])

    def __len__(self) -> int:
        return len(self.units)

    @property
    def sizes(self) -> Int[np.ndarray, " parts"]:
        """How many numbers each part is: 1 for a neuron or a feature, as wide as its values for a head."""
        return np.bincount(self.part.cpu().numpy(), minlength=len(self))

    @property
    def single(self) -> bool:
        """Whether every part is one number."""
        return bool((self.sizes == 1).all())

    def sums(self, values: Float[Tensor, "*shape numbers"]) -> Float[Tensor, "*shape parts"]:
        """Sums over each part's own numbers, of values of `number`."""
        found = values.new_zeros(*values.shape[:-1], len(self))
        return found.index_add_(-1, self.part, values)

    def masks(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows site"]:
        """1 at the numbers of a part, row by row; one that is not there (`len(self)`): at those of no part."""
        whose = torch.full((self.width,), len(self), device=self.number.device)
        whose[self.number] = self.part
        return (whose == chosen[:, None]).double()


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
        table = laid_units(lm, task, kind)[1] if is_coded(kind) else all_units(lm, kind)  # type: ignore[arg-type]
        if layer not in (known := layers_with(lm, kind)):
            raise UnitError(f"{what}={asked!r}: {lm.name} has {kind} in layers {', '.join(map(str, known))}.")
        return table[np.flatnonzero(table.layer == layer)]
    if isinstance(asked, str) and (asked.partition("@")[0] in KINDS or ":" in asked):
        raise UnitError(f"{what}={asked!r}: name one layer of a kind, as in 'heads:10', or parts by their names.")
    table = laid_units(lm, task, [asked] if isinstance(asked, str) else asked, spans=False)[1]
    if isinstance(table, Groups) or table.joint or table.positional or table.cells is not None:
        raise UnitError(f"{what}={shown(asked)}: parts are single and at all positions, as in ['a10.h1', 'a10.h4'].")
    _require_kind(table.kind, shown(asked), what)
    if len(set(table.layer.tolist())) > 1:
        layers = ", ".join(map(str, sorted(set(table.layer.tolist()))))
        raise UnitError(f"{what}: parts of layers {layers}, but one side of an interaction is one layer's.")
    return table


def _require_kind(kind: str, asked: str, what: str) -> None:
    if kind not in KINDS and not is_coded(kind):
        raise UnitError(f"{what}={asked}: interactions are between {', '.join(KINDS)}, not {kind}.")
