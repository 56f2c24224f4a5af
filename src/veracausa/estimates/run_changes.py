"""Estimates of paths whose last readers are run, not told by a slope: what the metric makes of them alone is one.

    E(u → d) ≈ ḡ_d · (d(x + Δ_u) − d(x)),      d(x + Δ_u) − d(x) = ∫₀¹ ∂d/∂u(x + α Δ_u) dα · Δ_u

Integrated gradients along the way on which u alone goes to its replacement, everything before d moving with it where it
is live, give exactly that difference, however many points are taken. So no point is: the path is run once up to where d
reads (`engine.path_forward.run_into`), and d is what it makes of that. One run of a sender serves all that read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.graph import Graph
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.memory import memory_errors
from veracausa.engine.path_codes import STREAMS, Behind
from veracausa.engine.path_flow import Flow
from veracausa.engine.path_forward import run_into
from veracausa.engine.routes import Read, Routes, Station
from veracausa.estimates.path_slopes import PathSlopes

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model

#: What hands on the change that readers see, and which readers of it share what they make of a stream.
Seen = tuple[Station, Any]


def run_changes(
    slopes: PathSlopes, ends: Sequence[Station], still: Collection[tuple[Behind, int]] = ()
) -> Iterator[tuple[Station, Float[Tensor, " examples"]]]:
    """Each path, by its last station, with its estimate in every example; those with one parent in one run.

    `slopes`: with the metric's. `still`: see `run_into`.
    """
    bucket, by_parent = slopes.bucket, dict[Station, list[Station]]()
    for end in ends:
        if _runs(end):
            assert end.parent is not None  # that of a sender alone is no estimate
            by_parent.setdefault(end.parent, []).append(end)
        else:
            yield end, slopes.own.last.new_zeros(len(bucket.every), dtype=bucket.lm.score_dtype)
    size = max(1, rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length) // len(bucket.every))
    parents = sorted(by_parent, key=lambda parent: parent.begins(bucket.lm.graph))
    for first in range(0, len(parents), size):
        members = [end for parent in parents[first : first + size] for end in by_parent[parent]]
        changes = _Changes(slopes, _readers(members), {})
        with torch.no_grad(), memory_errors(f"A run of {len(bucket.every)} prompts"):
            run_into(bucket.lm.decoder, bucket.tape, slopes.own, slopes.other, members, changes.reached,
                     bucket.cost, still)  # fmt: skip
        yield from changes.found.items()


def blocks_run(graph: Graph, ends: Sequence[Station]) -> int:
    """Blocks that one example's runs of these paths take."""
    own = [end for end in ends if _runs(end)]
    if not own:
        return 0
    return Routes.of(graph, own, into=True).depth + sum(_costs(key) for key in _readers(own))


def tokens_at_once(lm: Model, positions: int, length: int, pairs: int, senders: int) -> int:
    """Tokens that are run at once, at most, of some pairs and senders."""
    return pairs * positions * min(senders, max(1, rows_per_chunk(lm, positions, length) // pairs))


def _runs(end: Station) -> bool:
    """Whether something of every station lies where the prompts can differ."""
    sender, *readers = end.chain
    return bool(sender.sends or sender.coded) and all(one.reads for one in readers)


def _readers(ends: Sequence[Station]) -> dict[Seen, list[tuple[Station, Read]]]:
    """Readers of some last stations; those of one dictionary that see one stream together."""
    found = dict[Seen, list[tuple[Station, Read]]]()
    for end in ends:
        for read in end.reads:
            key: Any = (read.coded[0][0].kind, read.layer, read.coded[0][0].behind) if read.coded else (end, read)
            found.setdefault((end.parent, key), []).append((end, read))  # type: ignore[arg-type]
    return found


def _costs(key: Seen) -> bool:
    """Whether readers take a block's attention or MLP: an encoder of the stream does not."""
    return key[1][-1] not in STREAMS


@dataclass(eq=False)
class _Changes:
    """The estimates of some paths while they are run: `found`, last station by last station."""

    slopes: PathSlopes
    readers: dict[Seen, list[tuple[Station, Read]]]
    found: dict[Station, Tensor]

    def reached(self, place: int, flow: Flow) -> None:
        """Add what readers at a place of the stream make of what they are handed."""
        bucket, own = self.slopes.bucket, self.slopes.own
        for key, entries in self.readers.items():
            if entries[0][1].at(bucket.lm.graph) != place:
                continue
            context = (own.middle if place % 2 else own.residual)[place // 2]
            stream = flow.handed(key[0], bucket.every, context)
            first = entries[0][1]
            delta = self.slopes.encoded(first, stream) if first.coded else None
            if _costs(key):
                bucket.cost.add(len(stream), bucket.positions)
            for end, read in entries:
                made = self.slopes.made(read, (end.live,), stream, delta).to(bucket.lm.score_dtype)
                self.found[end] = self.found[end] + made if end in self.found else made
