"""Which device a worker has, where a machine has several GPUs: one each, round again, unless the plan names one.

A pool's worker sees its own device alone (CUDA_VISIBLE_DEVICES), as Ray's tasks do by themselves; a process that
torchrun started takes the one of its rank. A model that a plan puts on "cpu" or "cuda:1" stays there.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping

import torch

from veracausa.sweeps.plan import Cell


def devices(cells: Iterable[Cell], environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that workers of this machine share out, as CUDA names them; none where the plan says which to take.

    >>> devices(folder.cells)
    ['0', '1', '2', '3']
    """
    if any(cell.model.get("device", "cuda") != "cuda" for cell in cells) or not torch.cuda.is_available():
        return []
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [*map(str, range(torch.cuda.device_count()))]
    return [name.strip() for name in named.split(",") if name.strip()]


def named(cells: Iterable[Cell]) -> bool:
    """Whether the plan says which devices models lie on, so that all workers of a machine would have the same."""
    return any(cell.model.get("device", "cuda") not in ("cpu", "cuda") for cell in cells)


def seen_by(number: int, every: list[str]) -> dict[str, str]:
    """What a worker's environment says of devices, by its number: the one that it has; nothing where there are none."""
    return {"CUDA_VISIBLE_DEVICES": every[number % len(every)]} if every else {}


def take_own(cells: Iterable[Cell], environment: Mapping[str, str] = os.environ) -> None:
    """In a process that torchrun started: the device of its rank is the one that models are loaded to."""
    rank = environment.get("LOCAL_RANK", "")
    if rank.isdigit() and (every := devices(cells, environment)):
        torch.cuda.set_device(int(rank) % len(every))


def let_go() -> None:
    """Give back what this process holds of a GPU without using it, so that its workers can have it."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
