"""Information flow routes (IFR, 2403.00824): how much of what a reader sees comes from each writer, in the clean run.

    near(u, y_t) = max(0, ‖y_t‖₁ − ‖y_t − w_{u,t}‖₁),   share_v(u, t) = near(u, y_t) / Σ_u′ near(u′, y_t)

y_t is what reader v takes from the stream at position t (before its norm), w_{u,t} writer u's write there. Constants of
the stream (output biases) are in y, but are no writer. A reader that nothing comes near has shares of 0.

The score of an edge is the mean of its shares over the positions at which its reader is read: all of the clean prompt,
for the logits the last alone. So the edges into a reader sum to 1 on every pair, whatever its length. (Summed over
positions instead, long prompts would count more, and every edge into the logits n times less than its like elsewhere.)
All readers of a block's attention see the same stream, so a writer's edges to them have one and the same share. No
gradient, no metric and no corrupted prompt comes in: a share says what is there, not what it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import LOGITS
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch, free_memory
from veracausa.engine.footprint import Footprint
from veracausa.engine.memory import memory_errors
from veracausa.engine.session import Session, session
from veracausa.engine.stretches import Stretch, stretches
from veracausa.engine.tape import State
from veracausa.engine.validate_edges import require_edges
from veracausa.engine.work import recorded_runs
from veracausa.engine.writes import SITES, arriving, writes_until
from veracausa.scores.scores import Scores, assemble
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class FlowWork:
    """Shares of edges, as `vc.attribute(lm, task, units="edges", method="ifr")` gives them.

    The scores are magnitudes only: [examples, edges], each in [0, 1]; of an edge at one position, that position's part
    of the mean, so that positions sum to the edge. Cost: one pass over the clean prompts, and one over the corrupted
    ones for the header's M.
    """

    lm: Model
    task: Task
    units: Edges
    kind: ClassVar[str] = "edge gradients"
    alone: ClassVar[bool] = True

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are recorded together."""
        lm, task = self.lm, self.task
        kept = Footprint.of(lm).held(SITES)
        return buckets(lm.decoder, task, False, examples_per_batch(lm, task, kept))

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs, recorded."""
        return recorded_runs(self.lm, self.task, self.groups())

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Read the shares off the clean runs; see `attribute`."""
        lm, task = self.lm, self.task
        with session(lm, task, (len(task), len(self.units)), measured=False, show=show_progress) as call:
            groups = self.groups()
            with torch.no_grad(), call.bar("information flow", self.tokens()):
                call.rest(groups, partial(self._bucket, call))
        call.measured.require_gap(task)
        return assemble(
            call,
            call.values,
            self.units,
            method="ifr",
            settings={"direction": "noising", "unit": "share of input"},
            signed=False,
            notes=("shares of what a reader sees in the clean run: what is there, not what it does",),
        )

    def _bucket(self, call: Session, start: int, examples: tuple[int, ...]) -> None:
        """Shares of one bucket."""
        bucket = Bucket.record(call.lm, call.task, start, examples, call.cost, sites=SITES)
        require_edges(call.lm, bucket.tape)
        clean, corrupted = bucket.runs(noising=True)
        call.measured.put(examples, bucket.read.of_state(clean), bucket.read.of_state(corrupted))
        with memory_errors(f"The writes of {len(examples)} prompts"):
            token = Footprint.of(call.lm).writes
            call.put(list(examples), _of_edges(call.lm.decoder, clean, self.units, token).to("cpu"))


def shares(decoder: Decoder, state: State) -> Iterator[tuple[int, int, Float[Tensor, "writers examples positions"]]]:
    """(first reader, one behind the last, shares of the writers before them) of every place of the stream."""
    graph = decoder.graph
    written = writes_until(decoder, state, graph.writers)
    places: list[tuple[int, int, Tensor]] = []
    for layer in range(decoder.layers):
        at = graph.block(layer)
        places.append((at.attention.start, at.attention.stop, state.residual[layer]))
        places.append((at.mlp_reader.start, at.mlp_reader.stop, state.middle[layer]))
    places.append((graph.readers - 1, graph.readers, state.residual[-1]))
    for first, behind, stream in places:
        if first == behind:  # a block has no such sublayer
            continue
        before = int((graph.writer_order <= graph.reader_order[first]).sum())
        own = arriving(decoder, int(graph.reader_layer[first]), range(before), written[:before])
        seen = stream.to(own.dtype)
        near = (seen.abs().sum(-1) - (seen - own).abs().sum(-1)).clamp_min(0)
        total = near.sum(0)
        yield first, behind, near / torch.where(total > 0, total, torch.ones_like(total))


def _of_edges(decoder: Decoder, state: State, edges: Edges, token: int) -> Float[Tensor, "examples edges"]:
    """Scores of a table's edges on the examples of one recorded run; `token`: bytes of all writes at a position."""
    positions, device = state.residual[0].shape[1], state.residual[0].device
    values = state.residual[0].new_zeros(len(state.residual[0]), len(edges), dtype=torch.float64)
    for at in stretches(positions, 4 * len(values) * token, free_memory(device)):
        for first, behind, share in shares(decoder, at.state(state)):
            listed = np.flatnonzero((edges.reader >= first) & (edges.reader < behind))
            _put(values, edges, listed, _weighed(share, at, decoder.graph.reader_kind[first] == LOGITS), at)
    values[:, torch.as_tensor(edges.position >= positions, device=device)] = float("nan")
    return values


def _weighed(share: Tensor, at: Stretch, logits: bool) -> Float[Tensor, "writers examples positions"]:
    """Each position's part of the mean; the logits are read at the last position alone."""
    if not logits:
        return share / at.of
    last = torch.zeros_like(share)
    if at.behind == at.of:
        last[..., -1:] = share[..., -1:]
    return last


def _put(values: Tensor, edges: Edges, listed: np.ndarray, share: Tensor, at: Stretch) -> None:
    """Add some positions' part of the edges that are listed."""
    if edges.positional:
        listed = listed[(edges.position[listed] >= at.first) & (edges.position[listed] < at.behind)]
    own = share[torch.as_tensor(edges.writer[listed], device=share.device)].to(values)
    if edges.positional:
        own = own[torch.arange(len(listed), device=share.device), :, edges.position[listed] - at.first]
    else:
        own = own.sum(-1)
    values[:, torch.as_tensor(listed, device=share.device)] += own.T
