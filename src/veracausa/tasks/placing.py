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


def places(task: Task, example: int, names: Sequence[str], clean: bool) -> dict[str, Range]:
    """Where a pair's clean prompt, or its corrupted one, has some spans; those that it lacks are not among them."""
    own, length = task.spans[example], task.lengths[example]
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
    """Whether any pair has one of these spans at other positions in its corrupted prompt than in its clean one."""
    return any(span.moved for each in task.spans for name, span in each.items() if name in names)


def placed(task: Task) -> str:
    """A hash of where a task's pairs have their spans, for results that rest on it."""
    content = [sorted(plain(each).items()) for each in task.spans]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
