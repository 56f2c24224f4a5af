"""Paths: units that are the change of a writer, passed on along some edges alone.

    a5.h5->a8.h6<v>+a9.h9<q>             a sender to two readers; all that comes after them follows
    a5.h5->a8.h6<v>->a9.h9<q>->logits    a chain: that one way, nothing else
    a5.h5->...->a9.h9<q>->logits         every way from a5.h5 to that query, through anything between
    input->...->a9.h9->...->logits       every way through a node (its query, key and value)
    m3@7->a9.kv1<v>@5-8->logits          the change at position 7 alone, seen at positions 5 to 8 alone

A path means a set of edges that carry change, writer → reader, where every head has a query, a key and a value of its
own (`a9.kv1<v>` are those of all heads of a key/value group, `a9.h3<v>` is one of them; `a9.h3` all three of a head):

* `x->y`: one edge from every part of x to every part of y;
* `x->...->y`: every edge on a way from a part of x to a part of y, the direct one among them;
* a path that ends in another reader than the logits goes on with `->...->logits`.

The sender's change is given: its write in the other run (or nothing) − its write in the base run. Every reader's input
is the base run's stream plus the changes that its edges bring, and every writer's change is what it makes of its
readers' inputs − its write in the base run. In families with post-norms a head's change rescales what the other heads
of its block write: that is part of `...` and of no other arrow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import LOGITS, MLP, Graph, K, Q, V
from veracausa.arguments import is_list, shown
from veracausa.errors import UnitError
from veracausa.units.spans import Range, is_range, meet, read_range, shown_range, within
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.engine.patches import Place

#: Between two arrows: through anything.
THROUGH = "..."
_ARROW = re.compile(r"\s*->\s*")
_NUMBER = r"(0|[1-9][0-9]{0,9})"
_MLP, _HEAD = re.compile(f"m{_NUMBER}"), re.compile(rf"a{_NUMBER}\.(h|kv){_NUMBER}(?:<([qkv])>)?")
_KINDS = {"q": Q, "k": K, "v": V}
#: The last part of an edge's name that is a path's: a head, or one head's own key or value.
_OF_A_HEAD = re.compile(rf"a{_NUMBER}\.h{_NUMBER}(<[kv]>)?")
_LOOK = (
    "Paths look like a5.h5->a8.h6<v>+a9.h9<q>, a5.h5->a8.h6<v>->a9.h9<q>->logits or a5.h5->...->a9.h9<q>->logits, each "
    "part also at positions (a9.h9<q>@7)."
)


@dataclass(frozen=True)
class Part:
    """One name of a path, at some positions (None: all).

    `reads`: (kind of reader, head; −1 where there is none) of all that it reads with, nothing for the input.
    `writes`: the graph's writers that it is, none for the logits.
    """

    stem: str
    layer: int
    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]
    span: Range | None = None

    @property
    def name(self) -> str:
        """Its name with its positions."""
        return self.stem if self.span is None else f"{self.stem}@{shown_range(self.span)}"

    @property
    def key(self) -> list[tuple[Any, ...]]:
        """What it is, reader by reader (of a sender its writer), however it is called."""
        return [(self.layer, *one, self.span) for one in self.reads]

    def placed(self, length: int) -> Range:
        """First and last position in a prompt of that length; the first is below 0 where the prompt has no such."""
        return (0, length - 1) if self.span is None else within(self.span, length)

    def meets(self, other: Part) -> bool:
        """Whether both hold the same position of some prompt."""
        return self.span is None or other.span is None or meet(self.span, other.span)

    def read_at(self, graph: Graph) -> int:
        """The place of the stream that it looks at (see `anatomy.graph`)."""
        return 2 * self.layer + (self.reads[0][0] == MLP and not graph.parallel)

    def written_at(self, graph: Graph) -> int:
        """The place of the stream from which on its write is seen."""
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
        texts = [f"{THROUGH}->{_joined(step.parts)}" if step.through else _joined(step.parts) for step in self.steps]
        return "->".join([_joined(self.sender), *texts])

    @property
    def key(self) -> tuple[Any, ...]:
        """What it means, whatever it is called and in whatever order its parts stand."""
        steps = [(step.through, *sorted(one for part in step.parts for one in part.key)) for step in self.steps]
        return tuple(sorted((part.writes, part.span) for part in self.sender)), *steps

    @property
    def parts(self) -> list[Part]:
        """All parts, in order."""
        return [*self.sender, *(part for step in self.steps for part in step.parts)]

    def exists(self, length: int) -> bool:
        """Whether a prompt of that length has all its positions."""
        return all(part.placed(length)[0] >= 0 for part in self.parts)


@dataclass(frozen=True, eq=False)
class Paths(Units):
    """A table of paths of one graph. `layer`: the first block that a path runs (L: none); `labels`: its names."""

    graph: Graph
    paths: tuple[Path, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph, texts: Sequence[str], labels: Sequence[str] | None = None) -> Paths:
        """Paths by their texts, called by these names or by what they are made of.

        Raises:
            UnitError: a text that is no path of this graph, or two of one name.

        >>> Paths.of(lm.graph, ["a5.h5->a8.h6<v>->logits"]).names
        ['a5.h5->a8.h6<v>->logits']
        """
        found = tuple(parse_path(graph, text) for text in texts)
        called = tuple(labels) if labels else tuple(path.name for path in found)
        if not found:
            raise UnitError("The list of paths is empty. Name at least one, e.g. ['a0.h0->m1->logits'].")
        keys = [path.key for path in found]
        if twice := [name for i, name in enumerate(called) if name in called[:i] or keys[i] in keys[:i]]:
            raise UnitError(f"Paths are listed twice, or two of one name: {', '.join(twice[:5])}.")
        none = np.full(len(found), -1)
        layer = np.array([_first_block(graph, path) for path in found], dtype=np.int64)
        return cls("paths", layer, none, none, graph, found, called)

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> Paths:
        kept = np.arange(len(self))[chosen].tolist()
        columns = (self.layer[kept], self.index[kept], self.position[kept], self.graph)
        return Paths("paths", *columns, tuple(self.paths[i] for i in kept), tuple(self.labels[i] for i in kept))

    @property
    def place(self) -> Place:
        """Paths are changes of what readers take from the stream."""
        return "residual"

    @property
    def joint(self) -> bool:
        """A row moves several parts."""
        return True

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """What every path means, whatever it is called."""
        return [path.key for path in self.paths]

    @property
    def names(self) -> list[str]:
        """The paths' names, in order."""
        return list(self.labels)

    def checked(self, graph: Graph, model: str, longest: int) -> Paths:
        """The table, if it is about a model's graph and some prompt has all positions of each path.

        Raises:
            UnitError: it is not, or names the first path that no prompt of at most `longest` tokens has.
        """
        if not len(self):
            raise UnitError("The table of paths is empty. Name at least one, e.g. ['a0.h0->m1->logits'].")
        if self.graph != graph:
            raise UnitError(f"The paths are those of {self.graph}, but {model} is {graph}.")
        for name, path in zip(self.names, self.paths, strict=True):
            if not path.exists(longest):
                raise UnitError(
                    f"{name!r}: no prompt of this task has all its positions; the longest has {longest} tokens, "
                    "counted from 0."
                )
        return self

    def table(self) -> pd.DataFrame:
        """One row per path: name, sender, the first block that it runs, and its text where it has another name."""
        import pandas as pd

        texts = [path.name for path in self.paths]
        columns: dict[str, object] = {
            "name": self.names,
            "sender": [_joined(path.sender) for path in self.paths],
            "layer": self.layer,
        }
        return pd.DataFrame(columns if texts == self.names else columns | {"path": texts})

    def digest(self) -> str:
        """A hash of the table and of the graph."""
        sizes = (self.graph.layers, self.graph.heads, self.graph.kv_heads, self.graph.parallel)
        return hashlib.sha256(f"{[path.name for path in self.paths]} {sizes}".encode()).hexdigest()[:16]

    def to_list(self) -> list[dict[str, Any]]:
        """Names and texts, for a file's header."""
        return [{"name": name, "path": path.name} for name, path in zip(self.names, self.paths, strict=True)]


def _joined(parts: Iterable[Part]) -> str:
    return "+".join(part.name for part in parts)


def _first_block(graph: Graph, path: Path) -> int:
    """The block where the sender's change joins the stream or is first read; L where only the logits see it."""
    if path.steps[0].through:
        return path.sender[0].written_at(graph) // 2
    return min(part.layer for part in path.steps[0].parts)


def is_path(name: str) -> bool:
    """Whether a name reads like a path, and like no edge: more arrows, several parts, positions of its own.

    >>> is_path("a5.h5->a8.h6<v>->logits"), is_path("a5.h5->m8@7"), is_path("a9.h6+m10")
    (True, False, False)
    """
    first, *others = _ARROW.split(name.strip())
    if not others:
        return False
    stem, _, where = others[-1].partition("@")
    ranged = not ((where.isascii() and where.isdigit()) or not where)
    return len(others) > 1 or "+" in name or "@" in first or ranged or _OF_A_HEAD.fullmatch(stem) is not None


def are_paths(units: Any) -> bool:
    """Whether `units` asks for paths: a name of one, a list that holds one, named ones ({"late": "a5.h5->m8"}).

    >>> are_paths(["a5.h5->m8", "a5.h5->m8+m9"]), are_paths({"late": "a5.h5->m8"}), are_paths(["a5.h5->m8"])
    (True, True, False)
    """
    if isinstance(units, Mapping):
        return any("->" in text for text in _texts(units.values()))
    if isinstance(units, Units) or not (isinstance(units, str) or is_list(units)):
        return False
    listed = [units] if isinstance(units, str) else list(units)
    within = [text for one in listed if is_list(one) for text in _texts(one)]
    return any(map(is_path, _texts(listed))) or any("->" in text for text in within)


def _texts(found: Iterable[Any]) -> list[str]:
    """The texts among some values, and in lists among these."""
    return [text for one in found for text in (one if is_list(one) else (one,)) if isinstance(text, str)]


def path_texts(asked: Any) -> tuple[list[str], list[str] | None]:
    """(texts, names of their own or None) of an argument that asks for paths.

    Raises:
        UnitError: something else among them.
    """
    entries = dict(asked) if isinstance(asked, Mapping) else None
    listed = [asked] if isinstance(asked, str) else list(entries.values() if entries is not None else asked)
    for one in listed:
        if is_list(one):
            raise UnitError(
                f"units={shown(one)}: a path is one text, not a list. Join readers that see one sender with +: "
                "'a5.h5->a8.h6<v>+a9.h9<q>'."
            )
        if not isinstance(one, str) or "->" not in one:
            raise UnitError(f"The list mixes paths with {shown(one)}, which is none. {_LOOK} Make two calls.")
    return listed, None if entries is None else [str(name) for name in entries]


def parse_path(graph: Graph, text: str) -> Path:
    """A path by its text.

    Raises:
        UnitError: no path, a part that the graph has not, or an arrow that no change can go along.
    """
    first, *others = [piece.strip() for piece in text.replace("…", THROUGH).split("->")]
    if not others or not all((first, *others)) or THROUGH in (first, others[-1]):
        raise UnitError(f"{shown(text)} is no path: an arrow leads from a part to a part. {_LOOK}")
    sender, steps, through = _parts(graph, text, first), [], False
    for piece in others:
        if piece == THROUGH and through:
            raise UnitError(f"{shown(text)} has nothing between two '{THROUGH}'. Leave one of them out.")
        if piece != THROUGH:
            steps.append(Step(_parts(graph, text, piece), through))
        through = piece == THROUGH
    _require_ends(text, sender, steps)
    for left, step in zip((sender, *(step.parts for step in steps)), steps, strict=False):
        _require_arrow(graph, text, left, step, left is sender)
    if len(steps) > 1 and steps[-1].at_end and steps[-1].through:  # what a path does anyway
        steps.pop()
    return Path(sender, tuple(steps))


def require_path(text: str) -> None:
    """Raise UnitError unless a text reads like a path; which parts a model has is asked later."""
    pieces = [part for piece in _ARROW.split(text.strip().replace("…", THROUGH)) for part in piece.split("+")]
    for stem in (piece.strip().partition("@")[0] for piece in pieces):
        if stem not in ("input", "logits", THROUGH) and not (_MLP.fullmatch(stem) or _HEAD.fullmatch(stem)):
            raise UnitError(f"{shown(stem)} in {shown(text)} is no part of a path. {_LOOK}")


def _parts(graph: Graph, text: str, piece: str) -> tuple[Part, ...]:
    """The parts that a piece between arrows names."""
    found = tuple(_part(graph, text, name) for name in piece.split("+"))
    for i, one in enumerate(found):
        for other in found[:i]:
            same = one.layer == other.layer and (
                set(one.reads) & set(other.reads) or (one.stem == other.stem and not one.reads)
            )
            if same and one.meets(other):
                what = f"{one.name} twice" if one.name == other.name else f"{other.name} and {one.name}, which overlap"
                raise UnitError(f"{shown(text)} names {what}. Name every part once.")
    return found


def _part(graph: Graph, text: str, name: str) -> Part:
    stem, at, where = name.strip().partition("@")
    span = read_range(where) if at else None
    if at and (span is None or not is_range(span)):
        raise UnitError(
            f"{shown(text)}: {shown(where)} behind {stem} are no positions. Write @7, @5-8, @end, or @-3--1 for the "
            "last three: both count from the start, or both from the end, and the smaller comes first."
        )
    if stem == "input":
        return Part(stem, -1, (), (0,), span)
    if stem == "logits":
        if span is not None:
            raise UnitError(f"{shown(text)}: the logits are read at the last position alone. Leave the positions out.")
        return Part(stem, graph.layers, ((LOGITS, -1),), ())
    if match := _MLP.fullmatch(stem):
        layer = _within(graph, text, stem, int(match[1]))
        return Part(stem, layer, ((MLP, -1),), (graph.block(layer).mlp,), span)
    if match := _HEAD.fullmatch(stem):
        layer = _within(graph, text, stem, int(match[1]))
        return _head(graph, text, (layer, match[2], int(match[3]), match[4]), span)
    raise UnitError(f"{shown(text)}: {shown(name)} is no part of a path. {_LOOK}")


def _within(graph: Graph, text: str, stem: str, layer: int) -> int:
    if layer >= graph.layers:
        raise UnitError(f"{shown(text)}: there is no {stem}; layers are 0 … {graph.layers - 1}.")
    return layer


def _head(graph: Graph, text: str, named: tuple[int, str, int, str | None], span: Range | None) -> Part:
    layer, what, index, kind = named
    share, whole = graph.heads // graph.kv_heads, what == "kv"
    stem = f"a{layer}.{what}{index}" + (f"<{kind}>" if kind else "")
    if index >= (graph.kv_heads if whole else graph.heads):
        raise UnitError(
            f"{shown(text)}: there is no {stem}; a block has {graph.heads} heads and {graph.kv_heads} key/value heads."
        )
    if whole and kind not in ("k", "v"):
        raise UnitError(f"{shown(text)}: {stem} has a key and a value alone: a{layer}.kv{index}<k> or <v>.")
    heads = range(index * share, (index + 1) * share) if whole else range(index, index + 1)
    if share == 1 and kind in ("k", "v"):  # one part, one name: that of the graph's edges
        stem = f"a{layer}.kv{index}<{kind}>"
    kinds = (Q, K, V) if kind is None else (_KINDS[kind],)
    reads = tuple((one, head) for one in kinds for head in heads)
    first = graph.block(layer).heads.start
    return Part(stem, layer, reads, tuple(first + head for head in heads), span)


def _require_ends(text: str, sender: Sequence[Part], steps: Sequence[Step]) -> None:
    """The sender writes, all behind it reads, and the logits come last and alone."""
    for one in sender:
        if not one.writes or "<" in one.stem:
            raise UnitError(
                f"{shown(text)}: {one.stem} sends nothing. A sender writes to the stream: input, a head (a5.h5) or an "
                "MLP (m3)."
            )
    for i, step in enumerate(steps):
        for one in step.parts:
            if not one.reads:
                raise UnitError(f"{shown(text)}: {one.stem} reads nothing. It can only be a sender, the first name.")
            if not one.writes and (i < len(steps) - 1 or len(step.parts) > 1):
                raise UnitError(f"{shown(text)}: logits end a path, and stand there alone.")


def _require_arrow(graph: Graph, text: str, left: Sequence[Part], step: Step, sends: bool) -> None:
    """Every part right of an arrow sees every part left of it; `...` leads from one place of the stream to one."""
    for writer in left:
        for reader in step.parts:
            if writer.written_at(graph) > reader.read_at(graph):
                raise UnitError(
                    f"{shown(text)} cannot exist: {writer.stem} writes to the stream only behind what {reader.stem} "
                    "reads. An arrow leads to a later part; make two paths where one of several is earlier."
                )
    if not step.through:
        return
    ends = [(step.parts, "leads to", {one.read_at(graph) for one in step.parts})]
    ends += [(tuple(left), "starts from", {one.written_at(graph) for one in left})] if sends else []
    for parts, what, places in ends:
        if len(places) > 1:
            raise UnitError(
                f"{shown(text)}: '{THROUGH}' {what} {_joined(parts)}, one of which lies on ways to another. Make a "
                "path of each, or join those of one block alone."
            )
