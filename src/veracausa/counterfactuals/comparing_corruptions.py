"""Corruptions compared: exact effects of the same units under each (`compared_corruptions` says what of)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from veracausa.choices import AllUnits
from veracausa.counterfactuals.compared_corruptions import LEAST, CounterfactualComparison
from veracausa.effects.exact import exact
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import GapError, MethodError, TaskError
from veracausa.scores.agreement import require_top
from veracausa.scores.scores import Scores
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class CorruptionsWork(Composed):
    """What `corruptions` is about to do: exact effects of a table of units on the task of each corruption."""

    lm: Model
    tasks: dict[str, Task]
    table: Units
    top: int
    least: float
    known: Mapping[str, Scores]
    kind: ClassVar[str] = "exact"

    @property
    def task(self) -> Task:
        """The first corruption's task: the clean prompts are the same in all."""
        return next(iter(self.tasks.values()))

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """The effects that are computed: all but those `known`, or that will be `given`."""
        return {
            name: exact.work(self.lm, task, units=self.table)
            for name, task in self.tasks.items()
            if name not in self.known and name not in given
        }

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> CounterfactualComparison:
        """Compute the effects under each corruption."""
        found = {**self.known, **{name: part.run(show_progress, out) for name, part in self.parts().items()}}
        scores = {name: found[name] for name in self.tasks}
        if max(abs(float(one.gap.mean())) for one in scores.values()) < 1e-12:
            raise GapError(
                "No corruption changes the metric, so effects have no scale. Add one that changes the answer."
            )
        return CounterfactualComparison(scores, self.top, self.least)


@gives(CounterfactualComparison)
def corruptions(
    lm: Model,
    tasks: Mapping[str, Task],
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    top: int | None = None,
    least: float = LEAST,
    known: Mapping[str, Scores] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> CorruptionsWork:
    """Exact effects of units under several corruptions of the same clean prompts, and which units only one shows.

    Args:
        lm: the model.
        tasks: a name for each corruption → its task. All must have the same clean prompts, answers and metric, as
            built-in tasks with the same seed have.
        units: as for `vc.exact`, not per position (rankings of positions differ with the corrupted position).
        top: strongest units that are compared as sets (None: 10; of ten units or fewer half).
        least: effects under this share of the largest mean gap are not called shown.
        known: exact effects that were computed already, by the names of `tasks`.
        out: a folder to keep finished pieces in; an interrupted call continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `CounterfactualComparison`, effects as shares of the largest mean gap among the corruptions.

    Raises:
        TaskError: fewer than two tasks, or their clean prompts differ; MethodError: `top`, `least` out of range;
        GapError: no corruption separates clean from corrupted; otherwise as `vc.exact`.

    >>> kinds = ("swap", "abc")
    >>> vc.counterfactuals.corruptions(lm, {kind: vc.tasks.ioi(lm, n=16, corruption=kind) for kind in kinds})
    """
    require_same_clean(tasks)
    if not 0 <= least < 1:
        raise MethodError(f"least={least}: a share of the gap lies between 0 and 1.")
    table = resolve_units(lm, units, max(max(task.lengths) for task in tasks.values()))
    if table.positional:
        raise MethodError("Counterfactuals are compared on whole units, not at single positions. Leave out @positions.")
    return CorruptionsWork(lm, dict(tasks), table, require_top(top, len(table)), least, dict(known or {}))


def require_same_clean(tasks: Mapping[str, Task]) -> None:
    """Raise TaskError unless there are at least two tasks with the same clean prompts, answers and metric."""
    if len(tasks) < 2:
        raise TaskError("There is nothing to compare: give at least two corruptions, {'swap': task, 'abc': task}.")
    (first, one), *others = tasks.items()
    for name, task in others:
        for what in ("clean", "correct", "incorrect", "metric"):
            if getattr(task, what) != getattr(one, what):
                raise TaskError(
                    f"Corruptions {first!r} and {name!r} differ in {what}: effects are compared example by example, "
                    "so their clean prompts, answers and metric must be the same. Build both with one seed and n."
                )
