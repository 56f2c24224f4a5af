"""Read the metric: off a final residual, and for whole tasks off the bare model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.answer_forms import note_forms
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.guard import attention_name, borrowed
from veracausa.engine.memory import halving
from veracausa.engine.readout import Readout
from veracausa.engine.recording import record, record_pairs
from veracausa.engine.tape import Tape
from veracausa.engine.validate_prompts import require_readable
from veracausa.engine.validate_whole import require_whole
from veracausa.engine.work import recorded_runs, require_even
from veracausa.tasks.measurement import Measurement

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model
    from veracausa.tasks.checked_pairs import Ids
    from veracausa.tasks.task import Task


#: Places of a pair up to which it is asked whether the likeliest token is right: each unembeds the whole vocabulary.
_PLACES = 8


def readout(lm: Model, task: Task, tape: Tape) -> Readout:
    """The readout of a recorded bucket; every computation on pairs takes it, so the bare model is asked here.

    Warns once per task where the model says another form of the answers (see `answer_forms`).

    Raises:
        NumericsError, ContractError: see `validate.require_logits` and `validate_whole`.
    """
    read = _readout(lm, task, tape)
    note_forms(lm, task, tape.examples, read.logits_at_the_end(tape.clean))
    return read


def _readout(lm: Model, task: Task, tape: Tape) -> Readout:
    """The same without a warning."""
    read = Readout.of(lm, task, tape.examples, tape.clean)
    read.require_rows(tape.clean)
    require_whole(lm, task, tape, read)
    return read


def alone(
    lm: Model, task: Task, examples: tuple[int, ...], cost: Cost, *, sites: Collection[str] = (), grad: bool = False
) -> Tape:
    """Run the clean prompts alone, whole; the tape has that run in the corrupted one's place, too."""
    with torch.no_grad():
        ids = _filled(lm, task, examples, task.clean)
        state, calls = record(lm.decoder, ids, sites=sites, grad=grad, logits=True, cost=cost)
    return Tape(examples, (ids, ids), 0, ids.shape[1], state, state, calls, tail=task.tail(examples))


def apart(
    lm: Model,
    task: Task,
    examples: tuple[int, ...],
    cost: Cost,
    *,
    sites: Collection[str] = (),
    grad: Literal["clean", "corrupted"] | None = None,
) -> tuple[tuple[Tape, Readout], tuple[Tape, Readout]]:
    """Both runs of pairs whose prompts have different lengths, each whole and at its own, and how each is read."""
    graphs = (grad == "clean", grad == "corrupted")
    tapes = [alone(lm, side, examples, cost, sites=sites, grad=g) for side, g in zip(task.sides, graphs, strict=True)]
    clean, corrupted = (_readout(lm, side, tape) for side, tape in zip(task.sides, tapes, strict=True))
    note_forms(lm, task, examples, clean.logits_at_the_end(tapes[0].clean))
    # both runs are compared with the clean one
    return (tapes[0], clean), (tapes[1], replace(corrupted, reference=clean.reference))


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
        if task.uneven & {*examples}:
            ends = [(read, tape.clean) for tape, read in apart(lm, task, examples, cost)]
        else:
            ids, tail = pair_ids(lm, task, examples), task.tail(examples)
            tape = record_pairs(lm.decoder, *ids, start, examples=examples, tail=tail, cost=cost)
            read = readout(lm, task, tape)
            ends = [(read, tape.clean), (read, tape.corrupted)]
        measured.put(examples, *(read.of_state(state) for read, state in ends))
        if asked:
            right[:, list(examples)] = torch.stack([read.right(state) for read, state in ends]).cpu()

    halving(measured_groups(lm, task), run)
    return (replace(measured, right=right) if asked else measured), cost


def measured_groups(lm: Model, task: Task) -> list[tuple[int, tuple[int, ...]]]:
    """The pairs that are measured together: (start, pairs)."""
    return buckets(lm.decoder, task, True, examples_per_batch(lm, task), mixed=True)


def measured_runs(lm: Model, task: Task) -> float:
    """Token-layers of measuring both bare runs of every pair."""
    return recorded_runs(lm, task, measured_groups(lm, task))


def pair_ids(
    lm: Model, task: Task, examples: tuple[int, ...]
) -> tuple[Int[Tensor, "examples positions"], Int[Tensor, "examples positions"]]:
    """Clean and corrupted token ids of a bucket, on the model's device; the shorter ones filled up behind their end.

    Raises:
        MethodError: a pair's prompts have different lengths; see `work.require_even`.
    """
    if task.uneven & {*examples}:
        require_even(task, "This call")
    return _filled(lm, task, examples, task.clean), _filled(lm, task, examples, task.corrupted)


def _filled(lm: Model, task: Task, examples: tuple[int, ...], prompts: Ids) -> Int[Tensor, "examples positions"]:
    own = [prompts[i] for i in examples]
    require_readable(lm, own)
    longest = max(map(len, own))
    # what follows a shorter prompt is never read; one token for both runs, so that they differ as little as they can
    filled = [ids + (task.clean[i][-1],) * (longest - len(ids)) for i, ids in zip(examples, own, strict=True)]
    return torch.tensor(filled, device=lm.device)
