"""The descent over gates: one loop for all learners, which can be interrupted after any step.

A step draws gates of its pairs (a draw depends on (seed, step, key, unit) alone, never on a batch), takes the loss and
its gradient with respect to the gates, carries it to the scores, adds what holds the gates to a size, and moves the
scores by Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from veracausa.estimates.learned.gates import GATES, competing
from veracausa.estimates.learned.holds import Hold, drawn_size
from veracausa.estimates.learned.losses import MASK_LOSSES

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.estimates.learned.learner import Learner
    from veracausa.estimates.learned.training import Training
    from veracausa.progress import Tick

#: An adversary's first step.
_FIRST = 0.5
#: Gradients under so many roundings of the largest one are none.
_ROUNDINGS = 64
#: Noise lies in [_EDGE, 1 − _EDGE].
_EDGE = 1e-6


class Gated(Protocol):
    """Groups of pairs that can be run under gates. `along`: what is learned beside the gates, with its gradients."""

    @property
    def along(self) -> list[Tensor]:
        """Leaves whose `.grad` every `slope` adds to."""
        ...

    def tokens(self, group: int) -> float:
        """Token-layers of one forward and backward run of a group."""
        ...

    def pairs(self, group: int) -> list[int]:
        """Which of the task's pairs a group has."""
        ...

    def slope(
        self, group: int, gates: Float[Tensor, "*pairs units"], cause: bool
    ) -> tuple[float, Float[Tensor, "*pairs units"]]:
        """A group's summed loss under gates of all pairs or of each, and its gradient with respect to them."""
        ...


@dataclass(eq=False)
class Descent:
    """One run of a training. `writers`: of every unit, the number of the writer whose gate multiplies its own.

    `parts`: where units are of several sorts, the learner that says how each one's gates are drawn and held, and how
    many there are, in their order (default: all are the training's).
    """

    runs: Gated
    training: Training
    seed: int
    scores: Float[Tensor, " parameters"]
    writers: Int[Tensor, " units"] | None = None
    parts: Sequence[tuple[Learner, int]] = ()
    losses: list[float] = field(default_factory=list)
    holds: list[Hold] = field(init=False)
    optimiser: torch.optim.Adam = field(init=False)
    highest: Float[Tensor, " parameters"] = field(init=False)

    def __post_init__(self) -> None:
        learner = self.training.learner
        self.parts = self.parts or [(learner, self.units)]
        if self.writers is not None:
            gates = self.scores.new_full((int(self.writers.max()) + 1,), learner.begin)
            self.scores = torch.cat([self.scores, gates])
        self.highest = self.scores.clamp_min(learner.top)
        self.scores.requires_grad_()
        groups = [{"params": [self.scores], "lr": learner.lr}]
        groups += [{"params": [one], "lr": learner.lr / 10} for one in self.runs.along]
        self.optimiser = torch.optim.Adam(groups)
        shares = [float(share.detach()) for share in self.shares()]
        held = zip(self.parts, shares, strict=True)
        self.holds = [Hold(one, self.training.wanted, learner.steps, first) for (one, _), first in held]

    @property
    def learner(self) -> Learner:
        """How it learns."""
        return self.training.learner

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.training.table)

    def open(self) -> Float[Tensor, " units"]:
        """How much of every unit is open, expected; carries the scores' graph."""
        own = torch.cat(self._open())
        if self.writers is None:
            return own
        return own * GATES[self.learner.gates].open(self.scores[self.units :], self.learner.t)[self.writers]

    def shares(self) -> list[Float[Tensor, ""]]:
        """What is held, of every part: the open share of the units' own gates, or the mean of what is priced."""
        with torch.enable_grad():
            return [found.mean() for found in self._open(held=True)]

    def _open(self, held: bool = False) -> list[Tensor]:
        """How much of every part's own gates is open; `held`: what is priced, where that is something else."""
        scores = self.scores[: self.units].split([count for _, count in self.parts])
        kinds = [(GATES[one.gates], one.t) for one, _ in self.parts]
        how = [(kind.priced or kind.open if held else kind.open, t) for kind, t in kinds]
        return [of(own, t) for (of, t), own in zip(how, scores, strict=True)]

    def values(self) -> Float[Tensor, " units"]:
        """What the units score: their rank in (0, 1], equal ones sharing the mean of theirs, or how much is open."""
        if not self.learner.ranks:
            return self.open().detach().cpu()
        _, which, counts = self.scores.detach().cpu().double().unique(return_inverse=True, return_counts=True)
        return ((counts.cumsum(0) - counts / 2) / self.units)[which]

    def run(self, planned: Sequence[Sequence[int]], tick: Tick, keep: Callable[[], None]) -> None:
        """Descend, from where it stands to the end of `planned` (`Training.schedule`); `keep` after every step."""
        for step in range(len(self.losses), len(planned)):
            self._step(step, planned[step], tick)
            keep()

    def _step(self, step: int, groups: Sequence[int], tick: Tick) -> None:
        learner, pairs = self.learner, sum(len(self.runs.pairs(group)) for group in groups)
        rng = np.random.default_rng([self.seed, step])
        size = drawn_size(learner, self.training.count, self.units, rng)
        cause = learner.aim == "cause" or (learner.aim == "both" and rng.random() < 0.5)
        self.optimiser.zero_grad()
        total, loss = torch.zeros_like(self.scores), 0.0
        for group in groups:
            with torch.enable_grad():
                gates = self._drawn(self._noise(step, self.runs.pairs(group)), size)
            found, slope = self._slope(group, gates.detach(), cause)
            total += torch.autograd.grad(gates, self.scores, slope / pairs)[0]
            loss += found / pairs
            tick(self.runs.tokens(group) * learner.slopes)
        for hold, share in zip(self.holds, self.shares(), strict=True):
            total += hold.force(step, share, self.scores)
        self.scores.grad = total
        for one in self.runs.along:
            one.grad = None if one.grad is None else one.grad / pairs
        self.optimiser.step()
        with torch.no_grad():
            self.scores.copy_(self.scores.clamp_min(-learner.bound).minimum(self.highest))
        self.losses.append(loss)

    def _noise(self, step: int, pairs: list[int]) -> Float[Tensor, "rows parameters"]:
        """Uniform numbers of the pairs, or one row for all of them."""
        keys = pairs if self.learner.each else [0]
        draws = [np.random.default_rng([self.seed, step, key]).random(len(self.scores)) for key in keys]
        return torch.from_numpy(np.stack(draws)).clamp(_EDGE, 1 - _EDGE).to(self.scores)

    def _drawn(self, noise: Tensor, size: float) -> Float[Tensor, "*pairs units"]:
        """Gates of the units; one row for all pairs has no axis of its own."""
        learner, noise = self.learner, noise if self.learner.each else noise[0]
        draw = partial(_draw, GATES[learner.gates].draw, noise, learner.t)
        if learner.hold == "budget":
            return competing(draw, self.scores, size)
        gates = self._of_parts(noise) if len(self.parts) > 1 else draw(self.scores)
        return gates if self.writers is None else gates[..., : self.units] * gates[..., self.units :][..., self.writers]

    def _of_parts(self, noise: Tensor) -> Tensor:
        """Gates of several parts."""
        counts = [count for _, count in self.parts]
        cut = zip(self.parts, self.scores.split(counts), noise.split(counts, -1), strict=True)
        return torch.cat([GATES[one.gates].draw(own, its, one.t) for (one, _), own, its in cut], -1)

    def _slope(self, group: int, gates: Tensor, cause: bool) -> tuple[float, Tensor]:
        """The loss under gates, and its gradient; in the cause's direction what is open is what is ablated."""
        if self.learner.adversary:
            return self._attacked(group, gates)
        weights = 1 - gates if cause else gates
        loss, slope = self.runs.slope(group, weights, cause)
        slope = -slope if cause else slope
        if self.learner.aim == "complete":
            more, against = self.runs.slope(group, 1 - gates, True)
            loss, slope = loss + self.learner.completeness * more, slope - self.learner.completeness * against
        return loss, slope

    def _attacked(self, group: int, gates: Tensor) -> tuple[float, Tensor]:
        """The same where an adversary sets what is closed; see `learner`."""
        r = torch.zeros_like(gates)
        for t in range(1, self.learner.adversary + 1):
            slope = self.runs.slope(group, gates + (1 - gates) * r, False)[1]
            r = (r + _FIRST / t**0.5 * signs(slope * (1 - gates))).clamp(0, self.learner.most)
        loss, slope = self.runs.slope(group, gates + (1 - gates) * r, False)
        return loss, slope * (1 - r)

    def pack(self) -> Float[Tensor, " numbers"]:
        """All that the next steps depend on, as one row of float64; `unpack` takes it."""
        multipliers = [one for hold in self.holds for one in hold.multipliers]
        parts = [torch.tensor([float(len(self.losses)), *multipliers], dtype=torch.float64)]
        parts.append(torch.zeros(self.learner.steps, dtype=torch.float64))
        parts[1][: len(self.losses)] = torch.tensor(self.losses, dtype=torch.float64)
        for one in self._leaves:
            state = self.optimiser.state.get(one, {})
            kept = [one.detach(), *(state.get(name, torch.zeros_like(one)) for name in _MOMENTS)]
            parts += [part.detach().flatten().cpu().double() for part in kept]
        return torch.cat(parts)

    @property
    def numbers(self) -> int:
        """How many numbers `pack` gives."""
        return 1 + 2 * len(self.holds) + self.learner.steps + 3 * sum(one.numel() for one in self._leaves)

    @torch.no_grad()
    def unpack(self, row: Float[Tensor, " numbers"]) -> None:
        """Stand where the run stood that packed this."""
        at = 1 + 2 * len(self.holds)
        done, *multipliers = row[:at].tolist()
        for number, hold in enumerate(self.holds):
            hold.multipliers = multipliers[2 * number : 2 * number + 2]
        self.losses = row[at : at + int(done)].tolist()
        at += self.learner.steps
        for one in self._leaves:
            value, *moments = row[at : at + 3 * one.numel()].reshape(3, *one.shape).to(one)
            one.copy_(value)
            state = dict(zip(_MOMENTS, (part.clone() for part in moments), strict=True))
            self.optimiser.state[one] = {"step": torch.tensor(done, dtype=torch.float32), **state}
            at += 3 * one.numel()

    @property
    def _leaves(self) -> list[Tensor]:
        return [self.scores, *self.runs.along]


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _draw(draw: Callable[[Tensor, Tensor, float], Tensor], noise: Tensor, t: float, scores: Tensor) -> Tensor:
    return draw(scores, noise, t)


def signs(slope: Float[Tensor, "*pairs units"]) -> Float[Tensor, "*pairs units"]:
    """Signs of a gradient; 0 where it is rounding."""
    return torch.where(slope.abs() > rounding(slope), slope.sign(), 0.0)


def rounding(slope: Float[Tensor, "*pairs units"]) -> Float[Tensor, "*pairs one"]:
    """What is rounding beside the largest slope."""
    return _ROUNDINGS * torch.finfo(slope.dtype).eps * slope.abs().amax(-1, keepdim=True)


def told(losses: Sequence[float], loss: str) -> str:
    """The loss over ten parts of the steps, in words."""
    parts = [part for part in np.array_split(np.asarray(losses), min(10, len(losses))) if len(part)]
    return f"loss {MASK_LOSSES[loss]}, by tenths of the steps: {' '.join(f'{part.mean():.3g}' for part in parts)}"
