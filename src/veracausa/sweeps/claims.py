"""Who has an item in hand: a file that only one process can make, touched while it works.

A claim counts as given up when it was not touched for `STALE` seconds by the folder's own clock (that of the file
system which all share, so that machines whose clocks differ agree), or when its process on this machine is gone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from veracausa.errors import FileError
from veracausa.storage.files import make_folder

#: Seconds between two touches, and without one until a claim is given up.
BEAT, STALE = 15.0, 120.0


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether this process has the item alone, for as long as it is inside.

    >>> with claimed(folder, "4f0c") as mine:
    ...     if mine: work()
    """
    path = make_folder(folder / "claims") / name
    if not _take(path):
        yield False
        return
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        with suppress(OSError):
            path.unlink()


def _take(path: Path) -> bool:
    body = json.dumps({"host": socket.gethostname(), "process": os.getpid()})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(body)
    except FileExistsError:
        return False
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror}). Free some space, or choose another folder."
        ) from error
    return True


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with suppress(OSError):
            path.touch()


def held_by(folder: Path, process: int) -> bool:
    """Whether a process of this machine has, or had when it ended, an item in hand."""
    return any(_holder(path) == (socket.gethostname(), process) for path in (folder / "claims").glob("[0-9a-f]*"))


def _holder(path: Path) -> tuple[Any, Any]:
    """Machine and process of a claim; None where it was just given back, or is being written."""
    try:
        body = json.loads(path.read_text(encoding="utf-8") or "{}")
    except (OSError, ValueError):
        return None, None
    return body.get("host"), body.get("process")


def give_up_stale(folder: Path) -> list[tuple[str, str]]:
    """Take away claims that nobody works on any more: the items, and what became of each worker, in words."""
    found: list[tuple[str, str]] = []
    for path in (folder / "claims").glob("[0-9a-f]*"):
        if (why := _gone(folder, path)) and _take_away(path):
            found.append((path.name, why))
    return found


def _take_away(path: Path) -> bool:
    """Remove a claim, as one of several that see it is stale: who renames it did."""
    away = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.rename(away)
    except OSError:
        return False
    away.unlink(missing_ok=True)
    return True


def _gone(folder: Path, path: Path) -> str:
    """Why a claim is nobody's any more; "" while it is somebody's."""
    host, process = _holder(path)
    try:
        quiet = _now(folder) - path.stat().st_mtime
    except OSError:
        return ""  # just given back
    if host == socket.gethostname() and isinstance(process, int) and not _alive(process):
        return f"its worker (process {process} on {host}) is gone"
    return f"its worker on {host} was silent for {quiet:.0f} s" if quiet > STALE else ""


def _now(folder: Path) -> float:
    """The time by the folder's file system."""
    probe = folder / "claims" / f".now-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
