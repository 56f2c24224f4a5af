"""The pair that contracts are tested on, and its gap, in whose units errors are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from veracausa.errors import ContractError, VeracausaError
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from veracausa.model import Model


def gap_of(lm: Model, task: Task) -> float:
    """|M(x) − M(x′)|, read off the bare model's logits where the engine's own reading is refused."""
    try:
        return max(float(lm.measure(task).gap.abs().mean()), 1e-6)
    except ContractError:
        return 1.0


def pair_for(lm: Model) -> Task:
    """The model's own pair; the published pair if this tokenizer reads it; else random tokens with the same shape.

    Half types round every logit to two or three digits, so there that of several random pairs which has the widest gap.
    """
    if lm.probe is not None:
        return lm.probe
    if lm.tokenizer is not None:
        from veracausa.tasks import published_pair

        try:
            return published_pair(lm)
        except VeracausaError:
            pass
    drawn = [_random_pair(lm, seed) for seed in range(16)]
    if torch.finfo(lm.dtype).bits > 16:
        return drawn[0]
    return max(drawn, key=lambda pair: gap_of(lm, pair))


def _random_pair(lm: Model, seed: int) -> Task:
    order = torch.randperm(int(lm.hf.config.vocab_size), generator=torch.Generator().manual_seed(seed)).tolist()
    special = set(getattr(lm.tokenizer, "all_special_ids", ()))  # would be padding or an end, were it first or last
    drawn = [token for token in order if token not in special][:15]
    other, *answers = drawn[-3:]
    clean = (drawn[:-3] * 12)[:12]  # a small vocabulary says a token again
    corrupted = [*clean[:6], other, *clean[7:]]
    return Task("random-tokens", (tuple(clean),), (tuple(corrupted),), ((answers[0],),), ((answers[1],),))
