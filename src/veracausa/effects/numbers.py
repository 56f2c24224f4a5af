"""Which of its site's numbers a unit is, and numbers of a site part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.dictionaries.words import is_coded
from veracausa.engine.patches import site_width
from veracausa.units.table import per_layer

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.engine.patches import Place
    from veracausa.model import Model
    from veracausa.units.kinds import Kind
    from veracausa.units.table import Units


def width_of(lm: Model, place: Place, layer: int) -> int:
    """How many numbers a layer's site has at one position."""
    return lm.decoder.codes[place, layer].width if is_coded(place) else site_width(lm.decoder, place, layer=layer)


def numbers_of(lm: Model, units: Units, number: int) -> slice | None:
    """Those of one unit of a table; None of a feature that the model's dictionary does not tell apart from others."""
    layer, index = int(units.layer[number]), int(units.index[number])
    whole = width_of(lm, units.place, layer)
    if is_coded(units.place):
        code = lm.decoder.codes[units.place, layer]
        return code.numbers(index) if code.tells(index) else None
    if index < 0:
        return slice(0, whole)
    width = whole // max(1, per_layer(lm, units.kind))
    return slice(index * width, (index + 1) * width)


def by_parts(lm: Model, kind: Kind, layer: int, values: Float[Tensor, " site"]) -> Float[Tensor, " site"]:
    """Each number of a site as the mean over the part that it is of: a head, a feature, a whole error."""
    if is_coded(kind):
        code = lm.decoder.codes[kind, layer]
        means = torch.stack([part.mean() for part in values.split(code.widths)])
        return code.spread(means[None])[0]
    split = values.unflatten(-1, (max(1, per_layer(lm, kind)), -1))
    return split.mean(-1, keepdim=True).expand_as(split).flatten(-2)
