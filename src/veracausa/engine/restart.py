"""Mixers that go on from what they carry: rows of the last positions need not run the scan of those before them again.

Some families' mixers take a cache, from whose state and taps they go on for any number of tokens (`Mixer.goes_on`). The
base run's positions before the rows then go through a mixer once for each example, not once for each row:

    E · p + R · (n − p)   in the place of   R · n   tokens,   R rows of E examples, p positions before them of n

Whether a mixer that goes on writes what it writes in a whole run is asked in every recording, layer by layer; where it
differs by more than rounding in the run's own precision, and where gradients are wanted, whole runs are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from veracausa.anatomy import Block
from veracausa.engine.tape import State, Tape, slice_call

if TYPE_CHECKING:
    from jaxtyping import Int

#: Rounding that is allowed, in units of the type's precision times the largest number, by bits of the type.
_ALLOWED = {64: 1e3, 32: 1e3, 16: 8.0}


def carried_by(
    tape: Tape, base: State, block: Block, example: Int[Tensor, " rows"], start: int
) -> dict[str, Any] | None:
    """How a block's mixer is called that goes on at `start` with what the base run carries there, row by row.

    None where it has to read all positions again, or where that is no more: one row of each example.

    >>> block.attend(rows, slice_call(tape.call(block), start) | carried_by(tape, base, block, example, start))
    """
    offset = start - tape.start
    if block.goes_on is None or not offset or torch.is_grad_enabled() or len(example) == len(example.unique()):
        return None
    if block.layer not in tape.restarts:
        tape.restarts[block.layer] = _as_whole(tape, base, block, offset)
    return _going_on(tape, base, block, example, offset) if tape.restarts[block.layer] else None


def _going_on(tape: Tape, base: State, block: Block, example: Tensor, offset: int) -> dict[str, Any]:
    assert block.goes_on is not None
    own, row = example.unique(return_inverse=True)
    layer, cache = LinearAttentionLayer(), DynamicCache()
    cache.layers = [layer] * (block.layer + 1)  # the mixer asks for that of its own layer alone
    called = {block.goes_on: cache}
    block.attended(base.residual[block.layer][own, :offset], slice_call(tape.call(block), 0, offset) | called)
    layer.reorder_cache(row)
    return called


def _as_whole(tape: Tape, base: State, block: Block, offset: int) -> bool:
    """Whether a mixer that goes on gives what it gives in a whole run of the first example."""
    stream, call = base.residual[block.layer][:1], tape.call(block)
    whole = block.attended(stream, call)[:, offset:]
    called = _going_on(tape, base, block, torch.zeros(1, dtype=torch.long, device=stream.device), offset)
    error = (block.attended(stream[:, offset:], slice_call(call, offset) | called) - whole).abs().max()
    info = torch.finfo(whole.dtype)
    return float(error) <= _ALLOWED[info.bits] * info.eps * float(whole.abs().max())
