"""Runs in which a change is passed on along paths alone: see `engine.routes` for what a path is made of.

All rows go through the blocks together. In each block the stations' readers see what their parents hand on, the streams
of live stations are run as they are, and new changes join them; a station of one example is run once, whatever the
number of paths that go through it. Everything else is the base run, as recorded.

Cost: one token-layer a position for each (station, block) whose readers see a stream of their own (all readers that see
one stream: once), and one for each block of a live station; a chain into the logits costs its readers and nothing else.
Bound by matrix products: a reader's projections, and for live stations whole blocks, as in `engine.suffix`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.anatomy.graph import MIXER, K, Q, V
from veracausa.cost import Cost
from veracausa.dictionaries.code import Code
from veracausa.engine.attention import Past
from veracausa.engine.path_codes import STREAMS, Behind, onward_writes, passed_on, sent_by, sent_change, site_change
from veracausa.engine.path_flow import Changes, Entries, Flow, Sent, streamed
from veracausa.engine.path_reads import HeadReads, Heard
from veracausa.engine.reader_change import Reading
from veracausa.engine.routes import Read, Station
from veracausa.engine.tape import State, Tape
from veracausa.engine.writes import arriving, rescaled, with_bias, write_changes

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def run_paths(
    decoder: Decoder,
    tape: Tape,
    base: State,
    other: State | None,
    ends: Sequence[Station],
    example: Int[Tensor, " rows"],
    cost: Cost,
) -> Float[Tensor, "rows tail width"]:
    """Final residual of every row at the tape's tail: a row is a path, by its last station, and an example of the tape.

    `base`: the run that is patched; `other`: the one that senders' writes are taken from (None: they write nothing).
    The attention function must be `attention.SUFFIX`.
    """
    flow = Flow.of(base, tape.tail, decoder.graph, ends, example, partial(_sent, decoder, base, other))
    run = PathRun(decoder, tape, base, flow, cost)
    for layer in range(decoder.layers):
        run.block(layer)
    run.enter(decoder.layers)
    return flow.last(ends, example)


def run_into(
    decoder: Decoder,
    tape: Tape,
    base: State,
    other: State | None,
    ends: Sequence[Station],
    reached: Callable[[int, Flow], None],
    cost: Cost,
    still: Collection[tuple[Behind, int]] = (),
) -> None:
    """Run paths, in all examples of a tape, up to what the readers of their last stations see.

    `reached(place, flow)` is called at every place of the stream on the way: `flow.handed` then tells what is seen
    there. `still`: attentions and MLPs, by layer, which give streams that run what they gave the base run.
    """
    graph, many = decoder.graph, len(tape.examples)
    example = torch.arange(many, device=base.last.device).repeat(len(ends))
    every, sent = [end for end in ends for _ in range(many)], partial(_sent, decoder, base, other)
    flow = Flow.of(base, tape.length - tape.start, graph, every, example, sent, into=True)
    run = PathRun(decoder, tape, base, flow, cost, lambda place: reached(place, flow), frozenset(still))
    last = max(read.at(graph) for end in ends for read in end.reads)
    for layer in range((last + 1) // 2):
        run.block(layer)
    if last % 2 == 0:
        run.enter(last // 2)


def _sent(decoder: Decoder, base: State, other: State | None, station: Station, example: Tensor) -> list[Sent]:
    """Changes of the stream by what a sender writes, at its positions, with the place where each is seen first."""
    found, graph = list[Sent](), decoder.graph
    for writer, first, last in station.sends:
        place = int(graph.writer_order[writer])
        change = write_changes(decoder, base, other, torch.full_like(example, writer), example)
        change[:, :first], change[:, last + 1 :] = 0, 0
        written = arriving(decoder, place // 2, torch.full_like(example, writer), change)
        found.append((place, partial(_known, written)))
    for part, first, last in station.coded:
        change = sent_by(decoder, base, other, part, example)
        change[:, :first], change[:, last + 1 :] = 0, 0
        change = change.to(torch.promote_types(change.dtype, torch.float32))
        found.append((part.written_at(graph), partial(_known, change)))
        found += onward_writes(decoder, base, part, sent_change(base, other, part)[example], example, 0, (first, last))
    return found


def _known(change: Tensor) -> Tensor:
    """A change that is made already."""
    return change


@dataclass(eq=False)
class PathRun:
    """A run of some stations, block by block. `reached`, `still`: see `run_into`."""

    decoder: Decoder
    tape: Tape
    base: State
    flow: Flow
    cost: Cost
    reached: Callable[[int], None] = lambda place: None
    still: Collection[tuple[Behind, int]] = ()

    @property
    def positions(self) -> int:
        """Positions that are run."""
        return self.tape.length - self.tape.start

    def block(self, layer: int) -> None:
        """Bring all stations past a block."""
        flow, base, late = self.flow, self.base, self.flow.late(layer)
        self.enter(layer)
        attended, coded = list[tuple[Station, Tensor]](), self._encoded(layer, "attention")
        for part in self.decoder.blocks[layer].mixers:
            attended += self._mixer(part) if part.mixing == "mixer" else self._attention(layer)
        if not self.decoder.blocks[layer].parallel:
            flow.take([*attended, *coded], late, base.middle[layer])
            flow.send(2 * layer + 1)
            flow.take(self._encoded(layer, "middle"), late, base.middle[layer])
            self.reached(2 * layer + 1)
            attended, coded = [], []
        # where both are parallel, both read what enters the block
        behind = [*attended, *self._mlp(layer)], [*coded, *self._encoded(layer, "mlp")]
        block = self.decoder.blocks[layer]
        flow.scale(block.stream_scale)
        written = [(station, block.behind(change)) for station, change in behind[0]]
        flow.take([*written, *behind[1]], late, base.residual[layer + 1])

    def enter(self, layer: int) -> None:
        """What enters a block (L: the stream at the end): senders that are written there, dictionaries that read it."""
        self.flow.send(2 * layer)
        self.flow.take(self._encoded(layer, "stream"), self.flow.entered(layer), self.base.residual[layer])
        self.reached(2 * layer)

    def _nothing(self, layer: int) -> Changes:
        """A block without attention, or without an MLP, changes nothing there; streams that run go on as they are."""
        return []

    # ---- parts of dictionaries -------------------------------------------------------------------------------------

    def _encoded(self, layer: int, behind: Behind) -> Changes:
        """What parts of dictionaries pass on that see another stream."""
        every, found = self.flow.routes.encoding.get((layer, behind), []), list[tuple[Station, Tensor]]()
        for kind in dict.fromkeys(read.coded[0][0].kind for _, read in every):
            found += self._coded(layer, behind, [entry for entry in every if entry[1].coded[0][0].kind == kind])
        return found

    def _coded(self, layer: int, behind: Behind, entries: Entries) -> Changes:
        """The same of one dictionary."""
        code = self.decoder.codes[entries[0][1].coded[0][0].kind, layer]
        behind_attention = behind in ("middle", "mlp")
        late = self.flow.entered(layer) if behind == "stream" else self.flow.late(layer) if behind_attention else 0
        context = self.base.middle[layer] if behind_attention else self.base.residual[layer]
        streams, examples, source = self.flow.sources(entries, context[:, late:])
        delta = site_change(code, self.base, self._explained(layer, code, streams, examples, behind), examples, late)
        offset, rows = (
            (self.positions + late if late else 0),
            source.split([len(self.flow.threads[station].example) for station, _ in entries]),
        )
        for (station, read), own in zip(entries, rows, strict=True):
            self._later(station, read, delta[own], offset)
        return [
            (station, passed_on(self.decoder, self.base, read.coded, delta[own], example, offset))
            for (station, read), own in zip(entries, rows, strict=True)
            for example in [self.flow.threads[station].example]
        ]

    def _later(self, station: Station, read: Read, delta: Tensor, offset: int) -> None:
        """Have a station send what its features write to later layers, when the run gets there."""
        own = self.flow.threads[station]
        for part, first, last in read.coded:
            more = onward_writes(self.decoder, self.base, part, delta, own.example, offset, (first, last))
            own.sent = [*own.sent, *more]

    def _explained(
        self, layer: int, code: Code, streams: Tensor, examples: Tensor, behind: Behind
    ) -> tuple[Tensor, Tensor]:
        """What a dictionary reads and explains where its block sees these streams."""
        if behind in STREAMS:
            return streams, streams
        block, base = self.decoder.blocks[layer], self.base
        if behind == "mlp":
            self.cost.add(len(streams), self.positions)
            given = block.mlp_norm(streams)
            output = block.run_mlp(given)
            read = streams if code.dictionary.reads.kind == "mid" else given
            return (read if code.dictionary.transcodes else output), output
        every = [(kind, head, 0, self.positions - 1) for head in range(self.decoder.heads) for kind in (Q, K, V)]
        reads = HeadReads.of(self.decoder, layer, [every], [len(streams)], self.positions, streams.device)
        context = (base.sites["queries"][layer], base.sites["keys"][layer], base.sites["values"][layer])
        own, other = torch.arange(len(streams), device=streams.device), self._heard(layer, streams, examples)
        z, settings = reads.mixed(context, examples, other, own, base.attention[layer]), base.attention[layer]
        if code.dictionary.writes.kind == "z":
            return z.flatten(2), z.flatten(2)
        moved = z - reads.values(context, examples, settings)
        output = base.sites["attention"][layer][examples]
        output = output + reads.through(moved, reads.filled).to(output.dtype)
        return output, output

    # ---- attention -------------------------------------------------------------------------------------------------

    def _attention(self, layer: int) -> Changes:
        """What the attention of a block changes of the base run, and what running streams get from it."""
        reading, running = self._entries(layer, False, mixer=False), self.flow.running(2 * layer)
        found = self._heads(layer, reading) if reading else []
        return [*found, *(self._attended(layer, running) if running else [])]

    def _entries(self, layer: int, own: bool, mixer: bool) -> Entries:
        """`Flow.entries` of a block's mixer or of its attention, each with its own readers alone."""
        found = []
        for station, read in self.flow.entries(layer, False, own):
            if mine := tuple(one for one in read.seen if (one[0] == MIXER) == mixer):
                found.append((station, replace(read, seen=mine)))
        return found

    def _heads(self, layer: int, entries: Entries) -> Changes:
        """Changes of what heads write whose other inputs are the base run's."""
        base, settings, stations = self.base, self.base.attention[layer], [station for station, _ in entries]
        streams, examples, source = self.flow.sources(entries, base.residual[layer])
        other = self._heard(layer, streams, examples)
        reads, example = self._reads(layer, entries), self.flow.examples(stations)
        context = (base.sites["queries"][layer], base.sites["keys"][layer], base.sites["values"][layer])
        old = reads.values(context, example, settings)
        moved = reads.mixed(context, example, other, source, settings) - old
        change = reads.through(moved, reads.filled)
        if self.decoder.blocks[layer].attention_post_norm is not None:
            of = self.flow.threads
            live = torch.cat([torch.full_like(of[one].example, one.live, dtype=torch.bool) for one in stations])
            before = with_bias(
                self.decoder, self.decoder.blocks[layer], reads.through(old, reads.reading), reads.readers
            )
            own = reads.through(moved, reads.reading), before
            change = self._behind_norm(layer, example, change, own, live)
        return self.flow.split(stations, change)

    def _behind_norm(
        self, layer: int, example: Tensor, change: Tensor, own: tuple[Tensor, Tensor], live: Tensor
    ) -> Tensor:
        """What comes through a norm that all heads of a block share: of live rows everything, of others their own.

        `change`: of the attention's output; `own`: the readers' part of that, and of the output in the base run.
        """
        block, old = self.decoder.blocks[layer], self.base.sites["attention"][layer][example]
        new = old + change.to(old.dtype)
        every = block.attention_write(new).to(change.dtype) - block.attention_write(old).to(change.dtype)
        moved, before = own
        alone = rescaled(self.decoder, block, before + moved, new) - rescaled(self.decoder, block, before, old)
        return torch.where(live[:, None, None], every, alone)

    def _attended(self, layer: int, running: Sequence[Station]) -> Changes:
        """What running streams get from a block's attention, some readers seeing what their parents hand on, too."""
        block, base, tape = self.decoder.blocks[layer], self.base, self.tape
        if ("attention", layer) in self.still:
            output = base.sites["attention"][layer][self.flow.examples(running)]
            return self.flow.split(running, block.attention_write(output))
        streams, example = (
            torch.cat([streamed(self.flow.threads[station]) for station in running]),
            self.flow.examples(running),
        )
        before = base.keys[layer][:, :, : tape.start], base.values[layer][:, :, : tape.start]
        past, kept = Past(*before, example if len(tape.examples) > 1 else None), list[Tensor]()
        call = tape.call(block) | {"attention_mask": None, "past": past}
        entries = self._entries(layer, True, mixer=False)
        if entries:
            call |= {"keep": lambda *parts, **_: kept.extend(parts)}
        output = block.attention(block.given(streams), **call)[0]
        self.cost.add(len(streams), self.positions)
        if entries:
            at, seen = self.flow.within(entries, running)
            reads, settings = self._reads(layer, entries), base.attention[layer]
            context = kept[0], past.before(kept[1], "keys"), past.before(kept[2], "values")
            other, own = self._heard(layer, seen, example[at]), torch.arange(len(at), device=at.device)
            moved = reads.mixed(context, at, other, own, settings) - reads.values(context, at, settings)
            output = output.index_add(0, at, reads.through(moved, reads.filled).to(output.dtype))
        return self.flow.split(running, block.attention_write(output))

    def _reads(self, layer: int, entries: Entries) -> HeadReads:
        many = [len(self.flow.threads[station].example) for station, _ in entries]
        seen = [read.seen for _, read in entries]
        return HeadReads.of(self.decoder, layer, seen, many, self.positions, self.base.last.device)

    def _heard(self, layer: int, streams: Tensor, example: Tensor) -> Heard:
        """Queries, keys and values that a block makes of streams."""
        self.cost.add(len(streams), self.positions)
        found = Reading(self.decoder, self.tape, self.base).read(layer, streams, example)
        return found["queries"], found["keys"], found["values"]

    # ---- mixers ----------------------------------------------------------------------------------------------------

    def _mixer(self, mixer: Block) -> Changes:
        """What the mixer of a block changes of the base run, and what running streams get from it."""
        reading, running = self._entries(mixer.layer, False, mixer=True), self.flow.running(2 * mixer.layer)
        found = self._mixed(mixer, reading) if reading else []
        return [*found, *(self._mixing(mixer, running) if running else [])]

    def _mixed(self, mixer: Block, entries: Entries) -> Changes:
        """Changes of what a block's mixer writes that sees another stream at some positions."""
        layer, base, stations = mixer.layer, self.base, [station for station, _ in entries]
        streams, _, source = self.flow.sources(entries, base.residual[layer])
        example = self.flow.examples(stations)
        seen = torch.where(self._taken(entries, -self.positions), streams[source], base.residual[layer][example])
        self.cost.add(len(seen), self.positions)
        old = base.sites["mixed"][layer][example]
        exact = torch.promote_types(old.dtype, torch.float32)
        new = mixer.attention_write(mixer.attended(seen, self.tape.call(mixer))).to(exact)
        return self.flow.split(stations, new - mixer.attention_write(old).to(exact))

    def _mixing(self, mixer: Block, running: Sequence[Station]) -> Changes:
        """What running streams get from a block's mixer, some seeing what their parents hand on, too."""
        seen = torch.cat([streamed(self.flow.threads[station]) for station in running])
        self.cost.add(len(seen), self.positions)
        if entries := self._entries(mixer.layer, True, mixer=True):
            at, other = self.flow.within(entries, running)
            taken = self._taken(entries, -self.positions)
            seen = seen.index_copy(0, at, torch.where(taken, other, seen[at]))
        return self.flow.split(running, mixer.attend(seen, self.tape.call(mixer)))

    # ---- MLPs ------------------------------------------------------------------------------------------------------

    def _mlp(self, layer: int) -> Changes:
        """What the MLP of a block changes of the base run, and what running streams get from it."""
        if not self.decoder.blocks[layer].has_mlp:
            return self._nothing(layer)
        reading = self.flow.entries(layer, True, False)
        running = self.flow.running(2 * layer + (not self.decoder.graph.parallel))
        found = self._fed(layer, reading) if reading else []
        return [*found, *(self._ran(layer, running) if running else [])]

    def _fed(self, layer: int, entries: Entries) -> Changes:
        """Changes of what a block's MLP writes."""
        block, late, stations = self.decoder.blocks[layer], self.flow.late(layer), [station for station, _ in entries]
        streams, _, source = self.flow.sources(entries, self.base.middle[layer][:, late:])
        self.cost.add(len(streams), self.positions)
        old = self.base.sites["mlp"][layer][self.flow.examples(stations), late:]
        new = torch.where(self._taken(entries, late), self._fed_with(layer, streams)[source], old)
        exact = torch.promote_types(old.dtype, torch.float32)
        return self.flow.split(stations, block.mlp_write(new).to(exact) - block.mlp_write(old).to(exact))

    def _ran(self, layer: int, running: Sequence[Station]) -> Changes:
        """What running streams get from a block's MLP."""
        block, late = self.decoder.blocks[layer], self.flow.late(layer)
        if ("mlp", layer) in self.still:
            output = self.base.sites["mlp"][layer][self.flow.examples(running), late:]
            return self.flow.split(running, block.mlp_write(output))
        output = self._fed_with(
            layer, torch.cat([streamed(self.flow.threads[station])[:, late:] for station in running])
        )
        joined = [
            station
            for station in running
            if station.begins(self.decoder.graph) > 2 * layer or ("attention", layer) in self.still
        ]  # the others are counted
        self.cost.add(sum(len(self.flow.threads[station].example) for station in joined), self.positions)
        if entries := self.flow.entries(layer, True, True):
            at, seen = self.flow.within(entries, running)
            self.cost.add(len(seen), self.positions)
            new = self._fed_with(layer, seen[:, late:])
            output = output.index_copy(0, at, torch.where(self._taken(entries, late), new, output[at]))
        return self.flow.split(running, block.mlp_write(output))

    def _fed_with(self, layer: int, streams: Tensor) -> Tensor:
        """The MLP's output for streams that it reads."""
        block = self.decoder.blocks[layer]
        found: Tensor = block.run_mlp(block.mlp_norm(streams))
        return found

    def _taken(self, entries: Entries, late: int) -> Tensor:
        """Whether each row's MLP sees a change at each position, [rows, positions, 1]."""
        parts = []
        for station, read in entries:
            own = torch.zeros(len(self.flow.threads[station].example), self.positions, 1, dtype=torch.bool)
            for *_, first, last in read.seen:
                own[:, first : last + 1] = True
            parts.append(own[:, late:])
        return torch.cat(parts).to(self.base.last.device)
