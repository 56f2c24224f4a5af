"""Features of cross-layer transcoders taken in running rows: what they write to later layers follows them.

A row that takes another value of feature i at layer k has its MLP's output changed by (f_i' − f_i) W_{k → l,i}, there
and at every later layer l; f_i is what the row itself has, whatever earlier layers made of it. An error at layer l is
what is left of the row's own MLP output, ε_l = y_l − Σ_{k ≤ l} f_k W_{k → l} − b_l, of the row's own f_k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.dictionaries.code import Code
from veracausa.engine.coded import written_before, written_onward
from veracausa.engine.overrides import Override
from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(eq=False)
class Crossing:
    """What features of one kind of dictionaries write behind their layers in one sweep, as its rows get there.

    `base`: the run that rows come from, `example`: which of its prompts each is, `offset`: their first position in it.
    `follows`: whether some row takes an error behind a layer that it changed, which then needs all features of the row.
    """

    base: State
    place: str
    example: Int[Tensor, " rows"]
    offset: int
    follows: bool
    changes: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict)
    drift: dict[int, Tensor] = field(default_factory=dict)

    def moved(self, layer: int, at: Int[Tensor, " chosen"], like: Tensor) -> Float[Tensor, "chosen positions width"]:
        """What replaced features of earlier layers change of a layer's output, of some rows."""
        found = torch.zeros(len(self.example), *like.shape[1:], dtype=like.dtype, device=like.device)
        for earlier, parts in self.changes.items():
            dictionary = self.base.codes[self.place, earlier].dictionary
            if layer not in dictionary.layers or earlier == layer:
                continue
            for rows, features, change in parts:
                written = change[:, -like.shape[1] :] @ dictionary.rows(features, layer)
                found[rows] += written.to(found.dtype)
        return found[at]

    def before(self, layer: int, at: Int[Tensor, " chosen"], positions: int) -> Tensor | None:
        """What all features of earlier layers write there in these rows, before any is replaced."""
        found = written_before(self.base, self.place, layer)
        if found is None:
            return None
        own = found[self.example[at], -positions:]
        return own + self.drift[layer][at, -positions:] if layer in self.drift else own

    def pass_on(self, code: Code, at: Int[Tensor, " chosen"], read: Tensor, change: Tensor) -> None:
        """Take note of what some rows' features are, and of their change, [chosen, positions, features]."""
        dictionary, layer = code.dictionary, code.dictionary.writes.layer
        moving = change.flatten(0, 1).any(0).nonzero()[:, 0]
        if len(moving):
            features = moving if code.chosen is None else torch.as_tensor(code.chosen, device=moving.device)[moving]
            self.changes.setdefault(layer, []).append((at, features, change[..., moving]))
        if not self.follows:
            return
        f = dictionary.encode(read.to(dictionary.weight.dtype))
        for later, own in written_onward(self.base, self.place, layer).items():
            new = dictionary.written(f, later) - own[self.example[at], self.offset :]
            if later not in self.drift:
                self.drift[later] = new.new_zeros(len(self.example), *new.shape[1:])
            self.drift[later][at] += new


@dataclass(frozen=True)
class Crossed(Override):
    """An override of a layer's dictionary whose features write on, and to which those of earlier layers write.

    `at`: which rows of the crossing its rows are.
    """

    crossing: Crossing | None = None
    at_rows: Tensor | None = None

    def of_code(
        self, read: Float[Tensor, "all positions read"], explained: Float[Tensor, "all positions width"]
    ) -> Float[Tensor, "all positions width"]:
        """See `Override.of_code`."""
        crossing, at, code = self.crossing, self.at_rows, self.code
        assert crossing is not None and at is not None and code is not None
        x, y = read[self.rows], explained[self.rows]
        layer, positions = code.dictionary.writes.layer, y.shape[1]
        site = code.site(x, y, posted=False, before=crossing.before(layer, at, positions))
        new, taken = self.values()[:, -positions:].to(site.dtype), self.taken[:, -positions:].to(site.device)
        change = torch.where(taken, new if self.added else new - site, 0)
        out = explained.clone()
        out[self.rows] += (code.change(change) + crossing.moved(layer, at, code.change(change))).to(out.dtype)
        crossing.pass_on(code, at, x, change[..., : code.features])
        return out


def carried(crossing: Crossing, layer: int, post: bool, rows: Tensor, at: Tensor, width: int, length: int) -> Override:
    """What earlier layers' features change of an output whose own dictionary nobody asks about."""
    taken = torch.ones(len(rows), length, 1, dtype=torch.bool, device=rows.device)

    def values() -> Tensor:
        like = crossing.base.residual[0].new_zeros(1, length, width)
        return crossing.moved(layer, at, like)

    return Override("behind mlp" if post else "mlp", rows, taken, values, added=True)
