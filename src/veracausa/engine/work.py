"""A call's work: what a public verb is about to do, made once from its arguments, asked for its price, and then done.

    work = exact.work(lm, task, units="neurons")    # the arguments are checked, nothing is run
    work.tokens()                                   # what it will cost
    work.run()                                      # what exact(lm, task, units="neurons") returns

So a forecast and the call that it is about cannot drift apart: both are made from one object.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from veracausa.arguments import bytes_of
from veracausa.cost import Step
from veracausa.doors import through
from veracausa.engine.budget import within
from veracausa.errors import MethodError

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Arguments of a verb that change nothing about its work: `run` takes them.
_HOW = ("show_progress", "out")

Arguments = ParamSpec("Arguments")
Result_co = TypeVar("Result_co", covariant=True)
Made_co = TypeVar("Made_co", bound="Work", covariant=True)


class Work(Protocol):
    """What a call is about to do, all arguments checked; frozen."""

    @property
    def lm(self) -> Model:
        """The model that is run."""
        ...

    @property
    def task(self) -> Task:
        """The pairs that it is run on."""
        ...

    @property
    def kind(self) -> str:
        """Which rate the work runs at: "exact", "neurons", "gradients", "paths", "circuits", …"""
        ...

    def tokens(self) -> float:
        """Token-layers of the whole call, recorded runs included."""
        ...

    def batches(self) -> int:
        """Buckets that are recorded, each of which takes a while to begin."""
        ...

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Any:
        """Do it; `out`: a folder to keep finished pieces in."""
        ...


class Composed(ABC):
    """A work that is made of others, its `parts`; it costs what they do."""

    @abstractmethod
    def parts(self, given: Collection[Any] = ()) -> Mapping[Any, Work]:
        """What is computed, by what it is called, where the numbers of some will be `given`."""

    def batches(self) -> int:
        """Buckets that are recorded."""
        return sum(part.batches() for part in self.parts().values())

    def tokens(self, given: Collection[Any] = ()) -> float:
        """Token-layers of the whole call, where the numbers of some parts will be `given`."""
        return sum(part.tokens() for part in self.parts(given).values())


class Staged(ABC):
    """A work that is done in steps; it costs what they do."""

    @abstractmethod
    def steps(self) -> list[Step]:
        """What each step is forecast to cost."""

    def batches(self) -> int:
        """Buckets that all steps record."""
        return sum(step.batches for step in self.steps())

    def tokens(self) -> float:
        """Token-layers of all steps."""
        return sum(step.token_layers for step in self.steps())


class Derived:
    """A work that runs another, its `effects`, and computes something of what that gives; it costs what that does."""

    effects: Any

    @property
    def lm(self) -> Model:
        """The model."""
        return self.effects.lm

    @property
    def task(self) -> Task:
        """The pairs."""
        return self.effects.task

    @property
    def kind(self) -> str:
        """The rate it runs at."""
        return self.effects.kind

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return getattr(self.effects, "alone", False)

    @property
    def aligned(self) -> bool:
        """Whether it can do with pairs whose prompts have different lengths."""
        return getattr(self.effects, "aligned", False)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return self.effects.batches()

    def tokens(self) -> float:
        """Token-layers of all effects."""
        return self.effects.tokens()


class Planned(Protocol[Arguments, Result_co, Made_co]):
    """A public verb whose work can be had before it is done."""

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result_co:
        """Do it."""
        ...

    def work(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Made_co:
        """What the same call would do."""
        ...


#: A verb, and the options that it is called with.
Asked = tuple[Planned[..., Any, Work], dict[str, Any]]


def gives(result: type[Result_co]) -> Callable[[Callable[Arguments, Made_co]], Planned[Arguments, Result_co, Made_co]]:
    """Make a public verb of a function that checks its arguments and returns the `Work` that they ask for.

    Calling the verb does the work and gives its `result`; `verb.work(…)`, with the same arguments, only returns it.
    `show_progress` and `out`, where the function has them, change nothing about the work: they go to `Work.run`; nor
    does `memory`, within which it is run.

    >>> @gives(Scores)
    ... def exact(lm, task, *, units="heads", out=None, show_progress=True) -> ExactWork:
    ...     return ExactWork(lm, task, resolve_units(lm, units, max(task.lengths)))
    """

    def made(asked: Callable[Arguments, Made_co]) -> Planned[Arguments, Result_co, Made_co]:
        signature = inspect.signature(asked)

        @functools.wraps(asked)
        def paired(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made_co:
            work = asked(*args, **kwargs)
            _require_counterpart(work, asked.__name__)
            if not getattr(work, "aligned", False):
                for task in _tasks(work):
                    require_even(task, asked.__name__)
            return work

        @functools.wraps(asked)
        def verb(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result_co:
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            with within(bytes_of(call.arguments.get("memory"))):
                work = paired(*args, **kwargs)
                through("Work.require_fits", work)
                return work.run(**{name: call.arguments[name] for name in _HOW if name in call.arguments})

        vars(verb)["work"], vars(verb)["__signature__"] = paired, signature.replace(return_annotation=result.__name__)
        return cast("Planned[Arguments, Result_co, Made_co]", verb)

    return made


def _require_counterpart(work: Work, name: str) -> None:
    """MethodError for a task without corrupted prompts, but for a work that does without (its `alone`)."""
    lacking = [task for task in _tasks(work) if not getattr(task, "paired", True)]
    if lacking and not getattr(work, "alone", False):
        raise MethodError(
            f"{name} needs the corrupted prompts, and {lacking[0].name!r} has none. Without a counterpart there are "
            "exact effects and estimates with ablation='zero', 'mean', 'resample' or 'optimal' (estimates: baseline=); "
            "else give the task corrupted= prompts."
        )


def _tasks(work: Work) -> Collection[Task]:
    """All tasks that a work is about."""
    tasks = getattr(work, "tasks", [work.task])
    return [*tasks.values()] if isinstance(tasks, Mapping) else [*tasks]


def require_even(task: Task, name: str) -> None:
    """MethodError for a task with pairs whose prompts have different lengths, but for a work that is `aligned`."""
    if not (uneven := getattr(task, "uneven", None)):
        return
    first = min(uneven)
    raise MethodError(
        f"{name} compares both runs position by position, but in {len(uneven)} of {len(task)} pairs of {task.name!r} "
        f"spans alone correspond (pair {first}: {len(task.clean[first])} and {len(task.corrupted[first])} tokens): ask "
        "vc.exact or vc.attribute(…, method='atp') at spans (units='heads@spans', ['m3@subject', 'm3@end'], groups of "
        "such), the clean prompts alone (task.sides[0]), or words that tokenise alike."
    )


def recorded_runs(lm: Model, task: Task, groups: Sequence[tuple[int, tuple[int, ...]]]) -> float:
    """Token-layers of recording both runs of some buckets, (start, pairs): the shared prefix is run once."""
    both = [len(one) + len(other) for one, other in zip(task.clean, task.corrupted, strict=True)]
    return float(lm.layers * sum(len(own) * (both[own[0]] - start) for start, own in groups))


def unpatched_run(lm: Model, task: Task, groups: Sequence[tuple[int, tuple[int, ...]]]) -> float:
    """Token-layers of the engine's own run without a patch, which every bucket begins with."""
    return float(lm.layers * sum(len(own) * (task.lengths[own[0]] - start) for start, own in groups))
