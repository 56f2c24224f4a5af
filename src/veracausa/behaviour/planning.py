"""Token-layers that an ablation study will take, counted from its arguments alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.behaviour.chosen import Condition
from veracausa.effects.planning import planned_reference
from veracausa.engine.patches import Place, where
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Ablations that share clean runs, and the groups of prompts that run together: (first position, prompts).
Pass = tuple[tuple[str, ...], list[tuple[int, tuple[int, ...]]]]


def planned_tokens(
    lm: Model,
    task: Task,
    tables: Sequence[Units],
    conditions: Sequence[Condition],
    passes: Sequence[Pass],
    new_tokens: int,
    reference: Task,
) -> float:
    """Token-layers of a study: see `behaviour.runs` and `behaviour.generation`."""
    total = 3.0 * task.lengths[0] * lm.layers  # one pair, to validate the engine
    places = {
        name: (table.place, int(layer))
        for table in tables
        for name, layer in zip(table.names, table.layer, strict=True)
    }
    for number, (names, groups) in enumerate(passes):
        total += sum(planned_reference(lm, reference, task, name) for name in names) * len(tables)
        for start, members in groups:
            length = task.lengths[members[0]]
            both = "counterfactual" in names
            recorded = start + (length - start) * (2 if both else 1)
            total += len(members) * lm.layers * recorded
            for condition in conditions:
                if condition.ablation not in names and (condition.units or number):
                    continue
                if new_tokens > 1:
                    total += len(members) * lm.layers * (length + new_tokens - 1)
                elif condition.units:
                    total += len(members) * (length - start) * _depth(lm, places, condition)
    return total


def _depth(lm: Model, places: dict[str, tuple[Place, int]], condition: Condition) -> int:
    """Blocks that a condition's rows run."""
    if len(condition.units) > 1:
        return lm.layers - min(places[name][1] for name in condition.units)
    return lm.layers - where(lm.decoder, *places[condition.units[0]]).join[0]
