"""Units that contracts try: parts of what mixes the positions (heads, or channels of mixers), in a few layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veracausa.model import Model


@dataclass(frozen=True)
class Chosen:
    """One unit: its name, its layer, its columns of what an output projection reads, and whether that is a mixer's."""

    name: str
    layer: int
    columns: slice
    mixer: bool


def _sorts(lm: Model) -> list[tuple[str, str, int]]:
    """(part of a block, a name with room for layer and index, how many a layer has)."""
    decoder = lm.decoder
    heads = ("a{}", 1) if "heads" in decoder.lacks else ("a{}.h{}", decoder.heads)
    sorts = [("attention", *heads), ("mixer", "x{}.c{}", decoder.channels)]
    return [sort for sort in sorts if decoder.layers_with(sort[0])]


def _chosen(lm: Model, sort: tuple[str, str, int], layer: int, index: int) -> Chosen:
    part, name, count = sort
    block = lm.decoder.blocks[layer]
    width = block.heads * block.head_dim // count if part == "attention" else 1
    return Chosen(name.format(layer, index), layer, slice(index * width, (index + 1) * width), part == "mixer")


def some_units(lm: Model) -> list[list[Chosen]]:
    """The first and the last of a layer, in an early, a middle and the last layer; heads and channels apart."""
    found = []
    for sort in _sorts(lm):
        layers, count = lm.decoder.layers_with(sort[0]), sort[2]
        some = sorted({layers[0], layers[len(layers) // 3], layers[-1]})
        found.append([_chosen(lm, sort, layer, index) for layer in some for index in sorted({0, count - 1})])
    return found


def end_units(lm: Model) -> list[list[Chosen]]:
    """The last of the first layer and the first of the last one; heads and channels apart."""
    found = []
    for sort in _sorts(lm):
        layers = lm.decoder.layers_with(sort[0])
        found.append([_chosen(lm, sort, layers[0], sort[2] - 1), _chosen(lm, sort, layers[-1], 0)])
    return found


def middle_units(lm: Model) -> list[str]:
    """All heads of the layer in the middle; of a model without attention all its channels."""
    part, name, count = _sorts(lm)[0]
    layers = lm.decoder.layers_with(part)
    return [name.format(layers[len(layers) // 2], index) for index in range(count)]


def names(units: Sequence[Chosen]) -> list[str]:
    """Their names."""
    return [unit.name for unit in units]
