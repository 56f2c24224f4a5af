"""Slopes along paths: what a change of the stream does to the metric by some edges alone, to first order.

The slope at a place of the stream is, by what comes behind it (see `units.paths`),

* nothing more:     ∂M/∂stream, all that follows live; `->logits`: ∂M/∂(final stream), whatever lies between;
* readers R:        ∂/∂stream Σ_{r ∈ R} ⟨slope behind r, write of r⟩, along the stream alone (`->`), or through all
                    heads and MLPs between (`->...->`).

A path's estimate is its sender's change times the slope where it is written. One backward pass serves all senders.
What a reader writes is told by the engine's own parts (`engine.path_reads`, `engine.path_codes`), at the base run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.graph import K, Q, V
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded import read_by, site_of
from veracausa.engine.path_codes import (
    STREAMS,
    onward_writes,
    passed_on,
    pulled_back,
    pulled_later,
    sent_by,
    sent_change,
)
from veracausa.engine.path_reads import HeadReads, Heard
from veracausa.engine.reader_change import Reading
from veracausa.engine.routes import Read, Station
from veracausa.engine.tape import State
from veracausa.engine.writes import arriving, rescaled, with_bias, write_changes

if TYPE_CHECKING:
    from jaxtyping import Float

#: What comes behind a station: (whether its change is live, readers, whether theirs is live, readers, …).
Onward = tuple[Any, ...]
#: Mean gradients of the sites of dictionaries along a path, by kind and layer.
MeanSlopes = Mapping[tuple[str, int], "Float[Tensor, 'examples positions site']"]


def onward_of(end: Station) -> Onward:
    """What comes behind the sender of a path, by its last station."""
    sender, *readers = end.chain
    return (sender.live, *(one for reader in readers for one in (reader.reads, reader.live)))


def passes(onwards: Iterable[Onward], averaged: bool) -> int:
    """Backward passes that slopes take which are asked for once and kept.

    `averaged`: mean slopes stand for the metric's where the last readers are parts of dictionaries.
    """
    every = dict.fromkeys(tail for onward in onwards for tail in _tails(onward, averaged))
    return sum(len(one) == 1 or one[0] for one in every)


def _tails(onward: Onward, averaged: bool) -> Iterator[Onward]:
    """What is asked for of what comes behind a station: itself, and what that is made of."""
    if len(onward) > 1 and not onward[1]:  # readers before the first position that can change
        return
    yield onward
    if len(onward) > 1 and not (averaged and len(onward) == 3):
        yield from _tails(onward[2:], averaged)


@dataclass(eq=False)
class PathSlopes:
    """Slopes of one bucket's base run, which was recorded with its graph.

    `own`: the same run without a graph; `other`: the one that senders' writes come from (None: they write nothing).
    `places`: of the stream, where slopes are asked for. `means`: in the place of the metric's slope at the last
    readers, which then are parts of dictionaries (integrated gradients). The attention function must be
    `attention.SUFFIX`.
    """

    bucket: Bucket
    base: State
    own: State
    other: State | None
    places: tuple[int, ...]
    means: MeanSlopes = field(default_factory=dict)
    _found: dict[Onward, dict[int, Tensor]] = field(default_factory=dict)
    _sent: dict[Any, Tensor] = field(default_factory=dict)

    def score(self, end: Station) -> Float[Tensor, " examples"]:
        """The estimate of a path, by its last station, in every example."""
        sender, onward = end.chain[0], onward_of(end)
        found = self.own.last.new_zeros(len(self.bucket.every), dtype=self.bucket.lm.score_dtype)
        for place, change in self._changes(sender):
            found = found + (change * self.at(onward, place)).flatten(1).sum(1).to(found)
        return found

    def at(self, onward: Onward, place: int) -> Float[Tensor, "examples positions width"]:
        """The slope at a place of the stream, given what comes behind it."""
        if onward not in self._found:
            self._found[onward] = self._slopes(onward)
        return self._found[onward][place]

    # ---- slopes -----------------------------------------------------------------------------------------------------

    def _slopes(self, onward: Onward) -> dict[int, Tensor]:
        live, *rest = onward
        if not rest:
            metric = self.bucket.read.of_state(self.base).sum()
            if live:
                return self._back(metric)
            return self._along({2 * self._end: self._gradients(metric, [2 * self._end])[0]})
        reads, then = rest[0], tuple(rest[1:])
        if not reads:  # all of them are before the first position that can change
            return dict.fromkeys(self.places, torch.zeros_like(self.own.residual[0]))
        if live:
            return self._back(sum((self.weighed(read, then) for read in reads), torch.zeros(())))
        graph = self.bucket.lm.graph
        leaves = {place: self.stream(self.own, place).requires_grad_() for place in {read.at(graph) for read in reads}}
        weighed = sum((self.weighed(read, then, leaves[read.at(graph)]) for read in reads), torch.zeros(()))
        return self._along(dict(zip(leaves, torch.autograd.grad(weighed, [*leaves.values()]), strict=True)))

    def _along(self, slopes: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Slopes at every place, of those at some places: along the stream alone."""
        decoder = self.bucket.lm.decoder

        def at(first: int) -> Tensor:
            scaled = (
                slope * decoder.scale_between(first // 2, place // 2)
                for place, slope in slopes.items()
                if first <= place  # what is written behind a reader is not seen by it
            )
            return sum(scaled, torch.zeros(()))

        return {first: at(first) for first in self.places}

    @property
    def _end(self) -> int:
        return self.bucket.lm.layers

    @staticmethod
    def stream(state: State, place: int) -> Float[Tensor, "examples positions width"]:
        """The stream of a run at a place (see `anatomy.graph`)."""
        layer, behind = divmod(place, 2)
        found = (state.middle if behind else state.residual)[layer]
        return found if found.requires_grad else found.clone()

    def _back(self, weighed: Tensor) -> dict[int, Tensor]:
        """The gradient at every place."""
        return dict(zip(self.places, self._gradients(weighed, self.places), strict=True))

    def _gradients(self, weighed: Tensor, places: Sequence[int]) -> list[Tensor]:
        """∂(weighed)/∂stream at some places; a backward pass through the recorded run."""
        bucket, beside = self.bucket, [place + 1 for place in places if self._apart and place % 2]
        wanted = [self.stream(self.base, place) for place in (*places, *beside)]
        grads = torch.autograd.grad(weighed, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        bucket.cost.backward += len(bucket.tape.examples) * bucket.positions * bucket.lm.layers
        past = dict(zip(beside, grads[len(places) :], strict=True))
        return [own + past[place + 1] if place + 1 in past else own for place, own in zip(places, grads, strict=False)]

    @property
    def _apart(self) -> bool:
        """Whether what an MLP reads is recorded apart from the stream that goes on beside it."""
        return self.bucket.lm.decoder.anatomy.joins_rows

    # ---- senders ----------------------------------------------------------------------------------------------------

    def forget(self, onward: Onward) -> None:
        """Let go of the slopes of what will not be asked for again."""
        self._found.pop(onward, None)

    def _changes(self, sender: Station) -> Iterator[tuple[int, Float[Tensor, "examples positions width"]]]:
        """(place, change of the stream there) of what a sender writes; behind a post-norm, of a part of a dictionary
        the direction in which it begins to change."""
        graph = self.bucket.lm.graph
        for writer, first, last in sender.sends:
            place = int(graph.writer_order[writer])
            change = arriving(self.bucket.lm.decoder, place // 2, [writer], self.change(writer))
            yield place, within(change, first, last)
        for part, first, last in sender.coded:
            yield part.written_at(graph), within(self.change(part), first, last)
            moved = (sent_change(self.own, self.other, part), self.bucket.every, 0, (first, last))
            for place, written in onward_writes(self.bucket.lm.decoder, self.own, part, *moved):
                yield place, written().detach()

    @torch.no_grad()
    def change(self, sends: Any) -> Float[Tensor, "examples positions width"]:
        """Of a writer, by its number, or of a part of a dictionary."""
        decoder, every = self.bucket.lm.decoder, self.bucket.every
        if sends not in self._sent:
            if isinstance(sends, int):
                found = write_changes(decoder, self.own, self.other, torch.full_like(every, sends), every)
            else:

                def moved(share: Tensor) -> Tensor:
                    return sent_by(decoder, self.own, self.other, sends, every, share)

                start = self.own.last.new_zeros(len(every))
                with torch.enable_grad():
                    found = torch.autograd.functional.jvp(moved, start, torch.ones_like(start))[1]
            self._sent[sends] = found.detach()
        return self._sent[sends]

    @torch.no_grad()
    def products(self, onward: Onward, part: Any) -> Float[Tensor, "examples positions site"]:
        """Slope times change of every number of the site of a dictionary, which `part` is of."""
        state, kind, layer = self.own, part.kind, part.layer
        code, own = self.bucket.lm.decoder.codes[kind, layer], site_of(state, kind, layer)
        new = torch.zeros_like(own) if self.other is None else site_of(self.other, kind, layer)
        how = self.bucket.lm.decoder, state, part
        slope = pulled_back(*how, self.at(onward, part.written_at(self.bucket.lm.graph)), self.bucket.every)
        later = pulled_later(*how, lambda place: self.at(onward, place), self.bucket.every)
        return code.pulled(slope, later) * (new - own)

    # ---- readers ----------------------------------------------------------------------------------------------------

    def weighed(self, read: Read, then: Onward, stream: Tensor | None = None) -> Float[Tensor, ""]:
        """⟨slope behind some readers, what they write⟩, where they see a stream (None: the recorded one).

        Its value is 0 where that is the base run's; its gradient is what counts.
        """
        return self.made(read, then, stream, self.encoded(read, stream) if read.coded else None).sum()

    def made(self, read: Read, then: Onward, stream: Tensor | None, delta: Tensor | None) -> Float[Tensor, " examples"]:
        """The same in every example; `delta`: of parts of a dictionary, its change, as `encoded` tells it."""
        if delta is not None and self.means and then == (True,):
            slope = self.means[read.coded[0][0].kind, read.coded[0][0].layer]
            numbers = [(self._code(read).numbers(one.index), first, last) for one, first, last in read.coded]
            each = [(slope[:, a : b + 1, own] * delta[:, a : b + 1, own]).flatten(1).sum(1) for own, a, b in numbers]
            return torch.stack(each).sum(0)
        if delta is not None:
            change = passed_on(self.bucket.lm.decoder, self.own, read.coded, delta, self.bucket.every, 0)
        else:
            change = (self._fed if read.mlp else self._attended)(read, stream, bool(then[0]))
        place = read.seen_from(self.bucket.lm.graph)
        if not read.coded and place // 2 > read.layer:
            change = self.bucket.lm.decoder.blocks[read.layer].behind(change)
        found = (change * self.at(then, place)).flatten(1).sum(1)
        return found if delta is None else found + self._onward(read, then, delta)

    def _onward(self, read: Read, then: Onward, delta: Tensor) -> Tensor | float:
        """The same of what features write to later layers."""
        decoder, every = self.bucket.lm.decoder, self.bucket.every
        return sum(
            (written() * self.at(then, place)).flatten(1).sum(1)
            for part, *span in read.coded
            for place, written in onward_writes(decoder, self.own, part, delta, every, 0, (span[0], span[1]))
        )

    def _code(self, read: Read) -> Any:
        part = read.coded[0][0]
        return self.bucket.lm.decoder.codes[part.kind, part.layer]

    def encoded(self, read: Read, stream: Tensor | None) -> Float[Tensor, "examples positions site"]:
        """Change of the site of a dictionary that sees a stream."""
        code = self._code(read)
        sites = (code.dictionary.reads, code.dictionary.writes)
        before = code.site(*(read_by(self.own, site) for site in sites))
        seen = [read_by(self.base, site) for site in sites] if stream is None else self._explained(read, code, stream)
        found: Tensor = code.site(*seen) - before
        return found

    def _explained(self, read: Read, code: Any, stream: Tensor) -> tuple[Tensor, Tensor]:
        """What a dictionary reads and explains where its block sees a stream."""
        part, block = read.coded[0][0], self.bucket.lm.decoder.blocks[min(read.layer, self._end - 1)]
        if part.behind in STREAMS:
            return stream, stream
        if part.behind == "mlp":
            given = block.mlp_norm(stream)
            output = block.run_mlp(given)
            if code.dictionary.reads.kind == "mid":
                return stream, output
            return (given if code.dictionary.transcodes else output), output
        heads = range(self.bucket.lm.heads)
        every = [(kind, head, 0, self.bucket.positions - 1) for head in heads for kind in (Q, K, V)]
        reads, before, moved = self._heads(read.layer, every, stream)
        if part.writes.kind == "z":
            z = (before + moved).flatten(2)
            return z, z
        output = self.own.sites["attention"][read.layer]
        output = output + reads.through(moved, reads.filled).to(output.dtype)
        return output, output

    def _fed(self, read: Read, stream: Tensor | None, live: bool) -> Tensor:
        """What an MLP writes."""
        block, old = self.bucket.lm.decoder.blocks[read.layer], self.own.sites["mlp"][read.layer]
        new = self.base.sites["mlp"][read.layer] if stream is None else block.run_mlp(block.mlp_norm(stream))
        moved = sum(within(new - old, first, last) for *_, first, last in read.seen)
        found: Tensor = block.mlp_write(old + moved) - block.mlp_write(old)
        return found

    def _attended(self, read: Read, stream: Tensor | None, live: bool) -> Tensor:
        """What heads write; behind a post-norm with what that does to other heads, if what follows is live."""
        decoder, layer = self.bucket.lm.decoder, read.layer
        reads, before, moved = self._heads(layer, read.seen, stream)
        change = reads.through(moved, reads.filled)
        block, old = decoder.blocks[layer], self.own.sites["attention"][layer]
        if block.attention_post_norm is None:
            return change
        new = old + change.to(old.dtype)
        if live:
            every: Tensor = block.attention_write(new) - block.attention_write(old)
            return every
        part, own = reads.through(moved, reads.reading), reads.through(before, reads.reading)
        own = with_bias(decoder, block, own, reads.readers)
        return rescaled(decoder, block, own + part, new) - rescaled(decoder, block, own, old)

    def _heads(self, layer: int, seen: Any, stream: Tensor | None) -> tuple[HeadReads, Tensor, Tensor]:
        """z of heads some of whose queries, keys and values see a stream, and its change."""
        bucket, every, settings = self.bucket, self.bucket.every, self.own.attention[layer]
        reads = HeadReads.of(bucket.lm.decoder, layer, [seen], [len(every)], bucket.positions, every.device)
        context: Heard = tuple(self.own.sites[site][layer] for site in ("queries", "keys", "values"))  # type: ignore[assignment]
        before = reads.values(context, every, settings)
        other = self._heard(layer, stream)
        return reads, before, reads.mixed(context, every, other, every, settings) - before

    def _heard(self, layer: int, stream: Tensor | None) -> Heard:
        """Queries, keys and values of a stream, at the positions that are run."""
        names = ("queries", "keys", "values")
        if stream is None:
            found = [self.base.sites[site][layer][:, :, -self.bucket.positions :] for site in names]
        else:
            own = Reading(self.bucket.lm.decoder, self.bucket.tape, self.own)
            read = own.read(layer, stream, self.bucket.every)
            found = [read[site] for site in names]
        return found[0], found[1], found[2]


@contextmanager
def stopped(tensors: Sequence[Tensor]) -> Iterator[None]:
    """No gradient comes past some tensors of a graph inside."""
    handles = [tensor.register_hook(torch.zeros_like) for tensor in tensors]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def within(change: Tensor, first: int, last: int) -> Tensor:
    """A change at the positions `first` … `last` alone."""
    if first <= 0 and last >= change.shape[1] - 1:
        return change
    kept = torch.zeros(change.shape[1], 1, dtype=change.dtype, device=change.device)
    kept[max(first, 0) : max(last + 1, 0)] = 1
    return change * kept


def detached(state: State) -> State:
    """A recorded run without its graph."""

    def of(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.detach() for tensor in tensors]

    parts: dict[str, Any] = {name: of(getattr(state, name)) for name in ("residual", "middle", "keys", "values")}
    return replace(state, **parts, sites={site: of(each) for site, each in state.sites.items()}, coded={})
