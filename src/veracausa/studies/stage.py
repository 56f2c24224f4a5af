"""What studies and comparisons are made of: works on several tasks, and stages that are forecast, done and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from veracausa.cost import Cost, Step
from veracausa.engine.work import Staged
from veracausa.errors import TaskError
from veracausa.planning.rates import batches
from veracausa.planning.stages import Stage
from veracausa.spared import spared
from veracausa.storage.environment import command, machine, versions
from veracausa.studies.results import Section, Study
from veracausa.tasks.task import task_content

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class TasksWork(Staged):
    """A work on some tasks that gives a `Study` of them, a section for each."""

    lm: Model
    tasks: tuple[Task, ...]
    kind: ClassVar[str] = "exact"

    @property
    def task(self) -> Task:
        """The last task, which is asked the most."""
        return self.tasks[-1]

    @property
    def names(self) -> str:
        """What the tasks are called."""
        return ", ".join(dict.fromkeys(one.name for one in self.tasks))

    def study(
        self, began: float, title: str, sections: Sequence[Section], summary: Callable[[], tuple[str, ...]], **rest: Any
    ) -> Study:
        """What was found since `began`; `summary` is spared where it cannot be written."""
        return Study(
            title=f"{title} on {self.lm.name}",
            model=self.lm.header(),
            sections=tuple(sections),
            summary=spared("The summary", summary, lambda sentence: (sentence,)),
            versions=versions(),
            machine=machine(self.lm.device, self.lm.dtype),
            date=date.today().isoformat(),
            command=command(),
            seconds=time.monotonic() - began,
            **rest,
        )


def tasks_of(task: Task | Sequence[Task]) -> tuple[Task, ...]:
    """One task or several; TaskError if there is none, FileError if one could not be written beside its results."""
    tasks = tuple(task) if isinstance(task, Sequence) else (task,)
    if not tasks:
        raise TaskError("There is no task to study. Give at least one, e.g. vc.tasks.ioi(lm).")
    for one in tasks:
        task_content(one)
    return tasks


def stage(
    lm: Model,
    task: Task,
    what: str,
    kind: str,
    tokens: float,
    run: Callable[[], Cost],
    *,
    most: float | None = None,
    count: int | None = None,
    instead: Callable[[str], None] | None = None,
    turn: int = 0,
    joined: bool = False,
) -> Stage:
    """A stage of `tokens` token-layers, at most `most` where what is run shows only on the way (None: just so many).

    `kind`: which rate it runs at. `count`: batches that are recorded (default: those of the task, once). `run`: does it
    and gives what it cost. `instead`, `turn`, `joined`: see `Stage`.
    """
    whole = sum(task.lengths) * lm.layers
    count = batches(lm, task) if count is None else count

    def clocked() -> Cost:
        began = time.monotonic()
        return replace(run(), full=whole, seconds=time.monotonic() - began)

    return Stage(Step(what, kind, tokens, tokens / whole, batches=count, most=most), clocked, instead, turn, joined)
