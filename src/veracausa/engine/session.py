"""A call at work: the model borrowed, the bare metric measured, finished pieces kept, time and cost counted.

    with session(lm, task, shape, out=out, name="exact-heads", asked={"units": table.digest()}) as call:
        with call.bar("exact effects of 270 heads", work.tokens()):
            call.rest(groups, run)      # run(start, examples) calls call.put(…)

What is done before is not done again; what is done is on the disk at most a few seconds later, also where the call ends
by an exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.guard import borrowed, precision_of
from veracausa.engine.measure import measure
from veracausa.engine.memory import halving
from veracausa.engine.precision import Precision
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

    `origin`: the model's header as it was when the call began. `precision`: what it computes in. `measured`: M of both
    bare runs, where it was asked for. `again`: of the cost, what every call runs, also one that goes on.
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
    precision: Precision
    tick: Tick = lambda amount: None
    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    again: Cost = field(default_factory=Cost)
    _count: Tick = lambda amount: None
    _counted: int = 0

    def hold(self, measured: Measurement) -> None:
        """Take M of both bare runs from what was recorded, and compare it with what kept pieces were made with.

        Raises:
            FileError: the model behaves otherwise than when they were made.
        """
        self.measured = measured
        if self.pieces is not None:
            self.pieces.require_behaviour(self.lm, measured.clean, measured.corrupted)

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
            again, cost = self.again, self.cost
            self.pieces.cost = replace(
                cost, forward=cost.forward - again.forward, backward=cost.backward - again.backward
            )
            self.pieces.keep(force=force)

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Runs that every call makes, also one that goes on from kept pieces: counted in its cost, not kept with them.

        So the cost of a call that was cut off and went on has them once.
        """
        forward, backward = self.cost.forward, self.cost.backward
        try:
            yield
        finally:
            self.again.forward += self.cost.forward - forward
            self.again.backward += self.cost.backward - backward

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
    def ticking(self, label: str, total: float, done: float = 0.0) -> Iterator[None]:
        """A progress bar for work that is counted otherwise than in token-layers; `tick` moves it."""
        with progress(label, total, self.show, done) as self.tick:
            yield


@contextmanager
def session(
    lm: Model,
    task: Task,
    shape: tuple[int, int] = (0, 0),
    *,
    dtype: torch.dtype | None = None,
    out: str | Path | None = None,
    name: str = "",
    asked: Mapping[str, Any] | None = None,
    measured: bool = True,
    compared: int = 0,
    show: bool = True,
) -> Iterator[Session]:
    """Borrow the model for a call whose numbers are `shape`, [examples, units], of `dtype` (None: scores'); see above.

    `out`: a folder to keep finished pieces in, as `name` and a hash of the model, the task and what is `asked`: all
    that the numbers depend on. `measured`: run the bare model on all pairs first, and compare with what kept pieces
    were made with; else that is done for the first `compared` pairs, and only where there are such pieces. A call that
    records all pairs anyway says by `hold` what it saw. Costs are of all that was run, by earlier calls and this one,
    lost work included; what every call runs anew (`Session.anew`, and bare runs that kept pieces are compared with)
    counts once.

    Raises:
        FileError: nothing can be written there, or the model behaves otherwise than when the kept pieces were made.
    """
    began, origin, dtype = time.monotonic(), lm.header(), dtype or lm.score_dtype
    pieces = None
    if out is not None:
        header = {"version": __version__, "model": origin["identity"], "task": task.digest(), **(asked or {})}
        pieces = Checkpoint.open(out, name, header, shape, dtype)
    cost = replace(pieces.cost) if pieces else Cost()  # what an interrupted run spent counts, too
    cost.full = sum(task.lengths) * lm.layers
    values = pieces.values if pieces else torch.full(shape, float("nan"), dtype=dtype)
    done = pieces.done if pieces else torch.zeros(shape, dtype=torch.bool)
    bare = Measurement.blank(len(task), lm.score_dtype)
    with borrowed(lm.decoder):
        precision, before = precision_of(lm.decoder), cost.seconds
        call = Session(lm, task, origin, cost, values, done, pieces, show, bare, precision, began=began, before=before)
        if measured:
            call.hold(measure(lm, task, None if cost.forward else cost))
        elif pieces and compared:
            some = measure(lm, task[:compared])
            pieces.require_behaviour(lm, some.clean, some.corrupted)
        try:
            yield call
        finally:
            call.keep(force=True)
