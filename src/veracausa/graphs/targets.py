"""Logit nodes of an attribution graph: the task's metric, or tokens."""

from __future__ import annotations

from collections.abc import Sequence
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


def targets_of(held: Held, which: str, mass: float, most: int, named: Sequence[int] = ()) -> Targets:
    """The task's metric; or ("top") the likeliest tokens up to a mass of probability, at most so many; or `named` ones.

    A token's node is its logit less the mean over the vocabulary, weighted by the token's probability.
    """
    lm, one = held.lm, held.direction.new_ones(1)
    if which == "answers":
        return Targets(["metric"], held.direction[None], one * held.offset, one)
    with torch.no_grad():
        end = held.network.end[0, -1]
        chances = lm.decoder.unembedded(end[None])[0].to(one).softmax(-1)
        if named:
            tokens = torch.tensor(named, device=chances.device)
        else:
            best, tokens = chances.topk(min(most, len(chances)))
            tokens = tokens[: min(int((best.cumsum(0) < mass).sum()) + 1, len(best))]
        read, scale = lm.decoder.unembedding_map, lm.decoder.logit_scale
        weight = read.weight.to(one)
        along = held.direction.new_zeros(len(tokens), *held.direction.shape)
        along[:, -1] = (weight.T[tokens] - weight.mean(1)) * scale
        bias = one.new_zeros(weight.shape[1]) if read.bias is None else read.bias.to(one) * scale
    names = [_token(lm, token) for token in tokens.tolist()]
    return Targets([f"logit:{name}" for name in names], along, bias[tokens] - bias.mean(), chances[tokens])


def _token(lm: Model, token: int) -> str:
    return str(token) if lm.tokenizer is None else str(lm.tokenizer.decode([token]))
