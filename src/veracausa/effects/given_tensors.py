"""Tensors that a user gives for units, checked and put side by side as the sites of a model's layers hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import kind_and_value
from veracausa.effects.numbers import numbers_of, width_of
from veracausa.errors import MethodError, UnitError
from veracausa.units.edges import Edges
from veracausa.units.kinds import KINDS, whole_kind
from veracausa.units.table import Units
from veracausa.units.unit_names import parse_names

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.tape import Tape
    from veracausa.model import Model
    from veracausa.tasks.task import Task

_SHAPES = "[width], [positions, width], [pairs, width] or [pairs, positions, width]"


@dataclass(frozen=True, eq=False)
class Sites:
    """Values of whole sites, layer by layer: [pairs or 1, positions or 1, site], 0 where none are given."""

    layers: Mapping[int, Float[Tensor, "pairs positions site"]]

    def rows(self, tape: Tape, layer: int, example: Int[Tensor, " rows"], like: Tensor) -> Tensor:
        """Those of some rows at the tape's positions, [rows, positions, site]; `like`: an activation there."""
        if layer not in self.layers:
            return like.new_zeros(len(example), *like.shape[1:])
        values = self.layers[layer].to(like)
        if values.shape[0] > 1:
            pairs = torch.tensor([tape.examples[e] for e in example.tolist()], device=values.device)
            values = values[pairs]
        if values.shape[1] > 1:
            values = values[:, tape.start : tape.length]
        return values.expand(len(example), tape.length - tape.start, -1)


def as_sites(lm: Model, task: Task, values: Mapping[str, Any], units: Units) -> Sites:
    """The values of units' sites, from tensors by unit.

    Raises:
        UnitError: a name that the model does not have, or a unit that none is given for. MethodError: a tensor of
            another shape, or with NaN or infinity.
    """
    if not isinstance(values, Mapping) or not values:
        raise MethodError(f"values= are unit → tensor, such as {{'a0.h0': …}}, but this is {kind_and_value(values)}.")
    layers: dict[int, Tensor] = {}
    known: dict[int, list[tuple[int, int]]] = {}
    for name, value in values.items():
        one = parse_names(lm, [name])
        if isinstance(one, Edges) or one.positional or one.cells is not None:
            raise UnitError(f"values= are of whole units, but {name!r} is not one. Positions stand in units=.")
        if one.place == "expert_neurons":
            expert = name.rpartition(".")[0]
            raise UnitError(f"{name}: a neuron of an expert is not there where that is not chosen. Give {expert}.")
        if one.place == "pattern":
            raise UnitError(f"{name}: where a head looks is no vector. Give its values, or those of another unit.")
        if one.place != units.place:
            continue
        layer, own = int(one.layer[0]), numbers_of(lm, one, 0)
        if own is None:
            continue  # a feature that this call is not about
        found = _shaped(name, value, task, own.stop - own.start)
        known.setdefault(layer, []).append((own.start, own.stop))
        layers[layer] = _joined(layers.get(layer), found, own.start, width_of(lm, one.place, layer))
    _require_all(lm, units, known)
    return Sites(layers)


def _require_all(lm: Model, units: Units, known: Mapping[int, list[tuple[int, int]]]) -> None:
    """UnitError for a unit that no tensor is given for; `known`: layer → columns of its site that some are for."""
    for layer, index in dict.fromkeys(zip(units.layer.tolist(), units.index.tolist(), strict=True)):
        own = numbers_of(lm, Units(units.kind, np.array([layer]), np.array([index]), np.array([-1])), 0)
        if own is None or not any(first <= own.start and own.stop <= end for first, end in known.get(layer, ())):
            name = KINDS[whole_kind(units.kind) if index < 0 else units.kind].called(layer, index)
            raise UnitError(f"values= have no tensor for {name}. Give one for every unit that is replaced.")


def _joined(before: Tensor | None, found: Tensor, first: int, whole: int) -> Tensor:
    """A site with the values of one more part."""
    pairs, positions, width = found.shape
    if before is None:
        before = found.new_zeros(1, 1, whole)
    shape = (max(pairs, before.shape[0]), max(positions, before.shape[1]), whole)
    site = before.expand(shape).clone()
    site[..., first : first + width] = found
    return site


def _shaped(name: str, value: Any, task: Task, width: int) -> Float[Tensor, "pairs positions width"]:
    """A tensor as [pairs or 1, positions or 1, width]."""
    try:
        given = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise MethodError(f"values of {name} are numbers, but this is {kind_and_value(value)}.") from None
    if given.dtype.is_complex or given.dtype == torch.bool:
        raise MethodError(f"values of {name} are real numbers, but this is a tensor of {given.dtype}.")
    pairs, lengths = len(task), set(task.lengths)
    length = lengths.pop() if len(lengths) == 1 else None
    shape = tuple(given.shape)
    fits = 1 <= len(shape) <= 3 and shape[-1] == width
    if fits and len(shape) == 2 and shape[0] == pairs == length and pairs > 1:
        raise MethodError(
            f"values of {name} are {list(shape)}, and there are {pairs} pairs of {length} tokens: give "
            f"[1, positions, width] or [pairs, 1, width], so that it is clear which of them is meant."
        )
    if fits and len(shape) == 2:
        given = given[:, None] if shape[0] == pairs else given[None]
    if fits and len(shape) == 1:
        given = given[None, None]
    if not fits or given.shape[0] not in (1, pairs) or given.shape[1] not in (1, length):
        told = f"{length} tokens" if length else f"{min(task.lengths)} to {max(task.lengths)} tokens"
        raise MethodError(
            f"values of {name} are {list(shape)}, but the unit is {width} wide, in {pairs} pairs of {told}: give "
            f"{_SHAPES}{'' if length else ' (positions only where all prompts have one length)'}."
        )
    if not torch.isfinite(given).all():
        raise MethodError(f"values of {name} hold NaN or infinity.")
    return given.double() if not given.dtype.is_floating_point else given
