"""Steering computed: the exact effects of every scale (`steering` says what of)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from veracausa.cost import Cost
from veracausa.effects.exact import exact
from veracausa.effects.instead import Added
from veracausa.effects.steering_curves import Steering
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import MethodError
from veracausa.units.edges import Edges
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Scales where nothing else is asked for.
SCALES = (-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class SteeringWork(Composed):
    """Exact effects of every scale but 0; see `steering`."""

    lm: Model
    task: Task
    units: Units
    vectors: Mapping[str, Any]
    scales: tuple[float, ...]
    kind: ClassVar[str] = "exact"
    alone: ClassVar[bool] = True

    def parts(self, given: Collection[float] = ()) -> dict[float, Work]:
        """The effects, scale by scale."""
        made = {scale: Added(self.vectors, scale) for scale in self.scales if scale}
        return {s: exact.work(self.lm, self.task, units=self.units, ablation=added) for s, added in made.items()}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Steering:
        """Run every scale."""
        found = {scale: work.run(show_progress, out) for scale, work in self.parts().items()}
        first = next(iter(found.values()))
        still = torch.where(first.values.isnan(), first.values, torch.zeros_like(first.values))
        effects = torch.stack([found[scale].values if scale else still for scale in self.scales])
        settings = {name: value for name, value in first.settings.items() if name not in ("scale", "seed")}
        cost = sum((each.cost for each in found.values()), Cost())
        return Steering(
            self.units, np.array(self.scales), effects, first.clean, settings, first.model, first.task, cost
        )


@gives(Steering)
def steering(
    lm: Model,
    task: Task,
    vectors: Mapping[str, Any],
    *,
    units: Sequence[str] | Units | None = None,
    scales: Sequence[float] = SCALES,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> SteeringWork:
    """Add a vector to units, one unit at a time, at several scales, and read the metric.

    Args:
        lm: the model.
        task: the prompts and the metric; of pairs the clean prompts.
        vectors: unit → the vector that is added at scale 1, of a shape as in `vc.effects.Own`.
        units: names of one kind, also at positions (["r10@5"]); default: all units that have a vector, everywhere.
        scales: multiples of the vector; 0 is always among them.
        out, memory, show_progress: as for `vc.exact`.

    Raises:
        MethodError, UnitError: no scale but 0, a vector that does not fit, units that have none; others as `vc.exact`.

    >>> found = vc.effects.steering(lm, task, {"r10": happy - sad}, scales=(-4, -2, 2, 4))
    >>> found.table(), found.chart()
    """
    wanted = np.asarray(list(scales), dtype=float)
    if not np.isfinite(wanted).all() or not wanted.any():
        raise MethodError(f"scales={list(scales)}: finite numbers, at least one of them other than 0.")
    table = resolve_units(lm, list(vectors) if units is None else units, max(task.lengths))
    if isinstance(table, Edges):
        raise MethodError("Edges carry writes, to which no vector is added. Name heads, MLPs or the residual stream.")
    work = SteeringWork(lm, task, table, dict(vectors), tuple(np.unique(np.append(wanted, 0.0)).tolist()))
    work.parts()  # which refuse what does not fit
    return work
