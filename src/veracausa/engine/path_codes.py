"""Parts of dictionaries on the way of a change: as senders, and as readers that pass on what they make of it.

A feature (a direction, an error, a skip) that reads is its encoder alone: it sees the base run's activations with the
change, and writes a(seen) − a(base) times what it writes. What the encoder reads of a block's attention or MLP is that
part's output, run on the changed stream; of all it changes only the named part is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from veracausa.dictionaries.code import Code
from veracausa.dictionaries.site import Site
from veracausa.dictionaries.words import ERROR, SKIP
from veracausa.engine.coded import own_change, read_by, site_of, written_at
from veracausa.engine.patches import Where, stream_change, where

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from veracausa.anatomy import Decoder
    from veracausa.anatomy.graph import Graph
    from veracausa.engine.tape import State

#: What of a block an encoder stands behind: the stream that enters it, that between its attention and its MLP, its
#: attention, its MLP.
Behind = Literal["stream", "middle", "attention", "mlp"]
#: Encoders that look at the stream itself, so that no block is run for them.
STREAMS: tuple[Behind, ...] = ("stream", "middle")


@dataclass(frozen=True)
class Coded:
    """One part of a dictionary by its kind, layer and index; `reads`, `writes`: the sites of its dictionary."""

    kind: str
    layer: int
    index: int
    reads: Site
    writes: Site

    @property
    def behind(self) -> Behind:
        """What its encoder stands behind."""
        return {"r": "stream", "mid": "middle", "a": "attention", "z": "attention"}.get(self.writes.kind, "mlp")  # type: ignore[return-value]

    @property
    def passes_on(self) -> bool:
        """Whether it can be a reader: it explains what it reads, or one MLP's output by its input."""
        mlp = self.reads.kind in ("n", "mid") and self.writes.kind == "m" and self.reads.layer == self.writes.layer
        return mlp or self.reads == self.writes

    def read_at(self, graph: Graph) -> int:
        """The place of the stream that it looks at (see `anatomy.graph`)."""
        return 2 * self.layer + (self.behind in ("middle", "mlp") and not graph.parallel)

    def written_at(self, graph: Graph) -> int:
        """The place of the stream from which on its write is seen."""
        if self.behind in STREAMS:
            return self.read_at(graph)
        return 2 * self.layer + (2 if self.behind == "mlp" or graph.parallel else 1)


#: Parts with their first and last position, counted from the tape's start.
Placed = Sequence[tuple[Coded, int, int]]


def sent_by(
    decoder: Decoder,
    base: State,
    other: State | None,
    part: Coded,
    example: Int[Tensor, " rows"],
    share: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows positions width"]:
    """Change of what a part writes in its own layer between two runs (other None: from its own to nothing).

    `share`: each row goes so much of that way; behind a post-norm that is not so much of the change.
    """
    change = _by(decoder, part, sent_change(base, other, part))[example]
    if share is not None:
        change = share.to(change)[:, None, None] * change
    return _written(decoder, base, part, change, example, 0)


def sent_change(base: State, other: State | None, part: Coded) -> Float[Tensor, "examples positions site"]:
    """Change of the whole site that a part is of between two runs (other None: to nothing)."""
    old = site_of(base, part.kind, part.layer)
    return (torch.zeros_like(old) if other is None else site_of(other, part.kind, part.layer)) - old


def moving_parts(base: State, other: State | None, part: Coded) -> Bool[Tensor, "examples positions"]:
    """Where a part differs between two runs (other None: from 0)."""
    numbers = base.codes[part.kind, part.layer].numbers(part.index)
    old = site_of(base, part.kind, part.layer)[..., numbers]
    new = torch.zeros_like(old) if other is None else site_of(other, part.kind, part.layer)[..., numbers]
    return (new != old).any(-1)


def passed_on(
    decoder: Decoder,
    base: State,
    parts: Placed,
    delta: Float[Tensor, "rows positions site"],
    example: Int[Tensor, " rows"],
    offset: int,
) -> Float[Tensor, "rows positions width"]:
    """What some parts of one site write of a change of that site, each at its own positions.

    `offset`: the first position of the rows, counted from the tape's start.
    """
    found = torch.zeros(())
    for part, first, last in parts:
        change = _by(decoder, part, delta).clone()
        change[:, : max(first - offset, 0)], change[:, max(last + 1 - offset, 0) :] = 0, 0
        found = found.to(change) + change
    return _written(decoder, base, parts[0][0], found, example, offset)


def site_change(
    code: Code,
    base: State,
    seen: tuple[Tensor, Tensor],
    of: Int[Tensor, " sources"],
    late: int,
) -> Float[Tensor, "sources positions site"]:
    """Change of a code's site where what it reads and explains is `seen`, at the last `late` positions (negative).

    What is not changed at all gives 0: both are encoded in batches of one shape.
    """
    read, explained = (read_by(base, site)[of, late:] for site in (code.dictionary.reads, code.dictionary.writes))
    return code.site(*seen) - code.site(read, explained)


def _by(decoder: Decoder, part: Coded, delta: Tensor) -> Float[Tensor, "rows positions explained"]:
    """Change of what a dictionary explains, by one part of its site's change."""
    code = decoder.codes[part.kind, part.layer]
    numbers = code.numbers(part.index)
    own = delta[..., numbers]
    return own * code.weight[numbers.start] if numbers.stop <= code.features else own


def _written(
    decoder: Decoder, base: State, part: Coded, change: Tensor, example: Tensor, offset: int
) -> Float[Tensor, "rows positions width"]:
    """Change of the stream for one of what a dictionary explains."""
    at, code = where(decoder, part.kind, part.layer), decoder.codes[part.kind, part.layer]  # type: ignore[arg-type]
    return stream_change(
        decoder, base, at, example, offset, own_change(decoder, code, change, base.residual[part.layer])
    )


def places_written(decoder: Decoder, part: Coded) -> list[int]:
    """The places of the stream from which on what a part writes is seen: several, if it writes to later layers, too."""
    layers = decoder.codes[part.kind, part.layer].dictionary.layers if is_feature(part) else range(0)
    return [part.written_at(decoder.graph), *(2 * later + 2 for later in layers[1:])]


def is_feature(part: Coded) -> bool:
    """Whether it is a feature, not an error or a skip."""
    return part.index not in (ERROR, SKIP)


def onward_writes(
    decoder: Decoder,
    base: State,
    part: Coded,
    delta: Float[Tensor, "rows positions site"],
    example: Int[Tensor, " rows"],
    offset: int,
    span: tuple[int, int],
) -> list[tuple[int, Callable[[], Float[Tensor, "rows positions width"]]]]:
    """What a feature of a cross-layer transcoder writes to later layers of a change of its site: place → change.

    `offset`: the first position of `delta`, `span`: the first and last that it is at, counted from the tape's start;
    rows are given all positions of the tape.
    """
    places = places_written(decoder, part)[1:]
    if not places:
        return []
    code, (first, last) = decoder.codes[part.kind, part.layer], span
    number = code.numbers(part.index).start
    moved = delta.new_zeros(len(delta), base.residual[0].shape[1], 1)
    moved[:, offset:] = delta[..., number : number + 1]
    moved[:, :first], moved[:, last + 1 :] = 0, 0

    def change(later: int) -> Tensor:
        written = (moved * code.row(number, later)).to(torch.promote_types(base.residual[later].dtype, torch.float32))
        return _written_later(decoder, base, code, later, written, example)

    return [(place, partial(change, place // 2 - 1)) for place in places]


def _written_later(
    decoder: Decoder, base: State, code: Code, later: int, written: Tensor, example: Tensor
) -> Float[Tensor, "rows positions width"]:
    """Change of the stream for what features of a cross-layer transcoder write to a later layer."""
    block = decoder.blocks[later]
    if written_at(code) == "behind mlp":
        return block.behind(written)
    return stream_change(decoder, base, Where("mlp", later, (later + 1, False)), example, 0, written * block.mlp_scale)


def pulled_back(
    decoder: Decoder, base: State, part: Coded, slope: Tensor, example: Tensor
) -> Float[Tensor, "rows positions explained"]:
    """The slope at what a dictionary explains, given that at the stream: behind a post-norm, at the base run."""
    return _pulled(
        lambda change: _written(decoder, base, part, change, example, 0), slope, decoder.codes[part.kind, part.layer]
    )


def pulled_later(
    decoder: Decoder, base: State, part: Coded, slope: Callable[[int], Tensor], example: Tensor
) -> dict[int, Float[Tensor, "rows positions width"]]:
    """Later layer → the slope at what its features write there; `slope(place)`: at the stream."""
    code, found = decoder.codes[part.kind, part.layer], {}
    for later in code.dictionary.layers[1:]:
        write = partial(_written_later, decoder, base, code, later, example=example)
        found[later] = _pulled(write, slope(2 * later + 2), code)
    return found


def _pulled(write: Callable[[Tensor], Tensor], slope: Tensor, code: Code) -> Tensor:
    """The slope at what a dictionary writes, given that at what `write` makes of it."""
    still = slope.new_zeros(*slope.shape[:2], code.weight.shape[1], dtype=code.weight.dtype)
    with torch.enable_grad():
        found: Tensor = torch.autograd.functional.vjp(write, still, slope.to(write(still).dtype))[1]
    return found
