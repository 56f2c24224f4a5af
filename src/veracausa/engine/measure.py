"""Read the metric: off a final residual, and for whole tasks off the bare model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.answer_forms import note_forms
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.guard import attention_name, borrowed
from veracausa.engine.memory import halving
from veracausa.engine.readout import Readout
from veracausa.engine.tape import Tape, buckets, record_pairs
from veracausa.engine.validate import require_readable
from veracausa.engine.validate_whole import require_whole
from veracausa.tasks.measurement import Measurement

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: Places of a pair up to which it is asked whether the likeliest token is right: each unembeds the whole vocabulary.
_PLACES = 8


def readout(lm: Model, task: Task, tape: Tape) -> Readout:
    """The readout of a recorded bucket; every computation on pairs takes it, so the bare model is asked here.

    Warns once per task where the model says another form of the answers (see `answer_forms`).

    Raises:
        NumericsError, ContractError: see `validate.require_logits` and `validate_whole`.
    """
    read = Readout.of(lm, task, tape.examples, tape.clean)
    read.require_rows(tape.clean)
    require_whole(lm, task, tape, read)
    note_forms(lm, task, tape.examples, read.logits_at_the_end(tape.clean))
    return read


def measure(lm: Model, task: Task, cost: Cost | None = None) -> Measurement:
    """M(x) and M(x′) of every pair of a task, by the bare model (public as `lm.measure`).

    Where recordings are shared (`guard.shared`), it is asked once for each task; `cost` counts it every time.
    """
    with borrowed(lm.decoder) as loan, torch.no_grad():
        key = "measured", attention_name(lm.decoder), task.digest()
        found = loan.shelf.get(key) if loan.shelf else None
        measured, own = found or _measured(lm, task)
        if loan.shelf:
            loan.shelf.put(key, (measured, own), 2 * measured.clean.nbytes)
    if cost is not None:
        cost.forward += own.forward
    return measured


def _measured(lm: Model, task: Task) -> tuple[Measurement, Cost]:
    """The same, and what it cost."""
    measured, cost = Measurement.blank(len(task), lm.score_dtype), Cost()
    asked = all(task.correct) and max(map(len, task.places)) <= _PLACES
    right = torch.zeros(2, len(task), dtype=torch.bool)

    def run(start: int, examples: tuple[int, ...]) -> None:
        ids, tail = pair_ids(lm, task, examples), task.tail(examples)
        tape = record_pairs(lm.decoder, *ids, start, examples=examples, tail=tail, cost=cost)
        read = readout(lm, task, tape)
        measured.put(examples, read.of_state(tape.clean), read.of_state(tape.corrupted))
        if asked:
            right[:, list(examples)] = torch.stack([read.right(tape.clean), read.right(tape.corrupted)]).cpu()

    halving(measured_groups(lm, task), run)
    return (replace(measured, right=right) if asked else measured), cost


def measured_groups(lm: Model, task: Task) -> list[tuple[int, tuple[int, ...]]]:
    """The pairs that are measured together: (start, pairs)."""
    return buckets(lm.decoder, task, True, examples_per_batch(lm, task), mixed=True)


def pair_ids(
    lm: Model, task: Task, examples: tuple[int, ...]
) -> tuple[Int[Tensor, "examples positions"], Int[Tensor, "examples positions"]]:
    """Clean and corrupted token ids of a bucket, on the model's device; the shorter ones filled up behind their end."""
    longest = max(task.lengths[i] for i in examples)
    both = [[prompts[i] for i in examples] for prompts in (task.clean, task.corrupted)]
    for prompts in both:
        require_readable(lm, prompts)
    # what follows a shorter prompt is never read; one token for both runs, so that they differ as little as they can
    behind = [(task.clean[i][-1],) * (longest - task.lengths[i]) for i in examples]
    clean, corrupted = (
        torch.tensor([ids + more for ids, more in zip(prompts, behind, strict=True)], device=lm.device)
        for prompts in both
    )
    return clean, corrupted
