"""Logit nodes of an attribution graph: the task's metric, or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.graphs.held import Held

if TYPE_CHECKING:
    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class Targets:
    """Logit nodes: names, what is read of the final norm's output, [targets, n, width], constants, and weights."""

    names: list[str]
    along: Tensor
    offset: Tensor
    weights: Tensor


def targets_of(held: Held, which: str, mass: float, most: int) -> Targets:
    """The task's metric, or ("top") the likeliest tokens up to a mass of probability, at most so many."""
    lm, one = held.lm, held.direction.new_ones(1)
    if which == "answers":
        return Targets(["metric"], held.direction[None], one * held.offset, one)
    with torch.no_grad():
        end = held.network.end[0, -1]
        chances = lm.decoder.unembedded(end[None])[0].to(one).softmax(-1)
        best, tokens = chances.topk(min(most, len(chances)))
        count = min(int((best.cumsum(0) < mass).sum()) + 1, len(best))
        best, tokens, read = best[:count], tokens[:count], lm.decoder.unembedding_map
        weight, scale = read.weight.to(one), lm.decoder.logit_scale
        along = held.direction.new_zeros(count, *held.direction.shape)
        along[:, -1] = (weight.T[tokens] - weight.mean(1)) * scale
        bias = one.new_zeros(weight.shape[1]) if read.bias is None else read.bias.to(one) * scale
    names = [_token(lm, token) for token in tokens.tolist()]
    return Targets([f"logit:{name}" for name in names], along, bias[tokens] - bias.mean(), best)


def _token(lm: Model, token: int) -> str:
    return str(token) if lm.tokenizer is None else str(lm.tokenizer.decode([token]))
