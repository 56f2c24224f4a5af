"""Tables of everything of a kind that a model has: units, edges, cells of patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from veracausa.units.adapters import all_adapters
from veracausa.units.cells import Cells
from veracausa.units.dictionaries import all_of_dictionaries
from veracausa.units.edges import Edges
from veracausa.units.kinds import KINDS, Kind, inside_index
from veracausa.units.table import Units, layers_with, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model


def all_edges(lm: Model, positions: int = 0) -> Edges:
    """Every edge of a model, reader by reader; with `positions` > 0 one per position, position fastest."""
    writer, reader = lm.graph.edges
    if not positions:
        return Edges.of(lm.graph, writer, reader)
    position = np.tile(np.arange(positions), len(writer))
    return Edges.of(lm.graph, np.repeat(writer, positions), np.repeat(reader, positions), position)


def all_units(lm: Model, kind: Kind, positions: int = 0) -> Units:
    """Every unit of a kind, layer by layer; with `positions` > 0 one unit per position, position fastest."""
    if kind == "adapters":
        return _at_positions(all_adapters(lm), positions)
    if KINDS[kind].coded:
        return _at_positions(all_of_dictionaries(lm, kind), positions)
    layers, count = layers_with(lm, kind), per_layer(lm, kind)
    if KINDS[kind].inside:
        experts, neurons = (column.ravel() for column in np.indices((lm.experts, inside_neurons(lm))))
        units = Units(kind, np.repeat(layers, len(experts)), np.tile(inside_index(experts, neurons), len(layers)),
                      np.full(len(layers) * len(experts), -1))  # fmt: skip
        return _at_positions(units, positions)
    layer = np.repeat(np.array(layers), max(count, 1))
    index = np.tile(np.arange(count), len(layers)) if count else np.full(len(layers), -1)
    return _at_positions(Units(kind, layer, index, np.full(len(layer), -1)), positions)


def _at_positions(units: Units, positions: int) -> Units:
    """Every unit at each of so many positions, position fastest; with 0 the units."""
    if not positions:
        return units
    position = np.tile(np.arange(positions), len(units))
    return Units(units.kind, np.repeat(units.layer, positions), np.repeat(units.index, positions), position)


def inside_neurons(lm: Model) -> int:
    """Neurons of an expert."""
    lm.decoder.require("expert_neurons")
    return next(mixture.neurons for mixture in lm.decoder.mixtures.values())


def all_cells(lm: Model, longest: int) -> Cells:
    """Every cell of every head's pattern in prompts of that length that a query sees: key by key, query by query."""
    every = np.ones((longest, longest), dtype=bool)
    query, key = np.nonzero(np.tril(every) if lm.decoder.anatomy.causal else every)
    heads = all_units(lm, "patterns")
    layer, head = (np.repeat(column, len(query)) for column in (heads.layer, heads.index))
    return Cells.of(layer, head, *(np.tile(column, len(heads)) for column in (query, key)))
