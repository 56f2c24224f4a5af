"""Several workers on this machine: processes of their own, each with its share of the processors, the memory, the GPUs.

A worker that dies is replaced; what it had in hand counts as a try of that item, so that an item that kills its workers
is set aside like one that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from veracausa.errors import WorkerError
from veracausa.storage.files import make_folder
from veracausa.sweeps.claims import held_by
from veracausa.sweeps.devices import devices, seen_by
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.pace import paced

#: How many lines of a dead worker's log an error shows.
_SHOWN = 5
#: So many workers may die before they have anything in hand, and without anything done in between.
_IDLE = 3


def pooled(folder: Folder, workers: int, memory: float | str | None, look: Callable[[], None]) -> None:
    """Let so many workers do what is left; `look` is called now and then.

    Raises:
        WorkerError: workers end that had nothing in hand; shows the end of their log.
    """
    logs = make_folder(folder.path / "logs")
    with ExitStack() as stack:
        running: dict[int, subprocess.Popen[bytes]] = {}
        own = devices(folder.cells)
        stack.callback(_end, running)
        killed = _Killed(folder, workers)
        while folder.open_items():
            for number in range(workers):
                if number not in running:
                    running[number] = _begin(folder, number, workers, memory, logs, seen_by(number, own))
            time.sleep(paced(look))
            for number, process in [*running.items()]:
                if (status := process.poll()) is None:
                    continue
                del running[number]
                log = logs / f"{number}.log"
                if status == 1 and folder.open_items():  # of itself: nothing that another worker could do better
                    raise WorkerError(f"A worker of the sweep stopped: {_last(log)}")
                if status < 0:
                    killed.add(process, log)
        for process in running.values():
            process.wait()
        look()


@dataclass(eq=False)
class _Killed:
    """Workers that were killed before they had an item in hand, since one was last done."""

    folder: Folder
    workers: int
    count: int = 0
    done: int = 0

    def add(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """One more; WorkerError if there are `_IDLE` of them."""
        if held_by(self.folder.path, process.pid):
            return  # that item's try
        now = len(self.folder.seen().done)
        self.count, self.done = self.count + 1 if now == self.done else 1, now
        if self.count == _IDLE:
            raise WorkerError(
                f"{_IDLE} workers were killed (signal {-process.returncode}) before they had an item in hand: is there "
                f"memory for {self.workers} of them (--workers)? The last one said: {_last(log)}"
            )


def _begin(
    folder: Folder, number: int, workers: int, memory: float | str | None, logs: Path, own: dict[str, str]
) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    asked = [
        sys.executable,
        "-m",
        "veracausa.sweeps.worker",
        str(folder.path),
        *([] if memory is None else [str(memory)]),
    ]
    with (logs / f"{number}.log").open("ab") as log:
        return subprocess.Popen(
            asked,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **own},
        )


def _end(running: dict[int, subprocess.Popen[bytes]]) -> None:
    """Stop all workers that still run; what they have in hand is given back."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _last(log: Path) -> str:
    said = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n\n")[2]
    return "\n".join(said.splitlines()[-_SHOWN:]) or f"nothing ({log})"
