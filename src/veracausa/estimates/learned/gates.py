"""Gates in [0, 1] of units, drawn from scores s and uniform noise U, and the threshold at which they sum to a size.

With logit U = log U − log(1 − U):

* **hard-concrete** (Louizos et al. 1712.01312): g = clamp(1.2 · σ((s + logit U) / T) − 0.1, 0, 1); reaches 0 and 1 and
  still has gradients; P(g > 0) = σ(s − T · log(0.1 / 1.1));
* **straight-through**: g = 1 where s + logit U > 0, with the slope of σ((s + logit U) / T); P(g = 1) = σ(s);
* **uniform** (UGS, 2409.09951), p = σ(s): g = clamp((p − U) / (T · p(1 − p)) + ½, 0, 1), so with probability
  T · p(1 − p) any number in [0, 1], each as likely, else 0 or 1; its mean is p; T ≤ 2, so that both ends keep a share;
* **sigmoid**: g = σ(s / T), without noise;
* **noise** (an information bottleneck, 2001.00396), p = σ(s), z standard normal: g = p + (1 − p) · z, so what comes
  through is p of the unit's own change and the rest noise of that change's size. How much it tells, in nats: the KL
  divergence from what a closed gate lets through, p² − p − ln(1 − p); g is not bounded.

**Budget.** `competing` shifts the scores by the t at which Σ g(s − t) = k, and carries the gradient through t:

    ∂g_e/∂s_j = w_e (δ_ej − w_j / Σ w),    w = ∂g/∂(s − t)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

LOW, HIGH = -0.1, 1.1
#: Halvings of the interval in which a threshold is sought: float64 needs no more.
_HALVINGS = 60


@dataclass(frozen=True)
class Gates:
    """One kind. `draw`: (scores, noise, T) → gates; `open`: (scores, T) → how much of a unit is open, expected.

    `priced`: (scores, T) → what a price is asked for (None: what is open).
    """

    description: str
    draw: Callable[[Tensor, Tensor, float], Tensor]
    open: Callable[[Tensor, float], Tensor]
    temperature: float
    priced: Callable[[Tensor, float], Tensor] | None = None


def logit(uniform: Tensor) -> Tensor:
    """log U − log(1 − U)."""
    return uniform.log() - (-uniform).log1p()


def hard_concrete(
    scores: Float[Tensor, " units"], uniform: Float[Tensor, "*rows units"], temperature: float = 2 / 3
) -> Float[Tensor, "*rows units"]:
    """See the module."""
    return (torch.sigmoid((logit(uniform) + scores) / temperature) * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(scores: Float[Tensor, " units"], temperature: float = 2 / 3) -> Float[Tensor, " units"]:
    """P(g > 0) of hard-concrete gates."""
    return torch.sigmoid(scores - temperature * math.log(-LOW / HIGH))


def straight_through(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """See the module: the number of a step, the slope of a sigmoid."""
    soft = torch.sigmoid((logit(uniform) + scores) / temperature)
    return soft + ((soft > 0.5).to(soft) - soft).detach()


def uniform_gates(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """See the module."""
    p = torch.sigmoid(scores)
    return ((p - uniform) / (temperature * p * (1 - p)) + 0.5).clamp(0, 1)


def sigmoid_gates(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """See the module; of the noise only its shape is used."""
    return torch.sigmoid(scores / temperature).expand_as(uniform)


def noise_gates(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """See the module."""
    p = torch.sigmoid(scores)
    return p + (1 - p) * torch.special.ndtri(uniform.double()).to(uniform)


def information(scores: Tensor, temperature: float) -> Tensor:
    """Nats that noise gates let through."""
    p = torch.sigmoid(scores)
    return p**2 - p + torch.nn.functional.softplus(scores)  # −ln(1 − σ(s)) = softplus(s)


#: Name → gates, with the temperature that they have where none is given.
GATES = {
    "hard-concrete": Gates("clamped, stretched sigmoid of score + noise", hard_concrete, open_probability, 2 / 3),
    "straight-through": Gates(
        "0 or 1, with a sigmoid's slope", straight_through, lambda scores, _: torch.sigmoid(scores), 1.0
    ),
    "uniform": Gates("0, 1, or uniform between", uniform_gates, lambda scores, _: torch.sigmoid(scores), 1.0),
    "sigmoid": Gates("a sigmoid, without noise", sigmoid_gates, lambda scores, t: torch.sigmoid(scores / t), 1.0),
    "noise": Gates(
        "a share of the unit's change, the rest noise",
        noise_gates,
        lambda scores, _: torch.sigmoid(scores),
        1.0,
        information,
    ),
}


def competing(
    draw: Callable[[Tensor], Float[Tensor, "*rows units"]], scores: Float[Tensor, " units"], size: float
) -> Float[Tensor, "*rows units"]:
    """Gates `draw(scores − t)` with the t at which those of a row sum to `size`; the scores' gradient passes through t.

    Rows that are drawn apart have a threshold each.
    """
    with torch.no_grad():
        t = _threshold(draw, scores, size)
    leaf = (scores.detach() - t).requires_grad_()
    with torch.enable_grad():
        (steep,) = torch.autograd.grad(draw(leaf).sum(), leaf)
    moved = (steep * (scores - scores.detach())).sum(-1, keepdim=True) / steep.sum(-1, keepdim=True).clamp_min(1e-12)
    return draw(scores - t - moved)


def _threshold(draw: Callable[[Tensor], Tensor], scores: Tensor, size: float) -> Float[Tensor, "*rows one"]:
    """t of every row, by bisection."""
    reach = _reach(draw, scores)
    low, high = float(scores.min()) - reach, float(scores.max()) + reach
    shape = (*draw(scores).shape[:-1], 1)
    below, above = scores.new_full(shape, low), scores.new_full(shape, high)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        too_many = draw(scores - middle).sum(-1, keepdim=True) > size
        below, above = torch.where(too_many, middle, below), torch.where(too_many, above, middle)
    return (below + above) / 2


def _reach(draw: Callable[[Tensor], Tensor], scores: Tensor) -> float:
    """How far beyond all scores a threshold can lie: where every gate is 1, or 0, to rounding."""
    reach, count = 10.0, scores.shape[-1]
    while reach < 1e4:  # noise and temperature decide it
        ends = [draw(scores - scores.max() - reach), draw(scores - scores.min() + reach)]
        if float(ends[0].max()) * count < 1e-9 and float(ends[1].min()) > 1 - 1e-9:
            break
        reach *= 2
    return reach
