"""Learned edge masks: which edges must stay for the output to stay, all others carrying the corrupted run's writes.

Every edge gets a gate in [0, 1], its weight in the circuit's run (`engine.soft_circuit`), drawn anew in every step and
shared by the step's pairs. Two ways of learning which gates to open:

* **share** (Edge Pruning, 2406.16778): hard-concrete gates, and a Lagrangian that brings the expected share of open
  gates to the wanted one (`learned.concrete`). An answer for one size. Edge Pruning's own gates of nodes are left
  out; lr, steps and warm-up are those of `learn_mask`, not its 0.8 and 3,000 steps.
* **top-k** (ours): one score s_e per edge. Each step draws a size k, log-uniform from `smallest` to all edges and opens

      g_e = hard-concrete(s_e − t),   t such that Σ_e g_e = k,    ∂g_e/∂s_j = w_e (δ_ej − w_j / Σ w),  w = ∂g/∂(s − t)

  so edges compete for k places at every size, and one run ranks the edges for all sizes.

The loss is the mean KL from the clean output at the last position, or −metric / gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import GateControl, Loss
from veracausa.circuits.runs.recorded import Recorded, planned_record, record
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import kept_by, wiring_of
from veracausa.engine.guard import attention_function
from veracausa.engine.session import session
from veracausa.engine.work import gives
from veracausa.errors import MethodError
from veracausa.estimates.learned.concrete import Training, descend, hard_concrete, open_probability, told
from veracausa.progress import Tick
from veracausa.scores.scores import Scores, assemble
from veracausa.units.edges import Edges
from veracausa.units.resolve import all_edges

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

WAYS = ("share", "top-k")
#: Defaults.
STEPS, BATCH = 300, 4
#: Halvings of the interval in which a threshold is sought: float64 needs no more.
_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class LearnWork:
    """What `learn` is about to do."""

    lm: Model
    task: Task
    how: str
    smallest: float
    training: Training
    edges: Edges
    kind: ClassVar[str] = "edge gradients"

    @property
    def what(self) -> str:
        """In words."""
        return f"mask over {len(self.edges):,} edges"

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        return circuit_buckets(self.lm, self.task, most=self.training.batch)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: the recorded runs, all steps, and at most two runs of what is kept."""
        groups, task, layers = self.groups(), self.task, self.lm.layers
        recorded, behind = planned_record(self.lm, task, self.training.batch)
        own = [2 * layers * len(members) * (task.lengths[members[0]] - start) for start, members in groups]
        steps = self.training.schedule([len(members) for _, members in groups])
        return recorded + sum(own[group] for chosen in steps for group in chosen) + 2 * behind

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Learn the mask; finished pieces are not kept."""
        lm, task, training, edges = self.lm, self.task, self.training, self.edges
        with (
            session(lm, task, measured=False, show=show_progress) as call,
            attention_function(lm.decoder, SUFFIX),
        ):
            runs = _Runs(record(lm, task, call.cost, most=training.batch), edges, training.loss)
            parameters = training.initial(lm).requires_grad_()
            planned = training.schedule([len(group) for group in runs.recorded.groups])
            total = sum(runs.tokens(group) for groups in planned for group in groups)
            with call.ticking(self.what, total):
                value, said, losses, settings = self._learned(runs, planned, parameters, call.tick)
            kl, metric = runs.kept(training.likeliest(parameters).cpu().numpy())
        return assemble(
            call,
            value.to(lm.score_dtype).expand(len(task), -1).contiguous(),
            edges,
            measured=runs.recorded.measured,
            method="edge-mask" if self.how == "share" else "edge-top-k",
            settings=settings,
            signed=False,
            notes=(
                f"{said}; {told(losses, training.loss)}; one mask for all pairs, so no error is known",
                f"with the {training.count:,} likeliest edges and no others: KL {kl:.3f}, metric {metric:+.3f}",
            ),
        )

    def _learned(
        self, runs: _Runs, planned: list[list[int]], parameters: Tensor, tick: Tick
    ) -> tuple[Tensor, str, list[float], dict[str, Any]]:
        """Scores of the edges, what they are in words, every step's loss, and the settings."""
        if self.how == "share":
            share, losses = descend(runs, planned, parameters, self.training, tick)
            said = f"probability that an edge's gate is open; expected share kept {share:.3g}"
            return open_probability(parameters.detach()).cpu(), said, losses, self.training.settings("probability")
        losses = _compete(runs, planned, parameters, self.training, self.smallest, tick)
        said = f"ranks; sizes drawn from {self.smallest:.2%} to all edges"
        return _ranks(parameters.detach()), said, losses, self.training.settings("rank", smallest=self.smallest)


@gives(Scores)
def learn(
    lm: Model,
    task: Task,
    *,
    how: GateControl = "share",
    keep: float | int = 0.02,
    smallest: float = 0.001,
    steps: int = STEPS,
    lr: float = 0.3,
    loss: Loss = "kl",
    batch: int = BATCH,
    start: Scores | None = None,
    seed: int = 0,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> LearnWork:
    """Learn which edges must be kept when all others carry the corrupted run's writes; see the module.

    Args:
        lm: the model.
        task: the pairs to learn on; evaluate on others.
        how: "share" (for one size) or "top-k" (for all sizes).
        keep: the share of the edges to keep (a float under 1), or their number (an int). For top-k only the size at
            which the notes say what the kept edges give.
        smallest: the smallest share that top-k draws.
        steps: optimiser steps.
        lr: Adam's step size for the gates' parameters.
        loss: "kl" or "metric".
        batch: pairs a step, at least, in whole groups as for `vc.estimates.learn_mask`.
        start: scores of all edges, by any method, whose ranking the gates start from.
        seed: of the order of pairs, of the gates' noise and of the sizes; a draw depends on (seed, step) only.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Scores` of all edges, magnitudes only, one row repeated for all pairs: of share each edge's probability that
        its gate is open, of top-k ranks in (0, 1]. `vc.curve` and `vc.select` take them. The notes say how the loss
        fell, and what the `keep` likeliest edges give when all others are ablated.

    Raises:
        MethodError: an option out of range. UnitError: `start` is not about all edges.
        GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.attribute`.

    Cost: steps × batch runs of the whole graph with their gradient, about three forward passes each.

    >>> mask = vc.circuits.learn(lm, task, keep=0.02, start=vc.attribute(lm, task, units="edges", method="eap-ig"))
    >>> vc.faithfulness(lm, held_out, vc.select(mask, n=1400))
    """
    if how not in WAYS or not 0 < smallest < 1:
        raise MethodError(f"how={how!r}, smallest={smallest}: how is one of {', '.join(WAYS)}, smallest in (0, 1).")
    edges = all_edges(lm)
    return LearnWork(lm, task, how, smallest, Training.of(edges, keep, steps, lr, loss, batch, start, seed), edges)


@dataclass(frozen=True, eq=False)
class _Runs:
    """Weighted circuits of a recorded task, with the gradient of their loss (`concrete.Gated`)."""

    recorded: Recorded
    edges: Edges
    loss: str

    def tokens(self, group: int) -> float:
        """Token-layers of one forward and backward run of a group."""
        own = self.recorded.groups[group]
        return float(2 * len(own) * own.positions * self.recorded.lm.layers)

    def size(self, group: int) -> int:
        """Pairs of a group."""
        return len(self.recorded.groups[group])

    def slope(self, group: int, gates: Float[Tensor, " edges"]) -> tuple[float, Float[Tensor, " edges"]]:
        """Summed loss of a group under gates on all edges, and its gradient with respect to them."""
        graph = self.edges.graph
        at = tuple(torch.as_tensor(end, device=gates.device) for end in (self.edges.reader, self.edges.writer))
        mask = gates.new_zeros(graph.readers, graph.writers).index_put(at, gates.detach())
        value, found = self.recorded.slope(mask, self.loss, [self.recorded.groups[group]])
        return value, found[at]

    def gradient(
        self, group: int, log_alpha: Tensor, noise: Callable[[Sequence[int]], Tensor]
    ) -> tuple[float, Float[Tensor, " edges"]]:
        """The same with respect to log α of hard-concrete gates; all pairs of a step share one draw."""
        with torch.enable_grad():
            gates = hard_concrete(log_alpha, noise([0])[0].to(log_alpha))
        value, slope = self.slope(group, gates)
        return value, torch.autograd.grad(gates, log_alpha, slope)[0]

    def kept(self, edges: np.ndarray) -> tuple[float, float]:
        """Mean KL and mean metric of the circuit of some edges, rows of the table."""
        recorded, table = self.recorded, self.edges
        wiring = wiring_of(recorded.lm.decoder, kept_by(table.graph, table.writer[edges], table.reader[edges]))
        gap = float(recorded.measured.gap.mean())
        return recorded.loss(wiring, "kl"), -gap * recorded.loss(wiring, "metric")


def _compete(
    runs: _Runs, planned: list[list[int]], scores: Tensor, training: Training, smallest: float, tick: Tick
) -> list[float]:
    """Descend the scores of edges that compete for k places, in place; returns every step's mean loss."""
    optimiser, losses = torch.optim.Adam([scores], lr=training.lr), []
    for step, groups in enumerate(planned):
        draw = np.random.default_rng([training.seed, step])
        size = len(scores) * math.exp(draw.uniform(math.log(smallest), 0))
        uniform = torch.from_numpy(draw.random(len(scores))).clamp(1e-6, 1 - 1e-6).to(scores)
        gates, steep = competing(scores.detach(), uniform, size)
        pairs, loss, gradient = sum(map(runs.size, groups)), 0.0, torch.zeros_like(gates)
        for group in groups:
            value, slope = runs.slope(group, gates)
            loss, gradient = loss + value / pairs, gradient + slope / pairs
            tick(runs.tokens(group))
        losses.append(loss)
        scores.grad = steep * (gradient - (steep * gradient).sum() / steep.sum().clamp_min(1e-12))
        optimiser.step()
    return losses


def competing(
    scores: Float[Tensor, " edges"], uniform: Float[Tensor, " edges"], size: float
) -> tuple[Float[Tensor, " edges"], Float[Tensor, " edges"]]:
    """Hard-concrete gates of scores − t with the threshold t at which they sum to `size`, and their slopes w."""
    noise = uniform.log() - (-uniform).log1p()
    low, high = float((scores + noise).min()) - 10, float((scores + noise).max()) + 10
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = float(hard_concrete(scores - middle, uniform).sum()) > size
        low, high = (middle, high) if above else (low, middle)
    leaf = (scores - (low + high) / 2).requires_grad_()
    with torch.enable_grad():
        gates = hard_concrete(leaf, uniform)
        (steep,) = torch.autograd.grad(gates.sum(), leaf)
    return gates.detach(), steep


def _ranks(scores: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
    """1 − (rank − ½) / edges, the highest score first."""
    rank = torch.empty(len(scores), dtype=torch.float64)
    rank[torch.argsort(scores.cpu(), descending=True, stable=True)] = torch.arange(len(scores), dtype=torch.float64)
    return 1 - (rank + 0.5) / len(scores)
