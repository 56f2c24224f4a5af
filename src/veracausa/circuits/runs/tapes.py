"""Record the pairs of a task for circuit runs: both runs of every bucket, checked against the bare model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.cost import Cost
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.circuit_forward import SITES
from veracausa.engine.memory import halving
from veracausa.engine.validate_edges import require_edges
from veracausa.engine.work import recorded_runs
from veracausa.tasks.measurement import Measurement

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: How often a recorded pair is run, for making batches: many circuits at a time, or again in every round or step.
_RUNS = 10


def circuit_buckets(
    lm: Model, task: Task, share_prefix: bool = True, most: int | None = None, mixed: bool = True
) -> list[tuple[int, tuple[int, ...]]]:
    """Groups of pairs that share a tape for circuits: (start, examples); `most`: pairs of a group at most.

    Where they may be `mixed` they are of several lengths, the longest first: no edge has a position of its own. Groups
    of `most` pairs do not depend on memory: where one does not fit it is cut.
    """
    kept = 4 * lm.heads * lm.decoder.head_dim + (lm.heads + 4) * lm.width
    fit = examples_per_batch(lm, task, kept)
    if most is None or most <= fit:
        return step_groups(lm, task, share_prefix, fit if most is None else most, mixed, most)
    whole = step_groups(lm, task, share_prefix, most, mixed, most)
    return [(start, own[at : at + fit]) for start, own in whole for at in range(0, len(own), fit)]


def step_groups(
    lm: Model, task: Task, share_prefix: bool, most: int, mixed: bool = True, pairs: int | None = None
) -> list[tuple[int, tuple[int, ...]]]:
    """The same of at most so many pairs, whatever the memory."""
    return buckets(lm.decoder, task, share_prefix, most, mixed, rows=_RUNS, passes=_RUNS, pairs=pairs)


def recordings(lm: Model, task: Task, groups: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[int, int]:
    """Token-layers of both recorded runs of all groups, and of one run of every pair behind what its group shares."""
    behind = sum(len(members) * (task.lengths[members[0]] - start) for start, members in groups)
    return int(recorded_runs(lm, task, groups)), lm.layers * behind


def whole_graph(lm: Model, task: Task, groups: Sequence[tuple[int, tuple[int, ...]]]) -> int:
    """Token-layers of the whole graph's run on the first pair of every group, which is compared with the model's."""
    return lm.layers * sum(task.lengths[members[0]] - start for start, members in groups)


def record_bucket(lm: Model, task: Task, start: int, examples: tuple[int, ...], cost: Cost) -> Bucket:
    """Both runs of some pairs with all that circuits need, checked against the bare model."""
    bucket = Bucket.record(lm, task, start, examples, cost, sites=SITES)
    require_edges(lm, bucket.tape, circuits=True)
    return bucket


def record_all(
    lm: Model, task: Task, cost: Cost, share_prefix: bool = True, most: int | None = None, mixed: bool = True
) -> tuple[list[Bucket], Measurement]:
    """Every bucket of a task, as `circuit_buckets` makes them, kept; and M of both bare runs."""
    measured = Measurement.blank(len(task), lm.score_dtype)
    found: list[Bucket] = []

    def run(start: int, examples: tuple[int, ...]) -> None:
        bucket = record_bucket(lm, task, start, examples, cost)
        tape, read = bucket.tape, bucket.read
        measured.put(examples, read.of_state(tape.clean), read.of_state(tape.corrupted))
        found.append(bucket)

    halving(circuit_buckets(lm, task, share_prefix, most, mixed), run)
    return found, measured
