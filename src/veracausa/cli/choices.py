"""What the shell offers for an option; the names come from the library's own tables.

Nothing here needs torch, so that completion answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from glob import escape, glob
from pathlib import Path
from typing import Any

import typer

from veracausa.loading.wheels import PACKAGED
from veracausa.storage.files import at
from veracausa.tasks.custom import PUBLISHED
from veracausa.tasks.files import ENDINGS
from veracausa.tasks.registry import BUILTIN

Completion = Callable[[str], list[str]]


def one_of(names: Iterable[str]) -> Completion:
    """Completes one name.

    >>> one_of(["noising", "denoising"])("no")
    ['noising']
    """
    known = tuple(names)

    def completed(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return completed


def named(names: Iterable[str], words: str) -> Any:
    """An option that takes one of these names; `words`: its help."""
    return typer.Option(metavar="NAME", help=words, autocompletion=one_of(names))


def several_of(names: Iterable[str]) -> Completion:
    """Completes the last of several names with commas between them.

    >>> several_of(["zero", "mean"])("zero,m")
    ['zero,mean']
    """
    known = tuple(names)

    def completed(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(last) and name not in before.split(",")]

    return completed


def tasks(incomplete: str) -> list[str]:
    """Completes a task: the built-in ones, and files of pairs."""
    return [*one_of((*BUILTIN, PUBLISHED))(incomplete), *_paths(incomplete, ENDINGS)]


def models(incomplete: str) -> list[str]:
    """Completes a model: packaged ones, those of the hub's cache, .gguf files and folders."""
    from veracausa.loading.local import hub_ids

    return [*one_of((*PACKAGED, *hub_ids()))(incomplete), *_paths(incomplete, (".gguf",))]


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Folders, and files with one of the endings, that begin so; a home that was typed as `~` stays so."""
    begun = str(at(incomplete)) + "/" * incomplete.endswith("/") if incomplete else ""
    found = []
    for path in sorted(glob(f"{escape(begun)}*")):
        if Path(path).is_dir():
            found.append(f"{path}/")
        elif path.endswith(endings):
            found.append(path)
    return [f"~{path.removeprefix(str(Path.home()))}" for path in found] if incomplete.startswith("~") else found
