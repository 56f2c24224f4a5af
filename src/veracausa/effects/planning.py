"""What exact effects will cost, counted beforehand: their rows, the recorded runs, and the reference set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.cost import Cost
from veracausa.effects.replacements import DONORS, Zero
from veracausa.effects.rows import Rows
from veracausa.engine.sharing import starts
from veracausa.errors import MethodError
from veracausa.units.edges import Edges
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def planned_exact(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    ablation: str = "counterfactual",
    reference: Task | None = None,
) -> float:
    """Token-layers that `exact` will take, recorded runs included; for "optimal" without learning the constants.

    Raises:
        MethodError: edges, whose rows are not planned one by one.

    >>> planned_exact(lm, task, units="heads", ablation="mean")
    """
    table = resolve_units(lm, units, max(task.lengths))
    if isinstance(table, Edges):
        raise MethodError("What single edges will cost is not planned: how many blocks an edge runs depends on others.")
    work = Rows(lm, task, table, Zero(), True, None, Cost())
    share = ablation == "counterfactual"
    return (
        recorded_runs(lm, task, True)
        + recorded_runs(lm, task, share)
        + unpatched_run(lm, task, share)
        + planned_reference(lm, task if reference is None else reference, task, ablation)
        + work.total(share)
    )


def recorded_runs(lm: Model, task: Task, share: bool) -> float:
    """Token-layers of recording both runs of every pair, the shared prefix once where it is shared."""
    first = starts(lm.decoder, task.clean, task.corrupted, share)
    return float(lm.layers * sum(2 * n - start for n, start in zip(task.lengths, first, strict=True)))


def planned_reference(lm: Model, source: Task, task: Task, ablation: str) -> float:
    """Token-layers of recording the reference set of an ablation: all prompts, or the donors of each length."""
    prompts = [*source.clean, *source.corrupted]
    if ablation in ("mean", "optimal"):
        return float(lm.layers * sum(len(prompt) for prompt in prompts))
    if ablation != "resample":
        return 0.0
    different = set(prompts)
    lengths = {n: min(DONORS, sum(len(prompt) == n for prompt in different)) for n in set(task.lengths)}
    return float(lm.layers * sum(n * count for n, count in lengths.items()))


def unpatched_run(lm: Model, task: Task, share: bool) -> float:
    """Token-layers of the engine's own run without a patch, which every bucket begins with."""
    first = starts(lm.decoder, task.clean, task.corrupted, share)
    return float(lm.layers * sum(n - start for n, start in zip(task.lengths, first, strict=True)))
