"""Which pairs of unequal lengths and first differences run in one batch.

A shorter prompt is followed by tokens that nothing reads: under a causal mask they cannot change what stands before
them, and the metric is read where the prompt ends, so their gradients are 0, exactly. What they cost is time. A batch
of c pairs that are run from position s to length n takes c · (2n − s) tokens (the shared prefix once, the rest twice)
and three forward passes, each of which takes as long as `BEGIN` tokens however few it has: weights are read once a
pass, and Python walks the modules once. A call that then runs the positions behind s again, forward or backward, adds
c · (n − s) tokens for each time (`rows`), and where all pairs of a batch go together, a pass (`passes`). Pairs are
joined as long as that sum falls, the best join first.

Only where a model computes for a prompt alone what it computes for it in a longer one (`sharing`): some rotary
embeddings depend on the length.

A GPU waits for Python at every module, so that a pass begins much longer there (`begin`), and pairs of one length that
first differ elsewhere are joined even where every pair is run many times: each of `rows` runs a pair takes the
positions from s on, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from veracausa.placed import home_of

if TYPE_CHECKING:
    from veracausa.anatomy import Decoder

#: Tokens that a forward pass takes however short its prompts are. SmolLM2-135M on one core: .114 s, 2.5 ms a token.
BEGIN = 48
#: What a GPU could multiply and add while Python walks through one block of a pass: 2 ms at 300 TFLOP/s (H100, bf16;
#: exact effects of every head of a random Qwen2.5-0.5B on 100 pairs: 0.3 s for each of 32 batches of 24 blocks).
_MEANWHILE = 2e-3 * 3e14
#: Passes of a recorded bucket: the prefix, the clean and the corrupted rest.
_PASSES = 3
#: Groups that are compared with each other at once.
_AT_ONCE = 512

Group = tuple[int, tuple[int, ...]]


def begin(decoder: Decoder) -> float:
    """Tokens that a forward pass takes however short its prompts are, on the device that the model is on."""
    if home_of(decoder.hf).type == "cpu":
        return BEGIN
    return max(BEGIN, _MEANWHILE / (2 * sum(part.numel() for part in decoder.blocks[0].module.parameters())))


def joined(
    groups: Sequence[Group],
    lengths: Sequence[int],
    tokens: int,
    begin: float = BEGIN,
    rows: float = 0.0,
    passes: float = 0.0,
    pairs: int | None = None,
) -> list[Group]:
    """Groups of pairs of one length, joined into groups of several; the longest prompts of each come first.

    `groups`: (start, pairs); `lengths`: of all pairs; `tokens`: that a batch holds at most; `begin`: see `begin`;
    `rows`: how often each pair is run beside its recording, in passes through all blocks; `passes`: how often all pairs
    of a batch are run together for that; `pairs`: that a batch holds at most (None: as many as its tokens allow).

    >>> joined([(2, (0,)), (3, (1,))], [9, 10], 1024)
    [(2, (1, 0))]
    """
    ordered = sorted(groups, key=lambda group: (lengths[group[1][0]], group[0]))
    found: list[Group] = []
    most, batch = pairs or len(lengths), (_PASSES + passes) * begin
    for first in range(0, len(ordered), _AT_ONCE):
        found += _joined(ordered[first : first + _AT_ONCE], lengths, tokens, most, batch, rows)
    return found


def _joined(
    groups: Sequence[Group], lengths: Sequence[int], tokens: int, most: int, batch: float, rows: float
) -> list[Group]:
    start = np.array([one for one, _ in groups])
    length = np.array([lengths[members[0]] for _, members in groups])
    count = np.array([len(members) for _, members in groups])
    members: list[list[int]] = [list(own) for _, own in groups]
    alive = np.ones(len(groups), dtype=bool)

    def price(start: np.ndarray, length: np.ndarray, count: np.ndarray) -> np.ndarray:
        return np.asarray(batch + count * (2 * length - start + rows * (length - start)))

    def gains(i: int) -> np.ndarray:
        """What joining a group with each other one saves; −1 where that cannot be."""
        both, longest = count + count[i], np.maximum(length, length[i])
        saved = price(start, length, count) + price(start[i], length[i], count[i])
        saved = saved - price(np.minimum(start, start[i]), longest, both)
        fits = alive & (both * longest <= tokens) & (both <= most) & (np.arange(len(count)) != i)
        return np.where(fits, saved, -1)

    best = np.array([gains(i) for i in range(len(groups))]).reshape(len(groups), len(groups))
    while best.size and best.max() > 0:
        i, j = np.unravel_index(int(best.argmax()), best.shape)
        start[i], length[i], count[i] = min(start[i], start[j]), max(length[i], length[j]), count[i] + count[j]
        members[i], alive[j] = members[i] + members[j], False
        best[j], best[:, j] = -1, -1
        best[i] = gains(int(i))
        best[:, i] = np.where(alive, best[i], -1)
    return [
        (int(start[i]), tuple(sorted(members[i], key=lambda pair: (-lengths[pair], pair))))
        for i in np.flatnonzero(alive).tolist()
    ]
