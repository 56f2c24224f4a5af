"""Paths: units that are the change of a writer, passed on along some edges alone.

    a5.h5->a8.h6<v>+a9.h9<q>             a sender to two readers; all that comes after them follows
    a5.h5->a8.h6<v>->a9.h9<q>->logits    a chain: that one way, nothing else
    a5.h5->...->a9.h9<q>->logits         every way from a5.h5 to that query, through anything between
    input->...->a9.h9->...->logits       every way through a node (its query, key and value)
    f10.12->f20.517                      a feature's change, seen by another's encoder alone; all after that follows
    f10.12->...->f20.517->logits         the same with all heads and MLPs between following, and straight to the logits
    m3@7->a9.kv1<v>@5-8->logits          the change at position 7 alone, seen at positions 5 to 8 alone
    a5.h5->a9.h9<q>@subject->logits      seen at the tokens of a span alone, where the patched prompt has it

A path means a set of edges that carry change, writer → reader, where every head has a query, a key and a value of its
own (`a9.kv1<v>` are those of all heads of a key/value group, `a9.h3<v>` is one of them; `a9.h3` all three of a head).
Where all heads of a block share a reader, it is a part by itself, `a9<q>`, by which what all of them write changes:

* `x->y`: one edge from every part of x to every part of y;
* `x->...->y`: every edge on a way from a part of x to a part of y, the direct one among them;
* a path that ends in another reader than the logits goes on with `->...->logits`.

The sender's change is given: its write in the other run (or nothing) − its write in the base run. Every reader's input
is the base run's stream plus the changes that its edges bring, and every writer's change is what it makes of its
readers' inputs − its write in the base run. A part of a dictionary reads with its encoder alone (of an attention's or
an MLP's output: with that, too) and writes the change of its own activation. In families with post-norms a head's
change rescales what the other heads of its block write: that is part of `...` and of no other arrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.engine.path_codes import Coded
from veracausa.errors import UnitError
from veracausa.units.path_names import Laid, parse_path
from veracausa.units.path_parts import Path, joined
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.engine.patches import Place


@dataclass(frozen=True, eq=False, repr=False)
class Paths(Units):
    """A table of paths of one graph. `layer`: the first block that a path runs (L: none); `labels`: its names."""

    graph: Graph
    paths: tuple[Path, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls, graph: Graph, texts: Sequence[str], labels: Sequence[str] | None = None, laid: Laid | None = None
    ) -> Paths:
        """Paths by their texts, called by these names or by what they are made of.

        `laid`: the sites of the dictionaries whose parts they may name, by kind and layer.

        Raises:
            UnitError: a text that is no path of this graph, or two of one name.

        >>> Paths.of(lm.graph, ["a5.h5->a8.h6<v>->logits"]).names
        ['a5.h5->a8.h6<v>->logits']
        """
        found = tuple(parse_path(graph, text, laid) for text in texts)
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

    @property
    def named(self) -> tuple[str, ...]:
        """The spans that parts are at, each once."""
        return tuple(dict.fromkeys(name for path in self.paths for name in path.named))

    @property
    def coded(self) -> list[Coded]:
        """The parts of dictionaries that paths name, each once."""
        return list(dict.fromkeys(part.coded for path in self.paths for part in path.parts if part.coded is not None))

    @property
    def laid(self) -> Laid:
        """The sites of the dictionaries whose parts paths name, by kind and layer."""
        return {(one.kind, one.layer): (one.reads.name, one.writes.name) for one in self.coded}

    def checked(self, graph: Graph, model: str, longest: int) -> Paths:
        """The table, if it is about a model's graph and some prompt has all counted positions of each path.

        Raises:
            UnitError: it is not, or names the first path that no prompt of at most `longest` tokens has.
        """
        if not len(self):
            raise UnitError("The table of paths is empty. Name at least one, e.g. ['a0.h0->m1->logits'].")
        if self.graph != graph:
            raise UnitError(f"The paths are those of {self.graph}, but {model} is {graph}.")
        for name, path in zip(self.names, self.paths, strict=True):
            if not path.exists(longest, dict.fromkeys(path.named, (0, 1))):
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
            "sender": [joined(path.sender) for path in self.paths],
            "layer": self.layer,
        }
        return pd.DataFrame(columns if texts == self.names else columns | {"path": texts})

    def digest(self) -> str:
        """A hash of the table and of the graph."""
        return hashlib.sha256(f"{[path.name for path in self.paths]} {self.graph.sizes}".encode()).hexdigest()[:16]

    def to_list(self) -> list[dict[str, Any]]:
        """Names and texts, for a file's header."""
        return [{"name": name, "path": path.name} for name, path in zip(self.names, self.paths, strict=True)]


def _first_block(graph: Graph, path: Path) -> int:
    """The block where the sender's change joins the stream or is first read; L where only the logits see it."""
    if path.steps[0].through:
        return path.sender[0].written_at(graph) // 2
    return min(part.layer for part in path.steps[0].parts)
