"""Both runs of a bucket, recorded so that slopes of paths can be taken (`estimates.path_slopes`), and what that takes.

A token of a pair takes its graph, slopes at every place where some are asked for, and what each sender writes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.footprint import Footprint
from veracausa.engine.patches import sites_for
from veracausa.engine.reader_change import SITES
from veracausa.engine.session import Session
from veracausa.estimates.mean_slopes import mean_slopes
from veracausa.estimates.path_slopes import PathSlopes, detached

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def recorded_sites(kinds: Collection[str]) -> tuple[str, ...]:
    """What is recorded of a run whose slopes are asked for; `kinds`: of the parts of dictionaries that paths name."""
    return tuple(dict.fromkeys([*SITES, *(site for kind in sorted(kinds) for site in sites_for(kind))]))  # type: ignore[arg-type]


def slope_buckets(
    lm: Model, task: Task, share: bool, kinds: Collection[str], places: int, senders: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Groups of pairs that are recorded together: as many as fit with their graphs and all that is told of them."""
    shapes, longest = Footprint.of(lm), max(map(len, task.prompts))
    kept = shapes.held(recorded_sites(kinds), longest)
    beside = shapes.graph(longest, True) + shapes.back(longest, True) + told(shapes, places, senders)
    return buckets(lm.decoder, task, share, examples_per_batch(lm, task, kept, beside + read(lm, kinds)))


def read(lm: Model, kinds: Collection[str]) -> int:
    """Bytes of a token of a pair: all that dictionaries of some kinds read in both of its runs."""
    return (
        2
        * lm.score_dtype.itemsize
        * sum(code.features + lm.width for (kind, _), code in lm.decoder.codes.items() if kind in kinds)
    )


def told(shapes: Footprint, places: int, senders: int) -> int:
    """Bytes of a token: slopes at some places, of the metric and of one reader, and what senders write."""
    return (2 * places + senders) * shapes.width * shapes.wide


def recorded_slopes(
    call: Session,
    start: int,
    examples: tuple[int, ...],
    *,
    kinds: Collection[str],
    places: Collection[int],
    read: Collection[tuple[str, int]],
    noising: bool,
    zero: bool,
    nodes: int,
    task: Task | None = None,
) -> PathSlopes:
    """Both runs of a bucket, the patched one with its graph.

    `kinds`: of the parts of dictionaries that paths name; `places`: of the stream, where slopes are asked for; `read`:
    dictionaries (kind, layer) whose mean gradients at `nodes` points stand for the metric's.
    """
    sites = recorded_sites(kinds)
    grad: Literal["clean", "corrupted"] = "clean" if noising else "corrupted"
    bucket = Bucket.record(call.lm, task or call.task, start, examples, call.cost, sites=sites, grad=grad)
    base, other = bucket.runs(noising)
    own = detached(base)
    means = mean_slopes(call, _without_graph(bucket, own, noising), read, noising, zero, nodes) if read else {}
    return PathSlopes(bucket, base, own, None if zero else other, tuple(sorted(places)), means)


def _without_graph(bucket: Bucket, own: Any, noising: bool) -> Bucket:
    """A bucket whose patched run is this one; nothing is known of it from runs of the other."""
    tape = bucket.tape
    side = {"clean": own} if noising else {"corrupted": own}
    return replace(bucket, tape=replace(tape, **side, ends={}, checked=set()))
