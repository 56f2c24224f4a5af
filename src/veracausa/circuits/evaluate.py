"""Run circuits on a task: M and KL of every circuit and pair, with what both ends of the scale are.

Pairs are recorded once, whatever the number of circuits; each circuit then costs at most the blocks that have live
parts (`engine.circuit_forward`). All edges are the bare model's clean run (checked in every call); no edges are its
corrupted run where ablation is counterfactual, else the run that consists of what ablation puts in place
(`circuits.ablations`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.circuits.ablations import ablation_of
from veracausa.circuits.optimal_constants import Learning
from veracausa.circuits.tapes import circuit_buckets, record_bucket
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.circuit_forward import CircuitForward, Wiring, all_edges_mask, wiring_of
from veracausa.engine.cost import Cost
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.measure import Measurement, Readout
from veracausa.engine.memory import halving, shrinking
from veracausa.engine.validate import require_run
from veracausa.errors import NumericsError
from veracausa.progress import progress

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Metric and KL (from the clean run's output distribution) of every circuit and pair.

    `measured`: M of the bare clean run, and of the run without any edge.
    """

    metric: Float[Tensor, "circuits examples"]
    kl: Float[Tensor, "circuits examples"]
    measured: Measurement
    cost: Cost
    ablation: str
    notes: tuple[str, ...] = ()


def run_circuits(
    lm: Model,
    task: Task,
    masks: Sequence[np.ndarray],
    *,
    ablation: str = "counterfactual",
    reference: Task | None = None,
    seed: int = 0,
    learning: Learning | None = None,
    share_prefix: bool = True,
    show_progress: bool = True,
) -> Outcomes:
    """Run circuits, given as masks [readers, writers] of the model's graph, on every pair of a task.

    `ablation`, `reference`, `seed`, `learning`: see `circuits.ablations`. Under "optimal" each circuit has its own
    constants, and the run without edges has those learned for no edges.

    Raises:
        GapError: the model does not separate the clean run from the one without edges.
        ContractError: the whole graph does not reproduce the bare model's clean run.
        MethodError: an unknown ablation, or nothing to resample from.
        NumericsError, OutOfMemoryError: as for `vc.exact`.
    """
    began = time.monotonic()
    cost = Cost(full=sum(task.lengths) * lm.layers)
    every = [*masks, np.zeros_like(all_edges_mask(lm.graph))]  # the last one: no edges
    with borrowed(lm.decoder), torch.no_grad():
        how = ablation_of(lm, task, ablation, every, reference, seed, learning, cost, show_progress)
    wirings = [wiring_of(lm.decoder, mask, how.settled) for mask in every]
    metric, kl = torch.empty(2, len(every), len(task), dtype=lm.score_dtype)
    clean = torch.empty(len(task), dtype=lm.score_dtype)
    groups = circuit_buckets(lm, how.task, share_prefix and how.settled)
    total = sum(len(members) for _, members in groups) * len(every)
    with borrowed(lm.decoder), torch.no_grad(), progress(f"{len(masks)} circuits", total, show_progress) as tick:

        def run(start: int, examples: tuple[int, ...]) -> None:
            index = torch.tensor(examples)
            tape, read = record_bucket(lm, how.task, start, examples, cost)
            clean[index] = read.of_state(tape.clean).to("cpu", lm.score_dtype)
            with attention_function(lm.decoder, SUFFIX):
                forward = CircuitForward(lm.decoder, tape, how.of(lm, tape, -1), cost)
                require_whole_is_clean(lm, forward, read)
                for number, wiring in enumerate(wirings):
                    at = 0
                    forward = CircuitForward(lm.decoder, tape, how.of(lm, tape, number), cost)
                    for found, distance in _rows(lm, task, forward, wiring, read):
                        into = index[at : at + len(found)]
                        metric[number, into] = found.to("cpu", lm.score_dtype)
                        kl[number, into] = distance.to("cpu", lm.score_dtype)
                        at += len(found)
                        tick(len(found))

        halving(groups, run)
    measured = Measurement(clean, metric[-1])
    measured.require_gap(task, "corrupted" if ablation == "counterfactual" else f"fully ablated ({ablation})")
    cost.seconds = time.monotonic() - began
    return Outcomes(metric[:-1], kl[:-1], measured, cost, ablation, how.notes)


def _rows(
    lm: Model, task: Task, forward: CircuitForward, wiring: Wiring, read: Readout
) -> Iterator[tuple[Tensor, Tensor]]:
    """(M, KL) of chunk after chunk of a bucket's examples."""
    tape = forward.tape
    count, positions = len(tape.examples), tape.length - tape.start
    size, at = rows_per_chunk(lm, positions, tape.length), 0
    while at < count:

        def attempt(most: int, at: int = at) -> tuple[Tensor, Tensor]:
            rows = slice(at, min(at + most, count))
            last, of = forward(wiring, rows), torch.arange(count, device=lm.device)[rows]
            clean, own = (lm.decoder.logits(end).log_softmax(-1) for end in (tape.clean.last[rows], last))
            return read(last, of), (clean.exp() * (clean - own)).sum(-1)

        (found, distance), size = shrinking(size, attempt, f"{positions} tokens")
        if not torch.isfinite(found).all():
            raise NumericsError(f"NaN or infinity in a circuit's run on {task.name!r}. Run the model in float32.")
        yield found, distance
        at += len(found)


def require_whole_is_clean(lm: Model, forward: CircuitForward, read: Readout) -> None:
    """Raise ContractError unless the whole graph gives the bare model's clean run, for the first pair of a bucket."""
    run, first = forward.tape.clean, torch.tensor([0], device=lm.device)
    whole = forward(wiring_of(lm.decoder, all_edges_mask(lm.graph), forward.ablated.settled), slice(0, 1))
    answers = lm.decoder.logits(run.last[:1], read.answers.tokens[:1])
    require_run(lm, read(whole, first), read.of_state(run)[:1], answers)
