"""How many rows run at once: as many as keep the processor busy, within a share of the free memory.

On a CPU a chunk of about a thousand tokens is best: matrix products are at full rate from a few hundred rows on,
and a chunk's activations still fit the last-level cache (measured in benchmarks/neurons.py). On a GPU larger chunks
are better and memory decides. A chunk with its graph keeps the activations of all blocks, megabytes a token, and gains
nothing beyond half as many tokens (a token of GPT-2 small, forward and backward: 6.3 ms in 64, 4.5 in 512, 5.1 in 768,
on one core). Chunk sizes never change a number beyond rounding (contract 8).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

from veracausa.engine.footprint import Footprint

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

_CPU_TOKENS = 1024
_CPU_TOKENS_WITH_GRAPH = 512
_GPU_TOKENS = 65_536
#: Share of the free memory that one chunk may take; the rest is for the tape, the allocator and other programs.
_SHARE = 0.25


#: Bytes that are planned with in the place of those that are free.
_GIVEN: ContextVar[int | None] = ContextVar("given", default=None)


@contextmanager
def within(memory: int | None) -> Iterator[None]:
    """Chunks and batches inside are planned as if so many bytes could be had (None: as many as outside)."""
    token = _GIVEN.set(_GIVEN.get() if memory is None else memory)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def given() -> int | None:
    """Bytes that are planned with because the caller said so; None where it is what is free."""
    return _GIVEN.get()


def free_memory(device: torch.device) -> int:
    """Bytes that can be had now on a device, or those that are `given`."""
    return free_now(device) if _GIVEN.get() is None else int(_GIVEN.get() or 0)


def free_now(device: torch.device) -> int:
    """Bytes that can be had now on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return 4 << 30


def rows_per_chunk(lm: Model, positions: int, length: int, backward: bool = False, beside: int = 0) -> int:
    """Rows of `positions` tokens (out of prompts of `length`) that a chunk should hold; at least 1.

    `backward`: with the graph of all blocks. `beside`: bytes of a token beside what it takes in the blocks.
    """
    tokens = busy_tokens(lm, backward)
    token = token_bytes(Footprint.of(lm), length, backward) + beside
    return max(1, int(min(tokens / positions, _SHARE * free_memory(lm.device) / (token * positions))))


def tokens_per_chunk(lm: Model, length: int, beside: int) -> int:
    """Tokens of rows (out of prompts of `length`) at once, where one row may be too much; see `rows_per_chunk`."""
    token = token_bytes(Footprint.of(lm), length, False) + beside
    return max(1, int(min(busy_tokens(lm), _SHARE * free_memory(lm.device) / token)))


def busy_tokens(lm: Model, backward: bool = False) -> int:
    """Tokens that keep the device busy: more gain nothing."""
    on_cpu = _CPU_TOKENS_WITH_GRAPH if backward else _CPU_TOKENS
    return on_cpu if lm.device.type == "cpu" else _GPU_TOKENS


def token_bytes(shapes: Footprint, length: int, backward: bool) -> int:
    """Peak bytes of one token of a row in one block; with a graph, in all blocks, and the run that it is of."""
    if not backward:
        return shapes.row(length)
    return shapes.graph(length) + shapes.back(length) + shapes.state(1, 1, 0)


def examples_per_batch(lm: Model, task: Task, sites: int = 0, beside: int = 0) -> int:
    """Pairs that one tape should hold.

    `sites`: floats a token that it keeps of each layer beside the stream. `beside`: bytes of a token of a pair beside
    the tape, where the pairs of a tape share a graph or what is told of their writes.
    """
    longest = max(map(len, task.prompts))
    tokens = 2048 if lm.device.type == "cpu" else 32_768
    pair = Footprint.of(lm).pair(longest, longest, sites) + beside * longest
    return max(1, int(min(tokens / longest, _SHARE * free_memory(lm.device) / pair)))


def prompts_per_batch(lm: Model, length: int, sites: Collection[str] = ()) -> int:
    """Prompts of one length that are recorded together, whole, with some sites; at least 1."""
    shapes = Footprint.of(lm)
    prompt = shapes.state(length, length, shapes.held(sites, length))
    return max(1, int(min(2048 / length, _SHARE * free_memory(lm.device) / prompt)))
