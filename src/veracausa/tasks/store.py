"""Tasks on disk: one JSON file, whole or absent, with a digest that tells damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from veracausa.errors import FileError, VeracausaError
from veracausa.storage.files import at, require_seal, write_json
from veracausa.tasks.task import Task

FORMAT = "veracausa.task"
VERSION = 2
_FIELDS = ("clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info")


def save_task(task: Task, path: str | Path) -> Path:
    """Write a task; a crash leaves the old file or none, never half a file."""
    return write_json(path, task_content(task))


def load_task(path: str | Path) -> Task:
    """Read what `save_task` wrote; FileError says what is wrong with any other file."""
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


def task_content(task: Task) -> dict[str, Any]:
    """A task as what a JSON file can hold, for files that keep a task beside something else."""
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": task.name, "metric": task.metric}
    content |= {"digest": task.digest(), "options": dict(task.options)}
    content |= {name: getattr(task, name) for name in _FIELDS}
    return content | {"vocabulary": {str(k): v for k, v in task.vocabulary.items()}}


def task_of(content: Any, path: Path, *, sealed: bool = False) -> Task:
    """The task that `task_content` wrote down; FileError names `path` if it is something else, or damaged."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(
            f"{path} is JSON, but not a task that veracausa saved; prompts of your own are read by tasks.from_file"
        )
    if content.get("version") != VERSION:
        raise FileError(
            f"{path} has version {content.get('version')!r} of the task format; this library reads {VERSION}"
        )
    if sealed:
        require_seal(content, path, "a task file")
    try:
        task = Task(
            name=content["name"],
            metric=content["metric"],
            options=dict(content["options"]),
            vocabulary={int(k): v for k, v in content["vocabulary"].items()},
            **{name: tuple(content[name]) for name in _FIELDS},
        )
        digest = content["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, VeracausaError, OverflowError, IndexError) as error:
        raise FileError(f"the task file {path} is damaged: {type(error).__name__}: {error}") from error
    if digest != task.digest():
        raise FileError(f"the task file {path} was changed after it was saved: its digest does not fit its content")
    return task
