"""How much memory a call will take beside the weights: the largest tape, one chunk of rows, and the results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.engine.budget import chunk_bytes, examples_per_batch, tape_bytes
from veracausa.engine.patches import OF_MLP, kept_width
from veracausa.engine.sharing import starts

if TYPE_CHECKING:
    from veracausa.engine.work import Work
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Kinds of work whose chunks keep the graph of all blocks.
_BACKWARD = ("gradients", "paths", "edge gradients", "locating")
#: … and those that need what every writer writes and every reader reads.
_EDGES = ("edges", "edge gradients", "circuits")


def peak(work: Work) -> int:
    """Bytes at most, about: by the formulas that decide how many pairs and rows run at once (`engine.budget`)."""
    lm, task = work.lm, work.task
    sites = _sites(work)
    at_once = examples_per_batch(lm, task, sites)
    groups: dict[tuple[int, int], int] = {}
    for start, length in zip(starts(lm.decoder, task), task.lengths, strict=True):
        groups[start, length] = groups.get((start, length), 0) + 1
    tape = min(len(task), at_once) * tape_bytes(lm, max(task.lengths), sites)  # pairs of several lengths may be joined
    backward = work.kind in _BACKWARD
    chunk = max(chunk_bytes(lm, length - start, length, backward) for start, length in groups)
    return tape + chunk + _results(work, lm, task)


def _sites(work: Work) -> int:
    """Floats a token that a tape keeps of each layer beside the stream."""
    lm, kind = work.lm, work.kind
    units = getattr(getattr(work, "units", None), "kind", None)
    if units == "patterns":
        return lm.heads * max(work.task.lengths) + lm.width
    if units in (*OF_MLP, "routers"):
        return kept_width(lm.decoder, "router" if units == "routers" else "experts") + lm.width
    if kind == "neurons":
        return lm.neurons + lm.width
    heads = lm.heads * lm.decoder.head_dim
    return 4 * heads + (lm.heads + 4) * lm.width if kind in _EDGES else heads + lm.width


def _results(work: Work, lm: Model, task: Task) -> int:
    """A number for every pair and unit (or circuit), twice: found, and done or not."""
    units = next((getattr(work, name) for name in ("table", "units", "masks") if hasattr(work, name)), ())
    return 2 * len(task) * len(units) * lm.score_dtype.itemsize
