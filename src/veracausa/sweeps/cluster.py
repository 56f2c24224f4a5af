"""Workers on a Ray cluster: tasks that work in the sweep's folder, which all nodes must see at the same path.

Ray starts them, and starts them again where a node is lost; what is to be done the folder says, as everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from veracausa.errors import VeracausaError, WorkerError
from veracausa.extras import require_extra
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.pace import paced
from veracausa.sweeps.working import work_through


def on_ray(folder: Folder, workers: int | None, memory: float | str | None, look: Callable[[], None]) -> None:
    """Let so many tasks of a Ray cluster do what is left (None: one for each of its GPUs, or else of its processors).

    The cluster is the one that this process is connected to, or that RAY_ADDRESS names, or a new one on this machine.

    Raises:
        ExtraError: Ray is missing. WorkerError: a task stopped by itself; says why.
    """
    require_extra("ray")
    import ray

    if own := not ray.is_initialized():
        # without a word Ray looks for the last cluster that this machine had, for many minutes where it is no more
        named = None if os.environ.get("RAY_ADDRESS") else "local"
        ray.init(named, include_dashboard=False, log_to_driver=False)
    try:
        there = ray.cluster_resources()
        gpus = (
            0 if any(cell.model.get("device", "cuda") != "cuda" for cell in folder.cells) else int(there.get("GPU", 0))
        )
        count = workers or max(1, gpus or int(there.get("CPU", 1)))
        task: Any = ray.remote(num_cpus=1, num_gpus=min(1, gpus / count), max_retries=-1)(_work)
        waiting = [task.remote(str(folder.path.absolute()), memory) for _ in range(count)]
        while waiting:
            done, waiting = ray.wait(waiting, timeout=paced(look))
            for one in done:
                if why := ray.get(one):
                    raise WorkerError(f"A worker of the sweep stopped: {why}")
    finally:
        if own:
            ray.shutdown()


def _work(path: str, memory: float | str | None) -> str:
    """One worker; why it stopped, "" where nothing was left."""
    try:
        work_through(Folder.open(path), memory=memory)
    except VeracausaError as error:
        return f"{type(error).__name__}: {error}"
    return ""
