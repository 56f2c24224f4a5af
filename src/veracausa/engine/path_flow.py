"""Stations of paths while they run: what each hands on, and what readers are given to see.

A station of one example is kept once, whatever the number of paths that go through it (`engine.routes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy.graph import Graph
from veracausa.engine.routes import Read, Routes, Station
from veracausa.engine.tape import State

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: What stations get from a part of a block: a change of their stream or of what they hand on.
Changes = list[tuple[Station, Tensor]]
#: A change of the stream, made when the run gets to the place from which on it is seen.
Sent = tuple[int, Callable[[], Tensor]]
#: Stations with readers at one place.
Entries = Sequence[tuple[Station, Read]]


@dataclass(eq=False)
class Threads:
    """A station of some examples. `held`: the change that its writers hand on; `stream`: of a live one, once begun.

    `sent`: the changes of the stream by what a sender writes, and by what features of readers write to later layers.
    """

    example: Int[Tensor, " rows"]
    sent: Sequence[Sent] = ()
    held: Float[Tensor, "rows positions width"] | None = None
    stream: Float[Tensor, "rows positions width"] | None = None


@dataclass(eq=False)
class Flow:
    """All stations of some rows (a path, by its last station in `ends`; an example).

    `base`: the run that is patched. `tail`: last positions from the first on at which the metric is read.
    """

    base: State
    tail: int
    routes: Routes
    threads: dict[Station, Threads]

    @classmethod
    def of(
        cls,
        base: State,
        tail: int,
        graph: Graph,
        ends: Sequence[Station],
        example: Int[Tensor, " rows"],
        sent: Callable[[Station, Tensor], Sequence[Sent]],
        into: bool = False,
    ) -> Flow:
        """Every station with the examples of its paths; `sent(station, examples)`: see `Threads`; `into`: `Routes`."""
        needed: dict[Station, set[int]] = {}
        for end, one in zip(ends, example.tolist(), strict=True):
            for station in end.chain:
                needed.setdefault(station, set()).add(one)
        found = {}
        for station, examples in needed.items():
            found[station] = Threads(torch.tensor(sorted(examples), device=example.device))
            if station.parent is None:
                found[station].sent = sent(station, found[station].example)
        return cls(base, tail, Routes.of(graph, dict.fromkeys(ends), into), found)

    @property
    def positions(self) -> int:
        """Positions that are run."""
        return self.base.residual[0].shape[1]

    def late(self, layer: int) -> int:
        """The first position that is read behind a block's attention, counted from the end."""
        return self.entered(layer + 1)

    def entered(self, layer: int) -> int:
        """The first position of the stream that enters a block that is read, counted from the end."""
        return -min(self.tail, self.positions) if layer == self.routes.graph.layers else -self.positions

    def send(self, place: int) -> None:
        """Hand on what senders write from here on, and begin the streams of live ones."""
        layer, late = divmod(place, 2)
        for station, own in self.threads.items():
            changes = [change() for at, change in own.sent if at == place]
            if not changes:
                continue
            change = sum(changes[1:], changes[0])
            if own.stream is not None:
                own.stream = own.stream + change[:, -own.stream.shape[1] :].to(own.stream.dtype)
                continue
            own.held = change if own.held is None else own.held + change
            if station.live:
                after = (self.base.middle if late else self.base.residual)[layer][own.example]
                own.stream = after + own.held.to(after.dtype)

    def scale(self, times: float) -> None:
        """Scale streams and what is held, as a block does behind its last write."""
        for own in self.threads.values() if times != 1 else ():
            own.stream = None if own.stream is None else own.stream * times
            own.held = None if own.held is None else own.held * times

    def running(self, place: int) -> list[Station]:
        """Live stations that have begun and run what reads at this place."""
        return [s for s, own in self.threads.items() if own.stream is not None and self.routes.until[s] > place]

    def take(self, changes: Changes, late: int, behind: Tensor) -> None:
        """Add changes to streams, to what is held, or to the base run's stream `behind` them, where one begins.

        `late`: the first position that is read there (see `late`). A part of a dictionary that does not change at all
        begins no stream: nothing behind it is run.
        """
        for station, every in changes:
            own, change = self.threads[station], every[:, late:]
            if station.live and own.stream is None and any(read.coded for read in station.reads) and not change.any():
                own.held = change.new_zeros(len(change), self.positions, change.shape[-1])
            elif not station.live:
                if own.held is None:
                    own.held = change.new_zeros(len(change), self.positions, change.shape[-1])
                own.held[:, late:] += change
            else:
                before = behind[own.example] if own.stream is None else own.stream
                own.stream = before[:, late:] + change.to(before.dtype)

    def last(self, ends: Sequence[Station], example: Tensor) -> Float[Tensor, "rows tail width"]:
        """The final residual of every row, at the positions of the tail."""
        found, rows_of = self.base.end(self.tail)[example], dict[Station, list[int]]()
        for row, end in enumerate(ends):
            rows_of.setdefault(end, []).append(row)
        late = self.late(self.routes.graph.layers - 1)  # before the positions that are run, nothing has changed
        for end, own in rows_of.items():
            rows = torch.tensor(own, device=example.device)
            found[rows, late:] = self.handed(end, example[rows], found[rows, late:])
        return found

    def entries(self, layer: int, mlp: bool, own: bool) -> list[tuple[Station, Read]]:
        """Stations with readers here whose context is the base run, or their `own` stream."""
        every = self.routes.reading.get((layer, mlp), [])
        return [(station, read) for station, read in every if self.routes.source(station, read)[1] == own]

    def examples(self, stations: Sequence[Station]) -> Tensor:
        """The example of each of their rows."""
        return torch.cat([self.threads[station].example for station in stations])

    def handed(self, parent: Station, examples: Tensor, context: Tensor) -> Tensor:
        """What readers see whose context is this: the parent's stream, or the context with what it hands on."""
        handed = self.threads[parent]
        at = torch.searchsorted(handed.example, examples)
        if handed.stream is not None:
            return handed.stream[at, -context.shape[1] :]
        assert handed.held is not None  # it has begun
        return context + handed.held[at, -context.shape[1] :].to(context.dtype)

    def sources(self, entries: Entries, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(streams that readers see, their examples, which of them each row sees), each stream once.

        `context`: what the base run has there, [examples, positions, width].
        """
        readers: dict[Station, list[Tensor]] = {}
        for station, _ in entries:
            readers.setdefault(_parent(station), []).append(self.threads[station].example)
        every = {parent: torch.cat(examples).unique() for parent, examples in readers.items()}
        begins = _begins(every)
        streams = [self.handed(parent, one, context[one]) for parent, one in every.items()]
        rows = []
        for station, _ in entries:
            parent = _parent(station)
            rows.append(begins[parent] + torch.searchsorted(every[parent], self.threads[station].example))
        return torch.cat(streams), torch.cat(list(every.values())), torch.cat(rows)

    def within(self, entries: Entries, running: Sequence[Station]) -> tuple[Tensor, Tensor]:
        """Where rows with streams of their own are among the running ones, and what their readers see instead."""
        begins = _begins({station: self.threads[station].example for station in running})
        own = [(station, self.threads[station]) for station, _ in entries]
        rows = [begins[station] + torch.arange(len(one.example), device=one.example.device) for station, one in own]
        seen = [self.handed(_parent(station), one.example, streamed(one)) for station, one in own]
        return torch.cat(rows), torch.cat(seen)

    def split(self, stations: Sequence[Station], rows: Tensor) -> Changes:
        """Each station with its rows, in that order."""
        return list(
            zip(stations, rows.split([len(self.threads[station].example) for station in stations]), strict=True)
        )


def _parent(station: Station) -> Station:
    assert station.parent is not None  # only senders have none
    return station.parent


def streamed(own: Threads) -> Tensor:
    """The stream of a station that has begun."""
    assert own.stream is not None
    return own.stream


def _begins(parts: dict[Station, Tensor]) -> dict[Station, int]:
    """Where each part begins when all are put behind each other."""
    found, total = {}, 0
    for station, part in parts.items():
        found[station], total = total, total + len(part)
    return found
