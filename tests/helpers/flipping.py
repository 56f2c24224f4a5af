"""Pairs of a random model whose bare runs prefer different answers, so that an answer can flip."""

from __future__ import annotations

from dataclasses import replace

import torch


def flipping(lm, task):
    """The task with, for every pair, the two answers between which both bare runs disagree most clearly."""
    correct, incorrect = [], []
    for clean, corrupted in zip(task.clean, task.corrupted, strict=True):
        with torch.no_grad():
            ends = [lm.hf(torch.tensor([list(ids)])).logits[0, -1].double() for ids in (clean, corrupted)]
        between = [end[:, None] - end[None, :] for end in ends]
        best = int(torch.minimum(between[0], -between[1]).argmax())
        a, b = divmod(best, len(ends[0]))
        assert ends[0][a] > ends[0][b] and ends[1][a] < ends[1][b]
        correct.append((a,))
        incorrect.append((b,))
    return replace(task, correct=tuple(correct), incorrect=tuple(incorrect))
