"""Hard-concrete gates (Louizos et al. 1712.01312), and how they are learned so that a wanted share stays open.

They reach 0 and 1 and still have gradients: with U ~ uniform(0, 1),

    s = σ((log U − log(1 − U) + log α_u) / τ),   g_u = clamp(s · (ζ − γ) + γ, 0, 1),   γ = −0.1, ζ = 1.1, τ = 2/3
    P(g_u > 0) = σ(log α_u − τ log(−γ / ζ))

Adam moves log α down the gradient of E[loss] + λ · mean P(g > 0). The multiplier λ rises while more than the wanted
share is kept and falls while less is, on a log scale, so that it finds the size of any loss by itself; the force is
λ · (1 + damping · log(share / wanted)), so that gates open again when too many have closed. The wanted share falls
geometrically from "nearly all" to what is wanted over the first half of the steps (Edge Pruning, 2406.16778, warms its
target up likewise).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from veracausa.errors import MethodError, UnitError
from veracausa.progress import Tick
from veracausa.scores.headers import start_settings
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.units.table import Units

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
#: log α at the start (97% open), the spread that a warm start gives it, and its bounds.
_START, _SPREAD, _BOUND = 2.0, 1.0, 10.0
#: λ at the start, how far log λ moves per step and unit of log(share / target), and the damping: measured on SmolLM2.
_MULTIPLIER, _RATE, _DAMPING = 0.1, 0.05, 5.0
#: Share of the steps over which the wanted share falls.
_WARM_UP = 0.5

#: What the output is judged by while gates are learned or edges dropped; lower is better.
LOSSES = {"kl": "KL to the clean output", "metric": "−metric / gap"}


class Gated(Protocol):
    """Groups of pairs that can be run under gates."""

    def tokens(self, group: int) -> float:
        """Token-layers of one forward and backward run of a group."""
        ...

    def size(self, group: int) -> int:
        """Pairs of a group."""
        ...

    def gradient(
        self, group: int, log_alpha: Tensor, noise: Callable[[Sequence[int]], Tensor]
    ) -> tuple[float, Float[Tensor, " units"]]:
        """A group's summed loss and its gradient; `noise(keys)`: uniform numbers [keys, units]."""
        ...


def hard_concrete(log_alpha: Float[Tensor, " units"], uniform: Float[Tensor, "*rows units"]) -> Tensor:
    """Gates in [0, 1] for noise in (0, 1); see the module's docstring."""
    stretched = torch.sigmoid((uniform.log() - (-uniform).log1p() + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
    """P(g > 0)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def descend(
    runs: Gated, planned: list[list[int]], log_alpha: Tensor, training: Training, tick: Tick
) -> tuple[float, list[float]]:
    """Descend in place; returns the expected share of the units that is kept, and every step's mean loss.

    `planned`: groups of every step (`Training.schedule`). A draw of a gate depends on (seed, step, key, unit) only.
    """
    losses: list[float] = []
    optimiser, wanted = torch.optim.Adam([log_alpha], lr=training.lr), training.wanted
    first, multiplier = float(open_probability(log_alpha.detach()).mean()), math.log(_MULTIPLIER)
    for step, groups in enumerate(planned):

        def noise(keys: Sequence[int], step: int = step) -> Tensor:
            draws = [np.random.default_rng([training.seed, step, key]).random(len(log_alpha)) for key in keys]
            return torch.from_numpy(np.stack(draws)).clamp(1e-6, 1 - 1e-6)

        gradient, loss, pairs = torch.zeros_like(log_alpha), 0.0, sum(map(runs.size, groups))
        for group in groups:
            found, slope = runs.gradient(group, log_alpha, noise)
            gradient, loss = gradient + slope / pairs, loss + found / pairs
            tick(runs.tokens(group))
        losses.append(loss)
        target = wanted * (first / wanted) ** max(0.0, 1 - step / (_WARM_UP * len(planned)))
        with torch.enable_grad():
            share = open_probability(log_alpha).mean()
            slope = torch.autograd.grad(share, log_alpha)[0]
        error = math.log(float(share.detach()) / target)
        multiplier = min(max(multiplier + _RATE * error, -_BOUND), _BOUND)
        log_alpha.grad = gradient + math.exp(multiplier) * (1 + _DAMPING * error) * slope
        optimiser.step()
        with torch.no_grad():
            log_alpha.clamp_(-_BOUND, _BOUND)
    return float(open_probability(log_alpha.detach()).mean()), losses


@dataclass(frozen=True, eq=False)
class Training:
    """How gates on the units of a table are trained: `count` of them are to be kept, `start` ranks them beforehand.

    `steps` of Adam with step size `lr` on a loss of `LOSSES`, at least `batch` pairs each; `seed`: of all draws.
    """

    table: Units
    count: int
    steps: int
    lr: float
    loss: str
    batch: int
    start: Scores | None
    seed: int

    @classmethod
    def of(
        cls,
        table: Units,
        keep: float | int,
        steps: int,
        lr: float,
        loss: str,
        batch: int,
        start: Scores | None,
        seed: int,
    ) -> Training:
        """Check the options.

        Raises:
            MethodError: one is out of range. UnitError: `start` is about other units.
        """
        require_loss(loss)
        for name, value, good in (("steps", steps, steps >= 1), ("lr", lr, lr > 0), ("batch", batch, batch >= 1)):
            if not good:
                raise MethodError(f"{name}={value}: it must be positive.")
        count = require_keep(table, keep)
        if start is not None and start.units.digest() != table.digest():
            raise UnitError(
                f"start= has scores of {start.units!r}, but the mask is over {table!r}. Pass scores of the same units."
            )
        return cls(table, count, steps, lr, loss, batch, start, seed)

    @property
    def wanted(self) -> float:
        """The share of the units that is to be kept."""
        return self.count / len(self.table)

    def schedule(self, sizes: Sequence[int]) -> list[list[int]]:
        """Groups of every step, given their sizes: at least `batch` pairs (or all), each once before any twice."""
        order = np.random.default_rng([self.seed]).permutation
        waiting: list[int] = []
        planned: list[list[int]] = []
        for _ in range(self.steps):
            chosen: list[int] = []
            while sum(sizes[group] for group in chosen) < min(self.batch, sum(sizes)):
                if not waiting:
                    waiting = order(len(sizes)).tolist()
                chosen.append(waiting.pop())
            planned.append(chosen)
        return planned

    def initial(self, lm: Model) -> Float[Tensor, " units"]:
        """log α at the start: one value for all units, or spread by the rank of |mean score|."""
        log_alpha = torch.full((len(self.table),), _START, dtype=lm.score_dtype, device=lm.device)
        if self.start is None:
            return log_alpha
        rank = torch.empty(len(self.table), dtype=torch.float64)
        rank[self.start.ranking()] = torch.arange(len(self.table), 0, -1, dtype=torch.float64)
        return log_alpha + _SPREAD * torch.special.ndtri((rank - 0.5) / len(self.table)).to(log_alpha)

    def likeliest(self, log_alpha: Tensor) -> Int[Tensor, " kept"]:
        """The units that are kept in the end, the likeliest first."""
        return torch.argsort(log_alpha.detach(), descending=True, stable=True)[: self.count]

    def settings(self, unit: str, **more: float) -> dict[str, Any]:
        """What headers say of one mask for all pairs, in `unit`s; `more`: what else it depends on."""
        return {
            "direction": "noising",
            "ablation": "counterfactual",
            "loss": self.loss,
            "keep": self.count,
            **more,
            "steps": self.steps,
            "lr": self.lr,
            "batch": self.batch,
            **start_settings(self.start),
            "seed": self.seed,
            "unit": unit,
            "per_example": False,
        }


def told(losses: Sequence[float], loss: str) -> str:
    """The loss over the first and the last tenth of the steps, in words."""
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:]))
    return f"loss {LOSSES[loss]}, {first:.3g} over the first tenth of the steps and {last:.3g} over the last"


def require_loss(loss: str) -> None:
    """Raise MethodError unless the loss is known."""
    if loss not in LOSSES:
        raise MethodError(not_known("loss", loss, LOSSES))


def require_keep(table: Units, keep: float | int, name: str = "keep") -> int:
    """How many units are to be kept; MethodError unless some, but not all, are."""
    count = max(1, round(keep * len(table))) if isinstance(keep, float) and 0 < keep < 1 else keep
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count < len(table):
        raise MethodError(
            f"{name}={keep!r}: give a share between 0 and 1 such as 0.1, or a whole number from 1 to {len(table) - 1} "
            f"(of {len(table)} {table.kind}; if all are kept there is nothing to find out)."
        )
    return count
