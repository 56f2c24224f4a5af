"""What paths are made of, as the engine runs them: stages that change is passed through, and which they share.

A path is a chain of stages: its sender, then the readers behind each arrow. What a stage's writers write otherwise is
handed on in one of two ways: *held*, for the readers of the next stage alone, or *live*, as a stream that every later
part reads, up to the place that the next stage reads (or to the logits). Paths with the same beginning share its
stages.

Places of the stream are those of `anatomy.graph`: a part that reads at a place sees what is written up to there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from veracausa.anatomy.graph import Graph


@dataclass(frozen=True)
class Read:
    """Readers of one block, all in its attention or its MLP, that see a change.

    `seen`: (kind, head, first, last) of each, with the positions at which, counted from the tape's start.
    """

    layer: int
    mlp: bool
    seen: tuple[tuple[int, int, int, int], ...]

    def at(self, graph: Graph) -> int:
        """The place of the stream that they read."""
        return 2 * self.layer + (self.mlp and not graph.parallel)

    def seen_from(self, graph: Graph) -> int:
        """The place of the stream from which on what they write is seen."""
        return 2 * self.layer + (2 if self.mlp or graph.parallel else 1)


@dataclass(frozen=True)
class Stage:
    """A sender (`sends`: writers, each with its first and last position) or readers that see what `parent` hands on."""

    parent: Stage | None
    live: bool
    sends: tuple[tuple[int, int, int], ...] = ()
    reads: tuple[Read, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Made once: stages are looked up for every block."""
        return hash((self.parent, self.live, self.sends, self.reads))

    def begins(self, graph: Graph) -> int:
        """The place of the stream from which on its first write is seen."""
        if self.parent is None:
            return min(int(graph.writer_order[writer]) for writer, *_ in self.sends)
        return min(read.seen_from(graph) for read in self.reads)

    @property
    def chain(self) -> list[Stage]:
        """From the sender to this stage."""
        return [*(() if self.parent is None else self.parent.chain), self]


@dataclass(frozen=True, eq=False)
class Routes:
    """The stages of some paths, each once, parents first; `ends`: the last stage of each path.

    `until`: the place up to which a live stage runs. `reading`: (block, whether its MLP) → stages with readers there.
    """

    graph: Graph
    ends: Sequence[Stage]
    stages: list[Stage] = field(default_factory=list)
    until: dict[Stage, int] = field(default_factory=dict)
    reading: dict[tuple[int, bool], list[tuple[Stage, Read]]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, ends: Iterable[Stage]) -> Routes:
        """Put the paths that end with these stages together."""
        found = cls(graph, list(ends))
        found.stages.extend(dict.fromkeys(stage for end in found.ends for stage in end.chain))
        for stage in found.stages:
            for read in stage.reads:
                found.reading.setdefault((read.layer, read.mlp), []).append((stage, read))
                if stage.parent is not None and stage.parent.live:
                    found.until[stage.parent] = max(found.until.get(stage.parent, 0), read.at(graph))
        found.until.update({end: 2 * graph.layers for end in found.ends if end.live})
        return found

    def source(self, stage: Stage, read: Read) -> tuple[Stage, bool]:
        """Whose stream readers see: (the parent, False), the base run's but for what the parent hands on; or their own
        (the stage, True), where it has begun already."""
        if stage.live and stage.begins(self.graph) <= read.at(self.graph):
            return stage, True
        assert stage.parent is not None  # readers have one
        return stage.parent, False

    def blocks(self, stage: Stage) -> int:
        """Blocks that a live stage runs at least a part of."""
        begins = stage.begins(self.graph)
        until = self.until[stage] if stage.live else begins
        return -(-until // 2) - begins // 2 if until > begins else 0

    @property
    def depth(self) -> int:
        """Blocks of all stages together, one example each; readers of one block that see the same stream: one."""
        seen = {(self.source(stage, read), read.layer, read.mlp) for stage in self.stages for read in stage.reads}
        return len(seen) + sum(map(self.blocks, self.stages))
