"""Nodes of circuits of features: which parts are over the threshold, and which of them an edge can lead between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from veracausa.circuits.featured import strongest
from veracausa.effects.crossing_rows import crosses
from veracausa.engine.path_codes import STREAMS, Coded, is_feature
from veracausa.scores.scores import Scores

if TYPE_CHECKING:
    from veracausa.anatomy.graph import Graph
    from veracausa.model import Model


@dataclass(frozen=True)
class Node:
    """A node of the circuit: its name, its part of a dictionary, and its position (−1: summed over all)."""

    name: str
    part: Coded
    position: int

    def place(self, start: int, length: int) -> tuple[int, int]:
        """First and last position, counted from `start`."""
        return (0, length - start - 1) if self.position < 0 else (self.position - start, self.position - start)


#: Upstream and downstream node.
Edge = tuple[Node, Node]


def chosen(
    lm: Model, scored: Sequence[Scores], threshold: float, most: int | None
) -> tuple[list[Node], list[tuple[str, Tensor]]]:
    """Parts over the threshold, along the stream; and those behind which no dictionary reads, with their scores."""
    found, last = [], []
    for which, i in strongest(scored, threshold, most):
        one, sites = scored[which], parts_of(lm)
        part = next(site for site in sites if (site.kind, site.layer) == (one.units.kind, int(one.units.layer[i])))
        part = Coded(part.kind, part.layer, int(one.units.index[i]), part.reads, part.writes)
        name = one.units[[i]].names[0]
        found.append(Node(name, part, int(one.units.position[i])))
        if not any(joins(lm, part, other) for other in sites):
            last.append((name, one.values[:, i]))
    return sorted(found, key=lambda node: node.part.written_at(lm.graph)), last


def parts_of(lm: Model) -> list[Coded]:
    """One part of every dictionary."""
    return [
        Coded(kind, layer, 0, code.dictionary.reads, code.dictionary.writes)
        for (kind, layer), code in lm.decoder.codes.items()
    ]


def joins(lm: Model, up: Coded, down: Coded) -> bool:
    """Whether an edge leads from one part to another: it is read behind it, and no dictionary of the stream between."""
    graph: Graph = lm.graph
    first, last = up.written_at(graph), down.read_at(graph)
    if first > last or up.writes == down.writes:
        return False
    return not any(
        first <= one.read_at(graph) <= last
        for one in parts_of(lm)
        if one.behind in STREAMS and one.writes not in (up.writes, down.writes)
    )


def edges_between(lm: Model, nodes: Sequence[Node]) -> list[Edge]:
    """All edges, by their downstream node along the stream."""
    readers = [node for node in nodes if is_feature(node.part) or not crosses(lm, node.part.kind)]
    return [(up, down) for down in readers for up in nodes if joins(lm, up.part, down.part)]
