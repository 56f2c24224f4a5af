"""A task recorded once, so that many circuits can be run on it: every bucket's two runs, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.runs.ablations import AblatedEdges, Ablating, none_kept
from veracausa.circuits.runs.run_circuits import require_whole_is_clean
from veracausa.circuits.runs.tapes import circuit_buckets, record_all, recordings, whole_graph
from veracausa.cost import Cost
from veracausa.engine.ablated import Constants
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.circuit_forward import CircuitForward, Wiring, all_edges_mask, wiring_of
from veracausa.engine.footprint import Footprint
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import chunks
from veracausa.engine.readout import Readout
from veracausa.engine.soft_circuit import SoftCircuit
from veracausa.estimates.learned.losses import Ends, judged
from veracausa.tasks.measurement import Measurement

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.engine.tape import Tape
    from veracausa.model import Model
    from veracausa.tasks.task import Task

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Group:
    """One bucket: its weighted circuits, its circuits, and minus the KL from the clean run."""

    soft: SoftCircuit
    hard: CircuitForward
    divergence: Readout

    def __len__(self) -> int:
        return len(self.soft.tape.examples)

    def examples(self, rows: slice) -> list[int]:
        """Which of the task's pairs some rows are."""
        return list(self.soft.tape.examples[rows])

    @property
    def positions(self) -> int:
        """Positions that are run."""
        return self.soft.tape.length - self.soft.tape.start

    def metric(self, last: Float[Tensor, "rows tail width"], rows: slice) -> Float[Tensor, " rows"]:
        """M of the rows' final residual."""
        return self.soft.read(last, torch.arange(len(self), device=last.device)[rows])

    def kl(self, last: Float[Tensor, "rows tail width"], rows: slice) -> Float[Tensor, " rows"]:
        """KL from the clean run's output distribution to the rows'."""
        return -self.divergence(last, torch.arange(len(self), device=last.device)[rows])


@dataclass(frozen=True, eq=False)
class LearnedWrites:
    """One vector a writer in the place of its ablated edges, start + size · leaf, learned by descending the leaf."""

    lm: Model
    start: Float[Tensor, "writers one width"]
    leaf: Float[Tensor, "writers one width"]

    @classmethod
    def of_means(cls, lm: Model, means: Float[Tensor, "writers positions width"]) -> LearnedWrites:
        """Those that begin at means, over positions, too."""
        start = means.mean(1, keepdim=True)
        return cls(lm, start, torch.zeros_like(start).requires_grad_())

    @property
    def leaves(self) -> list[Tensor]:
        """What is descended."""
        return [self.leaf]

    @property
    def writes(self) -> Float[Tensor, "writers one width"]:
        """The vectors: a step of the leaf is in units of each writer's own size, as for optimal constants."""
        size = self.start.square().mean(-1, keepdim=True).sqrt()
        return self.start + size.clamp_min(0.01 * float(size.max())) * self.leaf

    def of(self, tape: Tape) -> Constants:
        """What stands in the place of ablated edges in one bucket."""
        return Constants(self.lm.decoder, tape, self.writes)

    def add(self, found: Sequence[Tensor]) -> None:
        """Add to the leaf's gradient."""
        self.leaf.grad = found[0] if self.leaf.grad is None else self.leaf.grad + found[0]


#: (group, final residual, rows) → the loss of each row.
Judged = Callable[[Group, Tensor, slice], Tensor]


@dataclass(frozen=True, eq=False)
class Recorded:
    """All buckets of a task, and M of both runs."""

    lm: Model
    groups: list[Group]
    measured: Measurement

    def chunks(
        self, run: Callable[[Group, slice], Found], backward: bool, among: list[Group] | None = None
    ) -> Iterator[Found]:
        """What `run` gives for each range of examples of each group, as many at a time as fit.

        Raises:
            OutOfMemoryError: one example does not fit.
        """
        for group in self.groups if among is None else among:
            beside = Footprint.of(self.lm).circuit
            size = rows_per_chunk(self.lm, group.positions, group.soft.tape.length, backward, beside)
            size = max(1, size // 4) if backward else size  # a weighted run holds every writer's change
            for _, found in chunks(range(len(group)), size, partial(_run, run, group), f"{group.positions} tokens"):
                yield found

    def judged(self, loss: str, cause: bool = False) -> Judged:
        """A loss of a group's rows, given their final residual: see `estimates.learned.losses`."""
        ends = Ends(self.measured.clean, self.measured.corrupted, float(self.measured.gap.mean()))

        def of(group: Group, last: Tensor, rows: slice) -> Tensor:
            metric, kl = partial(group.metric, last, rows), partial(group.kl, last, rows)
            return judged(loss, cause, kl, metric, ends.at(group.examples(rows), last.device))

        return of

    def slope(
        self,
        mask: Float[Tensor, "*pairs readers writers"],
        of: Judged,
        among: list[Group] | None = None,
        along: LearnedWrites | None = None,
    ) -> tuple[float, Float[Tensor, "*pairs readers writers"]]:
        """Summed loss of a weighted circuit over (some) groups, and its gradient with respect to the weights.

        Weights of three axes are each pair's own, of the pairs of one group. `along`: constants in the place of ablated
        edges, whose gradient is added to their `.grad`.
        """
        each, gradient, total = mask.ndim > 2, torch.zeros_like(mask), 0.0

        def run(group: Group, rows: slice) -> tuple[float, Tensor, slice]:
            leaf = (mask[rows] if each else mask).detach().clone().requires_grad_()
            with torch.enable_grad():
                soft = group.soft if along is None else replace(group.soft, ablated=along.of(group.soft.tape))
                loss = of(group, soft.run(leaf, rows), rows).sum()
                found, *beside = torch.autograd.grad(loss, [leaf, *along.leaves] if along else [leaf])
            if along is not None:
                along.add(beside)
            count = len(range(*rows.indices(len(group))))
            group.soft.cost.add(count, group.positions * self.lm.layers, backward=True)
            return float(loss.detach()), found, rows

        for value, found, rows in self.chunks(run, backward=True, among=among):
            total += value
            gradient[rows if each else ...] += found
        return total, gradient

    @torch.no_grad()
    def loss(self, wiring: Wiring, loss: str) -> float:
        """Mean loss of a circuit over all pairs; the attention function must be `attention.SUFFIX`."""
        of = self.judged(loss)
        parts = self.chunks(lambda group, rows: of(group, group.hard(wiring, rows), rows), backward=False)
        return float(torch.cat(list(parts)).double().mean())

    @torch.no_grad()
    def metric(self, wiring: Wiring) -> Float[Tensor, " examples"]:
        """M of a circuit, pair by pair in the task's order; the attention function must be `attention.SUFFIX`."""
        found = torch.full_like(self.measured.clean, float("nan"))

        def run(group: Group, rows: slice) -> None:
            found[group.examples(rows)] = group.metric(group.hard(wiring, rows), rows).to(found)

        for _ in self.chunks(run, backward=False):
            pass
        return found


def _run(run: Callable[[Group, slice], Found], group: Group, rows: range) -> Found:
    return run(group, slice(rows.start, rows.stop))


def record(
    lm: Model, task: Task, cost: Cost, most: int | None = None, how: Ablating | None = None, show: bool = False
) -> Recorded:
    """Record every bucket of a task, of at most `most` pairs; the whole graph must reproduce the bare clean run.

    `how`: what stands in the place of ablated edges, the same for all circuits (None: the corrupted run).

    Raises:
        GapError, ContractError, NumericsError, OutOfMemoryError: as for `run_circuits`.
    """
    groups: list[Group] = []
    with torch.no_grad():
        edges = AblatedEdges(task) if how is None else how.prepared([nothing(lm).mask], cost, show)
        buckets, measured = record_all(lm, edges.task, cost, edges.settled, most)
    with torch.no_grad(), attention_function(lm.decoder, SUFFIX):
        for bucket in buckets:
            tape, read = bucket.tape, bucket.read
            ablated = edges.of(lm, tape, 0)
            soft = SoftCircuit(lm.decoder, tape, ablated, read, cost)
            hard = CircuitForward.of(lm, tape, ablated, cost)
            require_whole_is_clean(lm, hard, read)
            groups.append(Group(soft, hard, read.divergence(tape.clean)))
    found = Recorded(lm, groups, measured)
    if how is not None and not how.settled:
        with attention_function(lm.decoder, SUFFIX):
            found = replace(found, measured=replace(measured, corrupted=found.metric(nothing(lm, settled=False))))
    found.measured.require_gap(task, "corrupted" if how is None else none_kept(how.kind))
    return found


def nothing(lm: Model, settled: bool = True) -> Wiring:
    """The circuit without any edge."""
    return wiring_of(lm.decoder, np.zeros_like(all_edges_mask(lm.graph)), settled)


def planned_record(lm: Model, task: Task, most: int | None = None, share_prefix: bool = True) -> tuple[int, int]:
    """Token-layers of `record`, and of one run of the whole graph on every pair behind."""
    groups = circuit_buckets(lm, task, share_prefix, most)
    recorded, behind = recordings(lm, task, groups)
    return recorded + whole_graph(lm, task, groups), behind
