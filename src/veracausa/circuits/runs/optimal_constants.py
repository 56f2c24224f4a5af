"""Optimal ablation: the constants that let a circuit do best (Li & Janson 2409.09951).

    c* = argmin_c mean over pairs of KL(clean model's distribution ‖ the circuit's, ablated edges carrying c_u)

One vector of the residual stream for every writer, the same at all positions, learned for one circuit at a time by Adam
from the writers' means. A step is in units of each writer's own size (the root mean square of its mean's coordinates,
floor: a hundredth of the largest), so that one learning rate serves all. The loss before and after stands in the notes:
constants are as good as these steps make them, no better, so a circuit's loss under optimal ablation is an upper bound.

Cost: steps × (a circuit's forward and backward on a batch of pairs), for every circuit and the one without edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.runs.tapes import circuit_buckets, record_all
from veracausa.cost import Cost
from veracausa.effects.optimal_descent import Learning, Part, descend, require_finite, schedule
from veracausa.engine.ablated import Constants
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import CircuitForward, Wiring, wiring_of
from veracausa.engine.guard import attention_function
from veracausa.progress import Tick, progress

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task


def learned_constants(
    lm: Model,
    task: Task,
    masks: Sequence[np.ndarray],
    start: Float[Tensor, "writers one width"],
    learning: Learning,
    cost: Cost,
    show_progress: bool,
) -> tuple[list[Tensor], list[tuple[float, float]]]:
    """Constants of every circuit, [writers, 1, width], and the mean KL over all pairs before and after learning.

    The model must be borrowed, without gradients.
    """
    parts = [
        Part(one.tape, one.read.divergence(one.tape.clean)) for one in record_all(lm, task, cost, False, mixed=False)[0]
    ]
    size = start.square().mean(-1, keepdim=True).sqrt()
    size = size.clamp_min(0.01 * float(size.max()))
    found, losses = [], []
    shown = progress("learning constants", len(masks) * learning.steps, show_progress)
    with attention_function(lm.decoder, SUFFIX), shown as tick:
        for mask in masks:
            learner = _Learner(lm, parts, wiring_of(lm.decoder, mask, settled=False), cost, tick)
            before = learner.loss(start)
            constants = descend(start, size, learning, [len(part.tape.examples) for part in parts], learner.slope)
            after = learner.loss(constants)
            if after > before:  # means do better than what these steps found
                constants, after = start, before
            found.append(constants)
            losses.append((before, after))
    return found, losses


def planned_learning(lm: Model, task: Task, wirings: Sequence[Wiring], learning: Learning) -> float:
    """Token-layers of `learned_constants`: both runs of all pairs, then two losses and all steps of every circuit."""
    groups = circuit_buckets(lm, task, share_prefix=False, mixed=False)
    steps = schedule([len(members) for _, members in groups], learning)
    learned = sum(task.lengths[groups[group][1][0]] * (which.stop - which.start) for group, which in steps)
    runs = 2 * sum(task.lengths) + 2 * learned
    return float(2 * sum(task.lengths) * lm.layers + sum(wiring.blocks for wiring in wirings) * runs)


@dataclass(frozen=True, eq=False)
class _Learner:
    """One circuit with the pairs that its constants are learned on."""

    lm: Model
    parts: list[Part]
    wiring: Wiring
    cost: Cost
    tick: Tick

    def divergence(self, constants: Tensor, part: Part, rows: slice) -> Float[Tensor, " rows"]:
        """KL from the clean run's distribution."""
        decoder, tape = self.lm.decoder, part.tape
        end = CircuitForward.of(self.lm, tape, Constants(decoder, tape, constants), self.cost)(self.wiring, rows)
        return -part.read(end, torch.arange(len(tape.examples), device=end.device)[rows])

    @torch.no_grad()
    def loss(self, constants: Tensor) -> float:
        """Mean over all pairs."""
        found = [self.divergence(constants, part, slice(0, len(part.tape.examples))) for part in self.parts]
        return float(torch.cat(found).mean())

    def slope(self, constants: Tensor, group: int, which: slice) -> Tensor:
        """Gradient of the mean over some pairs of a tape."""
        leaf, before = constants.requires_grad_(), self.cost.forward
        with torch.enable_grad():
            loss = self.divergence(leaf, self.parts[group], which).mean()
            require_finite(loss)
            (found,) = torch.autograd.grad(loss, leaf)
        self.cost.backward += self.cost.forward - before
        self.tick(1)
        return found
