"""A call at work: the model borrowed, the bare metric measured, finished pieces kept, time and cost counted.

    with session(lm, task, shape, out=out, name="exact-heads", asked={"units": table.digest()}) as call:
        call.each("exact effects of 270 heads", total, groups, run)      # run(start, examples) calls call.put(…)

or, where all that is counted is to move the bar,

        with call.bar("exact effects of 270 heads", work.tokens()):
            call.rest(groups, run)

What is done before is not done again; what is done is on the disk at most a few seconds later, also where the call ends
by an exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.guard import borrowed
from veracausa.engine.measure import measure
from veracausa.engine.memory import halving
from veracausa.progress import Tick, progress
from veracausa.storage.pieces import Checkpoint
from veracausa.tasks.measurement import Measurement
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(eq=False)
class Session:
    """One call: its numbers so far, which of them are `done`, what they cost, and where finished ones are kept.

    `origin`: the model's header as it was when the call began. `measured`: M of both bare runs, where it was asked for.
    """

    lm: Model
    task: Task
    origin: dict[str, str]
    cost: Cost
    values: Tensor
    done: Tensor
    pieces: Checkpoint | None
    show: bool
    measured: Measurement
    tick: Tick = lambda amount: None
    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    _count: Tick = lambda amount: None
    _counted: int = 0

    def put(self, at: Any, values: Tensor) -> None:
        """Write down finished numbers; `at` indexes [examples, units]."""
        self.values[at] = values.to(self.values)
        self.done[at] = True
        self.advance()
        self.keep()

    def advance(self) -> None:
        """Move the bar of `bar` by what has been counted since it was last moved."""
        self._count(self.cost.token_layers - self._counted)
        self._counted = self.cost.token_layers

    def keep(self, *, force: bool = False) -> None:
        """Stop the clock, and write what is done if the last write was a while ago (or `force`)."""
        self.cost.seconds = self.before + time.monotonic() - self.began
        if self.pieces is not None:
            self.pieces.keep(force=force)

    def finished(self, wanted: Tensor | None = None) -> float:
        """The share of what is wanted (default: all) that is done."""
        wanted = torch.ones_like(self.done) if wanted is None else wanted
        return float((self.done & wanted).sum()) / max(1, int(wanted.sum()))

    def each(
        self,
        label: str,
        total: float,
        groups: Sequence[tuple[int, tuple[int, ...]]],
        run: Callable[[int, tuple[int, ...]], None],
        *,
        done: float = 0.0,
    ) -> None:
        """Call `run(start, examples)` for every bucket that is not done, in halves where it does not fit.

        `total`: token-layers of the whole work, `done`: of which so many were finished by an earlier run; `run` reports
        its own by `self.tick`.
        """
        with progress(label, total, self.show, done) as self.tick:
            self.rest(groups, run)

    @contextmanager
    def bar(self, label: str, total: float) -> Iterator[None]:
        """A progress bar for a call that counts `total` token-layers in all; it moves as `cost` grows."""
        self._counted = self.cost.token_layers
        with progress(label, total, self.show, self._counted) as self._count:
            yield

    def rest(self, groups: Sequence[tuple[int, tuple[int, ...]]], run: Callable[[int, tuple[int, ...]], None]) -> None:
        """Call `run(start, examples)` for every bucket that is not done, in halves where it does not fit."""
        halving([(start, examples) for start, examples in groups if not self.done[list(examples)].all()], run)


@contextmanager
def session(
    lm: Model,
    task: Task,
    shape: tuple[int, int],
    *,
    out: str | Path | None = None,
    name: str = "",
    asked: Mapping[str, Any] | None = None,
    measured: bool = True,
    compared: int = 0,
    show: bool = True,
) -> Iterator[Session]:
    """Borrow the model for a call whose numbers are `shape`, [examples, units]; see the module.

    `out`: a folder to keep finished pieces in, as `name` and a hash of the model, the task and what is `asked`: all
    that the numbers depend on. `measured`: run the bare model on all pairs first, and compare with what kept pieces
    were made with; else that is done for the first `compared` pairs, uncounted, and only where there are such pieces.

    Raises:
        FileError: nothing can be written there, or the model behaves otherwise than when the kept pieces were made.
    """
    began, origin = time.monotonic(), lm.header()
    pieces = None
    if out is not None:
        header = {"version": __version__, "model": origin["identity"], "task": task.digest(), **(asked or {})}
        pieces = Checkpoint.open(out, name, header, shape, lm.score_dtype)
    cost = pieces.cost if pieces else Cost()  # what an interrupted run spent counts, too
    cost.full = sum(task.lengths) * lm.layers
    values = pieces.values if pieces else torch.full(shape, float("nan"), dtype=lm.score_dtype)
    done = pieces.done if pieces else torch.zeros(shape, dtype=torch.bool)
    bare = Measurement.blank(len(task), lm.score_dtype)
    call = Session(lm, task, origin, cost, values, done, pieces, show, bare, began=began, before=cost.seconds)
    with borrowed(lm.decoder):
        if measured:
            call.measured = measure(lm, task, None if cost.forward else cost)
        some = call.measured if measured else measure(lm, task[:compared]) if pieces and compared else None
        if pieces and some:
            pieces.require_behaviour(lm, some.clean, some.corrupted)
        try:
            yield call
        finally:
            call.keep(force=True)
