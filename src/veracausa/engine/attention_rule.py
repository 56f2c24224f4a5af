"""The part of a backward rule that acts inside the attention function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from veracausa.engine.rule import Rule


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        """The value itself."""
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor."""
        return gradient * ctx.factor, None


class _Softmax(torch.autograd.Function):
    """softmax(s) forward; backward p ⊙ (g − ⟨p, g⟩) with p = softmax(s / T), without a further 1/T, as published."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.temperature = temperature
        return torch.softmax(scores, dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        pattern = torch.softmax(scores / ctx.temperature, dim=-1)
        return pattern * (gradient - (pattern * gradient).sum(-1, keepdim=True)), None


@dataclass(frozen=True)
class AttentionRule:
    """The part of a rule that acts inside the attention function (see `attention.suffix_attention`)."""

    rule: Rule

    def query_key(self, value: Tensor) -> Tensor:
        """Queries or keys, their gradient scaled."""
        return value if self.rule.query_key == 1 else Scaled.apply(value, self.rule.query_key)

    def value(self, value: Tensor) -> Tensor:
        """Values, their gradient scaled."""
        return value if self.rule.value == 1 else Scaled.apply(value, self.rule.value)

    def softmax(self, scores: Tensor) -> Tensor:
        """The pattern; its backward at the rule's temperature."""
        if self.rule.temperature == 1:
            return torch.softmax(scores, dim=-1)
        return _Softmax.apply(scores, self.rule.temperature)
