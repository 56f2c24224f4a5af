"""What holds gates to a size, and how much that weighs at every step; each has one number of its own, its multiplier.

With p the mean share of units that is open, expected, w the share that is wanted:

* **share** (ours): the wanted share w_t falls geometrically from what is open at first over the first part of the steps
  (`warm_up`); log λ rises by .05 · log(p / w_t) a step, so that λ finds the size of any loss by itself; the force is
  λ · (1 + 5 · log(p / w_t)) · ∂p/∂s, so that gates open again when too many have closed;
* **lagrangian** (Edge Pruning, 2406.16778): λ₁ (p − w_t) + λ₂ (p − w_t)², both λ from 0 by gradient ascent at the rate
  `rise`; w_t falls linearly;
* **price**: λ_t · p, λ_t from `price` to `last_price` geometrically; with a `peak` (DiscoGP, 2407.03779) linearly from
  `price` up to it over the first part of the steps (`warm_up`), down to `last_price` over as many, and then that;
* **budget**: the gates themselves sum to a size that is drawn for every step (`gates.competing`): "fixed" the wanted
  one, "log" log-uniform from `smallest` to all, "mixed" half the steps so and half uniform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.estimates.learned.learner import Learner

#: log λ at the start, how far it moves per step and unit of log(p / w), the damping, its bounds: measured on SmolLM2.
_MULTIPLIER, _RATE, _DAMPING, _BOUND = math.log(0.1), 0.05, 5.0, 10.0


@dataclass
class Hold:
    """What holds gates to the `wanted` share over so many `steps`, as it stands; `first`: the share open at first."""

    learner: Learner
    wanted: float
    steps: int
    first: float
    multipliers: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.multipliers = [_MULTIPLIER if self.learner.hold == "share" else 0.0, 0.0]

    def force(self, step: int, share: Float[Tensor, ""], scores: Tensor) -> Tensor:
        """What is added to the scores' gradient; `share`: p, with its graph."""
        if self.learner.hold == "budget":
            return torch.zeros_like(scores)
        (slope,) = torch.autograd.grad(share, scores)
        return self._weight(step, float(share.detach())) * slope

    def _weight(self, step: int, share: float) -> float:
        """∂(what holding costs)/∂p; the multipliers go on."""
        learner, done = self.learner, min(1.0, step / max(1.0, self.learner.warm_up * self.steps))
        if learner.hold == "price":
            return price_at(learner, step, self.steps)
        if learner.hold == "lagrangian":
            return self._ascend(share - (self.first + (self.wanted - self.first) * done))
        error = math.log(share / (self.wanted * (self.first / self.wanted) ** (1 - done)))
        self.multipliers[0] = min(max(self.multipliers[0] + _RATE * error, -_BOUND), _BOUND)
        return math.exp(self.multipliers[0]) * (1 + _DAMPING * error)

    def _ascend(self, error: float) -> float:
        """The Lagrangian's slope in p; then λ₁ and λ₂ climb."""
        weight = self.multipliers[0] + 2 * self.multipliers[1] * error
        self.multipliers[0] += self.learner.rise * error
        self.multipliers[1] += self.learner.rise * error**2
        return weight


def price_at(learner: Learner, step: int, steps: int) -> float:
    """λ at a step; see the module.

    >>> price_at(Learner(hold="price", price=1, peak=101, last_price=1, warm_up=0.5), 25, 100)
    51.0
    """
    if learner.peak is None:
        return learner.price * (learner.last_price / learner.price) ** (step / max(1, steps - 1))
    part = learner.warm_up * steps
    if step < part:
        return learner.price + (learner.peak - learner.price) * step / part
    return learner.peak + (learner.last_price - learner.peak) * min(1.0, (step - part) / part)


def drawn_size(learner: Learner, wanted: int, count: int, rng: np.random.Generator) -> float:
    """How many of `count` units a step's gates sum to; see the module."""
    if learner.sizes == "fixed":
        return float(wanted)
    if learner.sizes == "mixed" and rng.random() < 0.5:
        return count * float(rng.uniform(learner.smallest, 1))
    return count * math.exp(rng.uniform(math.log(learner.smallest), 0))
