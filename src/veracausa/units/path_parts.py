"""What a path is made of: its parts, the arrows between them; see `units.paths` for what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from veracausa.anatomy.graph import MLP, Graph
from veracausa.engine.path_codes import Coded
from veracausa.units.spans import Range, meet, shown_range, within

#: Between two arrows: through anything.
THROUGH = "..."
#: Where a prompt has its named spans, (first, end).
Spans = Mapping[str, Range]


@dataclass(frozen=True)
class Part:
    """One name of a path, at some positions, or at a named span of each pair (None: at all positions).

    `reads`: (kind of reader, head; −1 where there is none) of all that it reads with, nothing for the input.
    `writes`: the graph's writers that it is, none for the logits. `coded`: the part of a dictionary that it is instead.
    """

    stem: str
    layer: int
    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]
    span: Range | str | None = None
    coded: Coded | None = None

    @property
    def sends(self) -> bool:
        """Whether it can be a sender."""
        return bool(self.writes) or self.coded is not None

    @property
    def name(self) -> str:
        """Its name with its positions."""
        if self.span is None:
            return self.stem
        return f"{self.stem}@{self.span if isinstance(self.span, str) else shown_range(self.span)}"

    @property
    def key(self) -> list[tuple[Any, ...]]:
        """What it is, reader by reader (of a sender its writer), however it is called."""
        if self.coded is not None:
            return [(self.layer, self.coded.kind, self.coded.index, str(self.span))]
        return [(self.layer, *one, str(self.span)) for one in self.reads]

    def placed(self, length: int, spans: Spans) -> Range:
        """First and last position in a prompt of that length with these spans (first, end).

        The first is below 0 where the prompt has no such.
        """
        if isinstance(self.span, str):
            first, end = spans.get(self.span, (-1, 0))
            return first, end - 1
        return (0, length - 1) if self.span is None else within(self.span, length)

    def meets(self, other: Part) -> bool:
        """Whether both hold the same position of some prompt, or may."""
        if isinstance(self.span, str) or isinstance(other.span, str):  # two spans of a task share no token
            return self.span == other.span or not (isinstance(self.span, str) and isinstance(other.span, str))
        return self.span is None or other.span is None or meet(self.span, other.span)

    def read_at(self, graph: Graph) -> int:
        """The place of the stream that it looks at (see `anatomy.graph`)."""
        if self.coded is not None:
            return self.coded.read_at(graph)
        return 2 * self.layer + (self.reads[0][0] == MLP and not graph.parallel)

    def written_at(self, graph: Graph) -> int:
        """The place of the stream from which on its write is seen."""
        if self.coded is not None:
            return self.coded.written_at(graph)
        return int(graph.writer_order[self.writes[0]])


@dataclass(frozen=True)
class Step:
    """An arrow and what it leads to. `through`: along every way, else along edges from part to part alone."""

    parts: tuple[Part, ...]
    through: bool

    @property
    def at_end(self) -> bool:
        """Whether it leads to the logits."""
        return self.parts[0].stem == "logits"


@dataclass(frozen=True)
class Path:
    """A sender's parts and the steps from there."""

    sender: tuple[Part, ...]
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """What it is called unless it is given a name."""
        texts = [f"{THROUGH}->{joined(step.parts)}" if step.through else joined(step.parts) for step in self.steps]
        return "->".join([joined(self.sender), *texts])

    @property
    def key(self) -> tuple[Any, ...]:
        """What it means, whatever it is called and in whatever order its parts stand."""
        steps = [
            (step.through, *sorted((one for part in step.parts for one in part.key), key=repr)) for step in self.steps
        ]
        sent = [(part.writes, str(part.span)) if part.coded is None else part.key[0] for part in self.sender]
        return tuple(sorted(sent, key=repr)), *steps

    @property
    def parts(self) -> list[Part]:
        """All parts, in order."""
        return [*self.sender, *(part for step in self.steps for part in step.parts)]

    @property
    def named(self) -> tuple[str, ...]:
        """The spans that its parts are at, each once."""
        return tuple(dict.fromkeys(part.span for part in self.parts if isinstance(part.span, str)))

    def exists(self, length: int, spans: Spans) -> bool:
        """Whether a prompt of that length with these spans has all its positions."""
        return all(part.placed(length, spans)[0] >= 0 for part in self.parts)


def joined(parts: Iterable[Part]) -> str:
    """Some parts as a path names them."""
    return "+".join(part.name for part in parts)
