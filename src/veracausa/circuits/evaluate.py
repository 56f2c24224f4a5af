"""Run circuits on a task: M and KL of every circuit and pair, with what both ends of the scale are.

Pairs are recorded once, whatever the number of circuits; each circuit then costs at most the blocks that have live
parts (`engine.circuit_forward`). Both ends are the bare model's: all edges are its clean run, no edges its corrupted
one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.engine.ablated import OtherRun
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.circuit_forward import SITES, CircuitForward, Wiring, all_edges_mask, wiring_of
from veracausa.engine.cost import Cost
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.measure import Measurement, Readout, pair_ids, readout
from veracausa.engine.memory import halving, shrinking
from veracausa.engine.tape import Tape, buckets, record_pairs
from veracausa.engine.validate import require_run, require_sites
from veracausa.errors import NumericsError
from veracausa.progress import progress

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Metric and KL (from the clean run's output distribution) of every circuit and pair; M of both bare runs."""

    metric: Float[Tensor, "circuits examples"]
    kl: Float[Tensor, "circuits examples"]
    measured: Measurement
    cost: Cost


def run_circuits(
    lm: Model, task: Task, masks: Sequence[np.ndarray], *, share_prefix: bool = True, show_progress: bool = True
) -> Outcomes:
    """Run circuits, given as masks [readers, writers] of the model's graph, on every pair of a task.

    Raises:
        GapError: the model does not separate clean from corrupted prompts.
        ContractError: the whole graph does not reproduce the bare model's clean run.
        NumericsError, OutOfMemoryError: as for `vc.exact`.
    """
    began = time.monotonic()
    wirings = [wiring_of(lm.decoder, mask) for mask in masks]
    cost = Cost(full=sum(task.lengths) * lm.layers)
    metric, kl = torch.empty(2, len(masks), len(task), dtype=lm.score_dtype)
    clean, corrupted = torch.empty(2, len(task), dtype=lm.score_dtype)
    groups = circuit_buckets(lm, task, share_prefix)
    total = sum(len(members) for _, members in groups) * len(masks)
    with borrowed(lm.decoder), torch.no_grad(), progress(f"{len(masks)} circuits", total, show_progress) as tick:

        def run(start: int, examples: tuple[int, ...]) -> None:
            index = torch.tensor(examples)
            tape, read = record_bucket(lm, task, start, examples, cost)
            forward = CircuitForward(lm.decoder, tape, OtherRun(lm.decoder, tape), cost)
            reference = lm.decoder.logits(tape.clean.last).log_softmax(-1)
            clean[index] = read.of_state(tape.clean).to("cpu", lm.score_dtype)
            corrupted[index] = read.of_state(tape.corrupted).to("cpu", lm.score_dtype)
            with attention_function(lm.decoder, SUFFIX):
                whole = forward(wiring_of(lm.decoder, all_edges_mask(lm.graph)), slice(0, 1))
                first = torch.tensor([0], device=lm.device)
                answers = lm.decoder.logits(tape.clean.last[:1], read.answers.tokens[:1])
                require_run(lm, read(whole, first), read.of_state(tape.clean)[:1], answers)
                for number, wiring in enumerate(wirings):
                    size, at = rows_per_chunk(lm, tape.length - start, tape.length), 0
                    while at < len(examples):

                        def attempt(most: int, at: int = at, wiring: Wiring = wiring) -> tuple[Tensor, Tensor]:
                            rows = slice(at, min(at + most, len(examples)))
                            last = forward(wiring, rows)
                            log_probabilities = lm.decoder.logits(last).log_softmax(-1)
                            own, of = reference[rows], torch.arange(len(examples), device=lm.device)[rows]
                            return read(last, of), (own.exp() * (own - log_probabilities)).sum(-1)

                        (found, distance), size = shrinking(size, attempt, f"{tape.length - start} tokens")
                        if not torch.isfinite(found).all():
                            raise NumericsError(
                                f"NaN or infinity in a circuit's run on {task.name!r}. Run the model in float32."
                            )
                        into = index[at : at + len(found)]
                        metric[number, into] = found.to("cpu", lm.score_dtype)
                        kl[number, into] = distance.to("cpu", lm.score_dtype)
                        at += len(found)
                        tick(len(found))

        halving(groups, run)
    measured = Measurement(clean, corrupted)
    measured.require_gap(task)
    cost.seconds = time.monotonic() - began
    return Outcomes(metric, kl, measured, cost)


def circuit_buckets(lm: Model, task: Task, share_prefix: bool = True) -> list[tuple[int, tuple[int, ...]]]:
    """Groups of pairs that share a tape for circuits: (start, examples)."""
    kept = 4 * lm.heads * lm.decoder.head_dim + (lm.heads + 4) * lm.width
    share = share_prefix and lm.decoder.anatomy.causal
    return buckets(task.clean, task.corrupted, share, examples_per_batch(lm, task, kept))


def record_bucket(lm: Model, task: Task, start: int, examples: tuple[int, ...], cost: Cost) -> tuple[Tape, Readout]:
    """Both runs of a bucket with all that circuits need, checked against the bare model, and its readout."""
    ids = pair_ids(lm, task, examples)
    tape = record_pairs(lm.decoder, *ids, start, examples=examples, sites=SITES, cost=cost)
    read = readout(lm, task, examples, tape.clean)
    require_sites(lm, tape, "z")
    require_sites(lm, tape, "mlp")
    return tape, read
