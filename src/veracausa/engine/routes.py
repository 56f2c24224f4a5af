"""What paths are made of, as the engine runs them: stations that change is passed through, and which they share.

A path is a chain of stations: its sender, then the readers behind each arrow. What a station's writers write otherwise
is handed on in one of two ways: *held*, for the readers of the next station alone, or *live*, as a stream that every
later part reads, up to the place that the next station reads (or to the logits). Paths with the same beginning share
its stations.

Places of the stream are those of `anatomy.graph`: a part that reads at a place sees what is written up to there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from veracausa.anatomy.graph import Graph
from veracausa.engine.path_codes import STREAMS, Behind, Coded


@dataclass(frozen=True)
class Read:
    """Readers of one block, all in its attention (or its mixer) or its MLP, that see a change.

    `seen`: (kind, head, first, last) of each, with the positions at which, counted from the tape's start. `coded`: in
    their place, parts of one dictionary with their positions; these see what enters the block, or what is behind its
    attention or its MLP.
    """

    layer: int
    mlp: bool
    seen: tuple[tuple[int, int, int, int], ...]
    coded: tuple[tuple[Coded, int, int], ...] = ()

    def at(self, graph: Graph) -> int:
        """The place of the stream that they read."""
        if self.coded:
            return self.coded[0][0].read_at(graph)
        return 2 * self.layer + (self.mlp and not graph.parallel)

    def seen_from(self, graph: Graph) -> int:
        """The place of the stream from which on what they write is seen."""
        if self.coded:
            return self.coded[0][0].written_at(graph)
        return 2 * self.layer + (2 if self.mlp or graph.parallel else 1)


@dataclass(frozen=True)
class Station:
    """A sender (`sends`: writers, each with its first and last position, `coded`: parts of dictionaries likewise) or
    readers that see what `parent` hands on."""

    parent: Station | None
    live: bool
    sends: tuple[tuple[int, int, int], ...] = ()
    reads: tuple[Read, ...] = ()
    coded: tuple[tuple[Coded, int, int], ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Made once: stations are looked up for every block."""
        return hash((self.parent, self.live, self.sends, self.reads, self.coded))

    def begins(self, graph: Graph) -> int:
        """The place of the stream from which on its first write is seen."""
        if self.parent is None:
            places = [int(graph.writer_order[writer]) for writer, *_ in self.sends]
            return min(places + [part.written_at(graph) for part, *_ in self.coded])
        return min(read.seen_from(graph) for read in self.reads)

    @property
    def chain(self) -> list[Station]:
        """From the sender to this station."""
        return [*(() if self.parent is None else self.parent.chain), self]


@dataclass(frozen=True, eq=False)
class Routes:
    """The stations of some paths, each once, parents first; `ends`: the last station of each path.

    `until`: the place up to which a live station runs. `reading`: (block, whether its MLP) → stations that read there;
    `encoding`: (block, what its encoder stands behind) → stations that are parts of dictionaries.
    """

    graph: Graph
    ends: Sequence[Station]
    stations: list[Station] = field(default_factory=list)
    until: dict[Station, int] = field(default_factory=dict)
    reading: dict[tuple[int, bool], list[tuple[Station, Read]]] = field(default_factory=dict)
    encoding: dict[tuple[int, Behind], list[tuple[Station, Read]]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, ends: Iterable[Station], into: bool = False) -> Routes:
        """Put the paths that end with these stations together.

        `into`: they are run up to what their last readers see, not further.
        """
        found = cls(graph, list(ends))
        found.stations.extend(dict.fromkeys(station for end in found.ends for station in end.chain))
        passing = {station.parent if into else station for station in found.stations}
        for station in found.stations:
            for read in station.reads:
                if station not in passing:
                    pass
                elif read.coded:
                    found.encoding.setdefault((read.layer, read.coded[0][0].behind), []).append((station, read))
                else:
                    found.reading.setdefault((read.layer, read.mlp), []).append((station, read))
                if station.parent is not None and station.parent.live:
                    found.until[station.parent] = max(found.until.get(station.parent, 0), read.at(graph))
        found.until.update({end: 2 * graph.layers for end in found.ends if end.live and not into})
        return found

    def source(self, station: Station, read: Read) -> tuple[Station, bool]:
        """Whose stream readers see: (the parent, False), the base run's but for what the parent hands on; or their own
        (the station, True), where it has begun already."""
        if station.live and not read.coded and station.begins(self.graph) <= read.at(self.graph):
            return station, True
        assert station.parent is not None  # readers have one
        return station.parent, False

    def blocks(self, station: Station) -> int:
        """Blocks that a live station runs at least a part of; of others none."""
        begins = station.begins(self.graph)
        until = self.until.get(station, begins)
        return -(-until // 2) - begins // 2 if until > begins else 0

    @property
    def depth(self) -> int:
        """Blocks of all stations together, one example each; readers of one block that see the same stream: one.

        An encoder of the stream runs no block.
        """
        every = (*self.reading.values(), *self.encoding.values())
        seen = {
            (self.source(station, read), read.layer, read.mlp, bool(read.coded))
            for station, read in (entry for entries in every for entry in entries)
            if not (read.coded and read.coded[0][0].behind in STREAMS)
        }
        return len(seen) + sum(map(self.blocks, self.stations))
