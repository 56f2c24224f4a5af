"""Tasks that were saved, read again: from files of their own, or beside something else in another file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from veracausa.errors import FileError, VeracausaError
from veracausa.storage.files import at, require_seal
from veracausa.tasks.own_metrics import is_function
from veracausa.tasks.task import FIELDS, FORMAT, LATER, Task

#: Versions that are read; before 3 tasks had no spans, and were read at their last position alone.
_READ = (2, 3)


def load_task(path: str | Path) -> Task:
    """Read what `Task.save` wrote; FileError says what is wrong with any other file."""
    path = at(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"there is no task file {path}") from None
    except OSError as error:
        raise FileError(f"the task file {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a task file, or it is cut short: {error}") from error
    return task_of(content, path, sealed=True)


def task_of(content: Any, path: Path, *, sealed: bool = False) -> Task:
    """The task that `task_content` wrote down; FileError names `path` if it is something else, or damaged."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(
            f"{path} is JSON, but not a task that veracausa saved; prompts of your own are read by vc.task(lm, path)"
        )
    if content.get("version") not in _READ:
        raise FileError(
            f"{path} has version {content.get('version')!r} of the task format; this library reads "
            f"{' and '.join(map(str, _READ))}"
        )
    if sealed:
        require_seal(content, path, "a task file")
    try:
        task = Task(
            name=content["name"],
            metric=content["metric"],
            options=dict(content["options"]),
            vocabulary={int(k): v for k, v in content["vocabulary"].items()},
            spans=tuple(content.get("spans", ())),
            align=content.get("align"),
            **cast("dict[str, Any]", {name: tuple(content[name]) for name in FIELDS}),
            **cast("dict[str, Any]", {name: content[name] for name in LATER if name in content}),
        )
        digest = content["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, VeracausaError, OverflowError, IndexError) as error:
        raise FileError(f"the task file {path} is damaged: {type(error).__name__}: {error}") from error
    if digest != task.digest() and not is_function(task.metric):  # which is in the digest, but not in the file
        raise FileError(f"the task file {path} was changed after it was saved: its digest does not fit its content")
    return task
