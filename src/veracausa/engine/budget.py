"""How many rows run at once: as many as keep the processor busy, within a share of the free memory.

On a CPU a chunk of about a thousand tokens is best: matrix products are at full rate from a few hundred rows on,
and a chunk's activations still fit the last-level cache (measured in benchmarks/neurons.py). On a GPU larger chunks
are better and memory decides. A chunk with its graph keeps the activations of all blocks, megabytes a token, and gains
nothing beyond half as many tokens (a token of GPT-2 small, forward and backward: 6.3 ms in 64, 4.5 in 512, 5.1 in 768,
on one core). Chunk sizes never change a number beyond rounding (contract 8).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

_CPU_TOKENS = 1024
_CPU_TOKENS_WITH_GRAPH = 512
_GPU_TOKENS = 65_536
#: Share of the free memory that one chunk may take; the rest is for the tape, the allocator and other programs.
_SHARE = 0.25


def free_memory(device: torch.device) -> int:
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


def _token_bytes(lm: Model, positions: int, backward: bool) -> int:
    """Peak bytes of one token of a row in one block; with a graph, in all blocks."""
    decoder = lm.decoder
    floats = 8 * decoder.width + 4 * decoder.neurons + 4 * decoder.heads * (decoder.head_dim + positions)
    return floats * lm.dtype.itemsize * (decoder.layers if backward else 1)


def rows_per_chunk(lm: Model, positions: int, length: int, backward: bool = False) -> int:
    """Rows of `positions` tokens (out of prompts of `length`) that a chunk should hold; at least 1."""
    on_cpu = _CPU_TOKENS_WITH_GRAPH if backward else _CPU_TOKENS
    tokens = on_cpu if lm.device.type == "cpu" else _GPU_TOKENS
    fits = _SHARE * free_memory(lm.device) / (_token_bytes(lm, length, backward) * positions)
    return max(1, int(min(tokens / positions, fits)))


def chunk_bytes(lm: Model, positions: int, length: int, backward: bool = False) -> int:
    """Bytes of a chunk of as many rows as it should hold."""
    return rows_per_chunk(lm, positions, length, backward) * positions * _token_bytes(lm, length, backward)


def tape_bytes(lm: Model, length: int, sites: int = 0) -> int:
    """Bytes of a pair of prompts of `length` on a tape; `sites`: see `examples_per_batch`."""
    decoder = lm.decoder
    logits: Tensor = decoder.unembedding.weight  # type: ignore[assignment]
    return (2 * length * decoder.layers * (3 * decoder.width + sites) + len(logits)) * lm.dtype.itemsize


def examples_per_batch(lm: Model, task: Task, sites: int = 0) -> int:
    """Pairs that one tape should hold; `sites` = floats a token that it keeps of each layer beside the stream."""
    longest = max(map(len, task.prompts))
    tokens = 2048 if lm.device.type == "cpu" else 32_768
    return max(1, int(min(tokens / longest, _SHARE * free_memory(lm.device) / tape_bytes(lm, longest, sites))))
