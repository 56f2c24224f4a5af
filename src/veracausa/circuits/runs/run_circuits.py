"""Run circuits on a task: M and KL of every circuit and pair, with what both ends of the scale are.

Pairs are recorded once, whatever the number of circuits; each circuit then costs at most the blocks that have live
parts (`engine.circuit_forward`). All edges are the bare model's clean run (checked in every call); no edges are its
corrupted run where ablation is counterfactual, else the run that consists of what ablation puts in place
(`circuits.runs.ablations`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veracausa.circuits.runs.ablations import ablation_of
from veracausa.circuits.runs.tapes import circuit_buckets, record_bucket
from veracausa.cost import Cost
from veracausa.effects.optimal_descent import Learning
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.circuit_forward import CircuitForward, Wiring, all_edges_mask, wiring_of
from veracausa.engine.guard import attention_function, borrowed, precision_of
from veracausa.engine.memory import halving, shrinking
from veracausa.engine.readout import Readout
from veracausa.engine.tape import Tape
from veracausa.engine.validate import require_run
from veracausa.errors import NumericsError
from veracausa.progress import progress
from veracausa.scores.headers import reference_settings
from veracausa.scores.scores import task_header
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.metrics import divergence

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: Rows that are unembedded at once: enough to read its weights seldom, few enough for any vocabulary.
_UNEMBEDDED = 64


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Metric and KL (from the clean run's output distribution) of every circuit and pair.

    `measured`: M of the bare clean run, and of the run without any edge. `settings`: what else the numbers depend on.
    """

    metric: Float[Tensor, "circuits examples"]
    kl: Float[Tensor, "circuits examples"]
    measured: Measurement
    cost: Cost
    ablation: str
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@torch.inference_mode(False)
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

    `ablation`, `reference`, `seed`, `learning`: see `circuits.runs.ablations`. Under "optimal" each circuit has its own
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
            lasts = []
            with attention_function(lm.decoder, SUFFIX):
                forward = CircuitForward(lm.decoder, tape, how.of(lm, tape, -1), cost)
                require_whole_is_clean(lm, forward, read)
                for number, wiring in enumerate(wirings):
                    forward = CircuitForward(lm.decoder, tape, how.of(lm, tape, number), cost)
                    lasts.append(_last(lm, forward, wiring))
                    tick(len(examples))
            for rows, found, distance in _read(lm, tape, torch.cat(lasts), read):
                into = rows // len(examples), index[rows % len(examples)]
                metric[into], kl[into] = (part.to("cpu", lm.score_dtype) for part in (found, distance))
            if not torch.isfinite(metric[:, index]).all():
                raise NumericsError(f"NaN or infinity in a circuit's run on {task.name!r}. Run the model in float32.")

        halving(groups, run)
    measured = Measurement(clean, metric[-1])
    measured.require_gap(task, "corrupted" if ablation == "counterfactual" else f"fully ablated ({ablation})")
    cost.seconds = time.monotonic() - began
    notes = (*how.notes, *precision_of(lm.decoder).notes)
    settings = outcome_settings(lm, task, ablation, reference, seed, learning)
    return Outcomes(metric[:-1], kl[:-1], measured, cost, ablation, notes, settings)


def outcome_settings(
    lm: Model, task: Task, ablation: str, reference: Task | None, seed: int, learning: Learning | None
) -> dict[str, Any]:
    """What headers say of circuits' runs: model, task, ablation, and what the ablation depends on."""
    model, header = lm.header(), task_header(task)
    found: dict[str, Any] = {"model": model["identity"], "dtype": model["dtype"], "task": header["digest"]}
    found |= {"description": header["description"], "metric": header["metric"], "ablation": ablation}
    if ablation == "optimal":  # these, too, are learned on the reference set
        found |= reference_settings("mean", task, reference) | {"learning": asdict(learning or Learning(seed=seed))}
    else:
        found |= reference_settings(ablation, task, reference)
    return found | ({"seed": seed} if ablation == "resample" else {})


def _last(lm: Model, forward: CircuitForward, wiring: Wiring) -> Float[Tensor, "examples width"]:
    """Final residual of all examples of a bucket, as many at a time as fit."""
    tape = forward.tape
    count, positions = len(tape.examples), tape.length - tape.start
    size, at, found = rows_per_chunk(lm, positions, tape.length), 0, []
    while at < count:

        def attempt(most: int, at: int = at) -> Tensor:
            return forward(wiring, slice(at, min(at + most, count)))

        last, size = shrinking(size, attempt, f"{positions} tokens")
        found.append(last)
        at += len(last)
    return torch.cat(found)


def _read(
    lm: Model, tape: Tape, last: Float[Tensor, "rows width"], read: Readout
) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]]:
    """(rows, M, KL) of final residuals, circuit after circuit; the unembedding is read once for many circuits."""
    clean = lm.decoder.logits(tape.clean.last).log_softmax(-1)
    for rows in torch.arange(len(last), device=last.device).split(_UNEMBEDDED):
        example = rows % len(tape.examples)
        yield rows.cpu(), read(last[rows], example), divergence(clean[example], lm.decoder.logits(last[rows]))


def require_whole_is_clean(lm: Model, forward: CircuitForward, read: Readout) -> None:
    """Raise ContractError unless the whole graph gives the bare model's clean run, for the first pair of a bucket."""
    run, first = forward.tape.clean, torch.tensor([0], device=lm.device)
    whole = forward(wiring_of(lm.decoder, all_edges_mask(lm.graph), forward.ablated.settled), slice(0, 1))
    require_run(lm, read(whole, first), read.of_state(run)[:1], run)
