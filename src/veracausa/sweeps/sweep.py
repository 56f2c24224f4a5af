"""`vc.sweep`: many questions about many tasks and models, cut into items that any number of processes may do."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from veracausa.discovery.files import RUN
from veracausa.engine.budget import free_now
from veracausa.engine.guard import SHELF, borrowed
from veracausa.errors import FileError, MethodError
from veracausa.extras import require_extra
from veracausa.planning.groups import sized
from veracausa.planning.memory import weights
from veracausa.progress import announce, duration, progress
from veracausa.scores.scores import task_header
from veracausa.storage.files import make_folder
from veracausa.studies.files import STUDY
from veracausa.suggestions import not_known
from veracausa.sweeps.asking import Asked, model_of
from veracausa.sweeps.cluster import on_ray
from veracausa.sweeps.devices import devices, let_go, named, take_own
from veracausa.sweeps.facts import facts_of
from veracausa.sweeps.folder import MANIFEST, Folder
from veracausa.sweeps.items import Item, cut
from veracausa.sweeps.plan import Plan, plan_of
from veracausa.sweeps.pool import pooled
from veracausa.sweeps.results import Sweep
from veracausa.sweeps.runners import RUNNERS, typed_instead
from veracausa.sweeps.verbs import STAGED
from veracausa.sweeps.working import work_through
from veracausa.words import counted

#: See `runners.RUNNERS`.
Runner = Literal["local", "pool", "ray", "slurm", "torchrun"]


def sweep(
    plan: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    runner: Runner = "local",
    workers: int | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> Sweep:
    """Do all that a plan asks: every question about every task of every model.

    Args:
        plan: a TOML file, or a dict of the same form (see `sweeps.plan`).
        out: the sweep's folder. A sweep that was begun there goes on: nothing that is finished is done again. Several
            calls may work in one folder at once, on one machine or on several that share it.
        runner: "local" (in this process), "pool" (in `workers` processes of this machine), or "ray" (in `workers` tasks
            of a Ray cluster that sees `out` at the same path; `pip install 'veracausa[ray]'`). "slurm" and "torchrun"
            say what to type: they start this very call on every machine.
        workers: how many (default: one a processor, of a pool as far as the memory reaches).
        memory: bytes beside the weights that each worker plans with, or "8GB" (default: its share of what is free).
        show_progress: show what is about to be done, and a progress bar.

    Returns:
        `Sweep`: what is done of each cell, and `sweep[cell]`, the result of one, merged of its items. An item that
        fails `tries` times is set aside, and said in `sweep.failures`; the others go on.

    Raises:
        FileError, MethodError: the plan is none, the folder holds another sweep, nothing can be written there.
        Others as for the verbs that are asked, before anything is run.

    >>> vc.sweep({"models": ["smollm2-135m"], "tasks": [{"name": "ioi", "n": 64}],
    ...           "questions": [{"ask": "exact", "units": ["heads", "mlps"]}]}, out="out/sweep", runner="pool")
    """
    if instead := typed_instead(runner, plan, out):
        raise MethodError(instead)
    if runner not in RUNNERS:
        raise MethodError(not_known("runner", runner, RUNNERS))
    if runner == "ray":
        require_extra("ray")
    if workers is not None and (workers < 1 or runner == "local"):
        raise MethodError(
            "workers= are the processes of runner='pool' and the tasks of 'ray'; this one is 'local'."
            if runner == "local"
            else f"workers={workers}: there is at least one worker."
        )
    asked = plan_of(plan)
    take_own(asked.cells)
    folder = laid_out(asked, out, show_progress)
    let_go()
    left = folder.open_items()
    total = sum(item.token_layers for item in folder.items)
    if left:
        with progress(f"sweep of {counted(len(folder.items), 'item')}", total, show_progress, _done(folder)) as tick:
            if runner == "local":
                work_through(folder, memory=memory, told=lambda item: tick(item.token_layers))
            elif runner == "ray":
                on_ray(folder, workers, memory, _Moves(folder, tick).look)
            else:
                count = _workers(folder, workers)
                pooled(folder, count, _share(folder, count) if memory is None else memory, _Moves(folder, tick).look)
    return Sweep(folder)


def laid_out(plan: Plan, out: str | Path, show_progress: bool = True) -> Folder:
    """The sweep's folder, with the list of its items: made now, or read where another call made it.

    Every question is checked and its cost forecast before anything is run, and said.
    """
    if any(cell.ask in STAGED for cell in plan.cells):
        require_extra("charts")  # their pages are drawn by whoever does their last item
    path = make_folder(out)
    if (path / MANIFEST).exists():
        found = Folder.of(path, plan)
        if (found.seconds, found.tries) != (plan.seconds, plan.tries):
            kept = f"seconds = {found.seconds:g} and tries = {found.tries}"
            announce(f"{path} is cut already: it keeps {kept}. For others choose another folder.", show_progress)
        return found
    for name in (STUDY, RUN):
        if (path / name).exists():
            raise FileError(f"{path} holds the results of another command ({name}). Choose another folder.")
    of_cells: dict[str, list[Any]] = {"models": [], "tasks": [], "facts": []}
    items: list[Item] = []
    lm, of, before = None, None, None
    for number, cell in enumerate(plan.cells):
        if lm is None or of != cell.model:
            lm, of = model_of(cell), cell.model
        asked = Asked.of(cell, lm)
        if (cell.model, cell.task) != before:
            lm.measure(asked.task)  # warns of answers that the model hardly says
            before = cell.model, cell.task
        with borrowed(lm.decoder):  # so that what is found out about its runs is found out once
            own = list(cut(asked, number, lm.identity, plan.seconds))
        items += own
        of_cells["models"].append(lm.header())
        of_cells["tasks"].append(task_header(asked.task))
        cut_up = len(own) > 1 and not asked.staged
        facts = facts_of(asked, path / "frames" / str(number)) if cut_up else {}
        of_cells["facts"].append({"weights": weights(lm), **facts})
        announce(f"{cell.name}: {_said(own)}", show_progress)
    memory, disk = sized(max(item.memory for item in items)), sum(item.disk for item in items)
    announce(
        f"together: {_said(items)}, peak memory about {memory} beside the weights, {sized(disk)} on the disk, and as "
        "much again when merged",
        show_progress,
    )
    _require_space(path, disk)
    return Folder.begin(path, plan, items, **of_cells)


def _said(items: list[Item]) -> str:
    tokens = sum(item.token_layers for item in items)
    known = [item.seconds for item in items if item.seconds is not None]
    seconds = f", about {duration(sum(known))} of one worker" if len(known) == len(items) else ""
    return f"{counted(len(items), 'item')}, {tokens:,.0f} token-layers{seconds}"


def _require_space(path: Path, disk: int) -> None:
    """Raise FileError where the items will not fit onto the disk."""
    free = shutil.disk_usage(path).free
    if disk > free:
        raise FileError(
            f"The items of this sweep take about {sized(disk)}, but {path} has {sized(free)} free. Free some space, or "
            "choose another folder."
        )


def _done(folder: Folder) -> float:
    done = folder.seen().done
    return sum(item.token_layers for item in folder.items if item.id in done)


def _workers(folder: Folder, asked: int | None) -> int:
    """As many as were asked for, or as there are GPUs; one where the plan names them; else as processors and memory."""
    if asked is not None:
        return asked
    if named(folder.cells):
        return 1
    if own := devices(folder.cells):
        return min(len(own), len(folder.open_items()))
    each = max(item.memory / (1 - SHELF) + _weights(folder, item.cell) for item in folder.items)
    fitting = int(free_now(torch.device("cpu")) / max(each, 1))
    return max(1, min(os.cpu_count() or 1, len(folder.open_items()), fitting))


def _weights(folder: Folder, cell: int) -> int:
    return int(folder.facts[cell].get("weights", 0))


def _share(folder: Folder, workers: int) -> int | None:
    """Bytes for each of several workers, on a GPU that several share beside the weights; None: what is free there.

    Raises:
        MethodError: the weights of those that share a GPU do not fit onto it.
    """
    own = len(devices(folder.cells))
    if named(folder.cells):
        return None
    if not own:  # weights that are mapped from their file are shared
        return free_now(torch.device("cpu")) // workers
    if workers <= own:
        return None
    sharing, largest = math.ceil(workers / own), max(_weights(folder, cell) for cell in range(len(folder.cells)))
    free = free_now(torch.device("cuda"))
    if (left := free // sharing - largest) < 1:
        raise MethodError(
            f"workers={workers}: {sharing} of them would share a GPU of which {sized(free)} are free, and each needs "
            f"{sized(largest)} for the weights. Ask for fewer."
        )
    return left


class _Moves:
    """Moves a bar by the items that have come to be done since it was last looked."""

    def __init__(self, folder: Folder, tick: Any) -> None:
        self._folder, self._tick = folder, tick
        self._left = {item.id: item for item in folder.open_items()}

    def look(self) -> None:
        """Look once."""
        for name in self._folder.seen().done & self._left.keys():
            self._tick(self._left.pop(name).token_layers)
