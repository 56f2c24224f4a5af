"""A stage of a study: a call that is forecast, made and counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from veracausa.cost import Cost, Step
from veracausa.planning.rates import batches
from veracausa.planning.stages import Stage

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


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
) -> Stage:
    """A stage of `tokens` token-layers, at most `most` where what is run shows only on the way (None: just so many).

    `kind`: which rate it runs at. `count`: batches that are recorded (default: those of the task, once). `run`: does it
    and gives what it cost. `instead`: see `Stage`.
    """
    whole = sum(task.lengths) * lm.layers
    count = batches(lm, task) if count is None else count

    def clocked() -> Cost:
        began = time.monotonic()
        return replace(run(), full=whole, seconds=time.monotonic() - began)

    return Stage(Step(what, kind, tokens, tokens / whole, batches=count, most=most), clocked, instead)
