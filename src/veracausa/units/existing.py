"""Whether a model, its prompts and a task have what a table of units, edges or groups asks for."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, cast

import numpy as np

from veracausa.arguments import shown
from veracausa.errors import UnitError
from veracausa.tasks.placing import length_of, places
from veracausa.units.adapters import adapters_told, lacking_adapters
from veracausa.units.at_spans import require_spans
from veracausa.units.cells import Cells, hidden_cell
from veracausa.units.dictionaries import lacking, sizes_of
from veracausa.units.edges import Edges
from veracausa.units.every_unit import inside_neurons
from veracausa.units.groups import Groups
from veracausa.units.kinds import KINDS, Kind, indexed, inside_of
from veracausa.units.table import Units, layers_with, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def checked_edges(lm: Model, edges: Edges, longest: int) -> Edges:
    """The table, if it is about this model's graph and its positions exist."""
    if not len(edges):
        raise UnitError("The table of edges is empty. Name at least one, e.g. ['a0.h0->logits'].")
    if edges.graph != lm.graph:
        raise UnitError(f"The edges are those of {edges.graph}, but {lm.name} is {lm.graph}.")
    edges.require_existing()
    if (edges.position >= longest).any():
        name = edges[np.flatnonzero(edges.position >= longest)[:1]].names[0]
        raise UnitError(
            f"{name!r}: no prompt of this task has such a position; the longest has {longest} tokens, counted from 0."
        )
    return edges


def checked_units(lm: Model, units: Units, longest: int) -> Units:
    """The table, if the model has every unit of it and some prompt every position; names the first that is not."""
    if not len(units):
        raise UnitError("The table of units is empty. Name at least one, e.g. ['a0.h0'].")
    lm.decoder.require(units.kind)
    bad = ~np.isin(units.layer, layers_with(lm, units.kind)) | beyond(lm, units.kind, units.index, units.layer)
    if bad.any():
        name = units[np.flatnonzero(bad)[:1]].names[0]
        raise UnitError(f"{name!r} is not in {lm.name}: {sizes(lm, units.kind)}.")
    if isinstance(units, Cells) and lm.decoder.anatomy.causal:
        units.require_seen()
    if (units.furthest >= longest).any():
        name = units[np.flatnonzero(units.furthest >= longest)[:1]].names[0]
        raise UnitError(
            f"{name!r}: no prompt of this task has such a position; the longest has {longest} tokens, counted from 0."
        )
    return units


def checked_groups(lm: Model, groups: Groups, longest: int, spans: Task | None = None) -> Groups:
    """The table, if the model has every unit of it, some prompt every position, and the task every span.

    Raises:
        UnitError: the first that is not there.
    """
    if not len(groups):
        raise UnitError("The table of groups is empty. Name at least one, e.g. [('a0.h0', 'a1.h0')].")
    for name, members in zip(groups.names, groups.members, strict=True):
        for one in members:
            if KINDS[one.kind].carried:
                raise UnitError(
                    f"The group {name!r} holds {one.name}: what a mixer carries is replaced alone. Name it by itself."
                )
            if indexed(one.kind) != (one.index >= 0):
                raise UnitError(
                    f"The group {name!r} holds {one}: a unit of that kind has {'an' if one.index < 0 else 'no'} index."
                )
    _require_members(lm, groups, longest)
    for name, members in zip(groups.names, groups.members, strict=True):
        if lm.decoder.anatomy.causal and (hidden := next((one for one in members if one.hidden), None)):
            raise UnitError(hidden_cell(hidden.name))
        if beyond := next((one for one in members if not one.named and one.span(longest, {})[0] < 0), None):
            raise UnitError(
                f"{beyond.name!r} of the group {name!r}: no prompt of this task has such a position; the longest has "
                f"{longest} tokens, counted from 0."
            )
    if groups.named:
        require_spans(groups.named, spans, f"units={shown(groups.names)}")
        _require_apart(groups, cast("Task", spans))
    return groups


def _require_members(lm: Model, groups: Groups, longest: int) -> None:
    """UnitError where the model has not all units that members are: each is asked about once, a kind together."""
    found: dict[Kind, dict[tuple[int, int], None]] = {}
    for one in (one for group in groups.members for one in group):
        found.setdefault(one.kind, {})[one.layer, one.index] = None
    for kind, own in found.items():
        layer, index = np.array([*own], dtype=np.int64).T
        checked_units(lm, Units(kind, layer, index, np.full(len(own), -1)), longest)


def _require_apart(groups: Groups, task: Task) -> None:
    """UnitError where two members at spans set the same activation in some pair."""
    for name, members in zip(groups.names, groups.members, strict=True):
        pairs = [(a, b) for a, b in combinations(members, 2) if (a.named or b.named) and a.shares_activation(b)]
        for i, clean in product(range(len(task)) if pairs else (), (True, False)):
            where = places(task, i, groups.named, clean)
            for a, b in pairs:
                if a.meets(b, length_of(task, i, clean), where):
                    raise UnitError(
                        f"The group {name!r} holds {a.name} and {b.name}, which overlap in pair {i} of {task.name!r}. "
                        "Name every activation once."
                    )


def beyond(lm: Model, kind: str, index: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Which indices a layer has not."""
    if kind == "adapters":
        return lacking_adapters(lm, layer, index)
    if KINDS[kind].coded:
        return lacking(lm, kind, layer, index)
    if KINDS[kind].inside:
        expert, neuron = inside_of(index)
        return (expert >= lm.experts) | (neuron >= inside_neurons(lm))
    return index >= per_layer(lm, kind) if indexed(kind) else np.zeros(len(index), dtype=bool)


def sizes(lm: Model, kind: str) -> str:
    """ "its layers are 0 … 29, each with 9 heads", for messages."""
    if KINDS[kind].place == "adapters":
        return adapters_told(lm)
    if KINDS[kind].coded:
        return sizes_of(lm, kind)
    size = f", each with {per_layer(lm, kind)} {kind}" if indexed(kind) else ""
    if KINDS[kind].inside:
        size = f", each with {lm.experts} experts of {inside_neurons(lm)} neurons"
    layers, last = layers_with(lm, kind), lm.layers - (kind != "residual")
    if len(layers) > last:
        return f"its layers are 0 … {last}{size}"
    part = {"mixer": "a mixer", "mlp": "an MLP"}.get(KINDS[kind].part, KINDS[kind].part)
    return f"its layers with {part} are {', '.join(map(str, layers))}{size}"
