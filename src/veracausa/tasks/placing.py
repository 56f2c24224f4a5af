"""Where the pairs of a task have their spans: of all pairs at once, for those who patch them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from veracausa.tasks.spans import END, Range, Span, plain
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Int


def length_of(task: Task, example: int, clean: bool) -> int:
    """Tokens of a pair's clean prompt, or of its corrupted one."""
    return len(task.clean[example] if clean else task.corrupted[example])


def places(task: Task, example: int, names: Sequence[str], clean: bool) -> dict[str, Range]:
    """Where a pair's clean prompt, or its corrupted one, has some spans; those that it lacks are not among them."""
    own, length = task.spans[example], length_of(task, example, clean)
    end = {END: Span((length - 1, length), (length - 1, length))}
    return {name: span.of(clean) for name in names if (span := (end if name == END else own).get(name)) is not None}


def ranges(task: Task, names: Sequence[str], clean: bool) -> Int[np.ndarray, "examples names 2"]:
    """(first, end) of every span in the clean prompts, or in the corrupted ones; −1 where a pair lacks it."""
    found = np.full((len(task), len(names), 2), -1)
    for example in range(len(task)):
        for name, where in places(task, example, names, clean).items():
            found[example, names.index(name)] = where
    return found


def moved(task: Task, names: Sequence[str]) -> bool:
    """Whether any pair has one of these spans at other positions in its corrupted prompt than in its clean one.

    Asked of pairs whose prompts are equally long; of others every place behind the first difference has moved.
    """
    even = (each for i, each in enumerate(task.spans) if i not in task.uneven)
    return any(span.moved for each in even for name, span in each.items() if name in names)


def elsewhere(task: Task, names: Sequence[str]) -> bool:
    """Whether any pair has one of these spans, or its end, at other positions in its corrupted prompt."""
    return bool(task.uneven) or moved(task, names)


def corresponding(
    task: Task, example: int, names: Sequence[str], clean: bool
) -> tuple[dict[str, Range], dict[str, Range]]:
    """Where a pair has some spans in the run that is patched (clean, or corrupted), and where in the other one.

    Of spans of unequal lengths under align="last", where their last tokens are; under "mean" the whole ranges.
    """
    own, other = (places(task, example, names, side) for side in (clean, not clean))
    for name in own if task.align == "last" else ():
        if _size(own[name]) != _size(other[name]):
            own[name], other[name] = ((one[name][1] - 1, one[name][1]) for one in (own, other))
    return own, other


def corresponding_ranges(
    task: Task, names: Sequence[str], clean: bool
) -> tuple[Int[np.ndarray, "examples names 2"], Int[np.ndarray, "examples names 2"]]:
    """The same of all pairs and spans; −1 where a pair lacks one."""
    found = np.full((2, len(task), len(names), 2), -1)
    for example in range(len(task)):
        for side, where in enumerate(corresponding(task, example, names, clean)):
            for name, at in where.items():
                found[side, example, names.index(name)] = at
    return found[0], found[1]


def _size(where: Range) -> int:
    return where[1] - where[0]


def placed(task: Task) -> str:
    """A hash of where a task's pairs have their spans, for results that rest on it."""
    content = [sorted(plain(each).items()) for each in task.spans]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
