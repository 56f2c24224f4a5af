"""Work in stages: what each is forecast to cost, the call that does it, and what the others will take as stages end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from veracausa.cost import Cost, Step, after
from veracausa.progress import announce
from veracausa.spared import spared


@dataclass(frozen=True)
class Stage:
    """A part of the work: what it is forecast to cost, and the call that does it.

    `run` gives what it cost, where that is known better than by the clock (it may have been read from a folder), or
    None. `instead`: takes the sentence that says why it failed, where the others can do without it. `turn`, `joined`:
    for several processes that share a folder of pieces. A stage needs what those of earlier turns have found and, if
    it is joined, what the one before it has; of all others it needs nothing.
    """

    step: Step
    run: Callable[[], Cost | None]
    instead: Callable[[str], None] | None = None
    turn: int = 0
    joined: bool = False

    def done(self) -> Step:
        """Do it, or let its failure stand in its place."""
        began = time.monotonic()
        what, instead = f"“{self.step.what}”", self.instead
        cost = self.run() if instead is None else spared(what, self.run, instead)
        if cost is not None:
            return Step.done(self.step.what, self.step.kind, cost)
        return replace(self.step, seconds=time.monotonic() - began)


def perform(stages: Sequence[Stage], plan: Sequence[Step], show: bool) -> list[Step]:
    """Do all stages in order; what each took. `plan`: their steps with seconds; told when each ends, if `show`."""
    done: list[Step] = []
    for stage in stages:
        done.append(stage.done())
        announce(after(plan, done), show)
    return done
