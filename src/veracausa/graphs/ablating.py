"""Nodes of a graph taken out of the frozen network: patterns and norms held, features answering by their encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.graphs.graph import AttributionGraph
from veracausa.graphs.held import Held
from veracausa.graphs.influence import ERROR, TOKEN

if TYPE_CHECKING:
    from jaxtyping import Float

#: Rows that run together.
_ROWS = 32


@dataclass(frozen=True)
class Taken:
    """A node that is set to 0: which row, its kind, layer, position, and (of features) number."""

    row: int
    kind: int
    layer: int
    position: int
    feature: int


@torch.no_grad()
def frozen_metrics(held: Held, graph: AttributionGraph, sets: Sequence[Sequence[int]]) -> Float[Tensor, " sets"]:
    """The metric, before any cap, of the frozen network without each of these sets of nodes."""
    found = []
    for first in range(0, len(sets), _ROWS):
        some = sets[first : first + _ROWS]
        taken = [_taken(graph, row, node) for row, nodes in enumerate(some) for node in nodes]
        found.append(_run(held, len(some), taken))
    return torch.cat(found)


def _taken(graph: AttributionGraph, row: int, node: int) -> Taken:
    kind, layer, position = (int(of[node]) for of in (graph.kinds, graph.layers, graph.positions))
    last = graph.names[node].partition("@")[0].rpartition(".")[2]
    return Taken(row, kind, layer, position, int(last) if kind < ERROR else -1)


def _run(held: Held, rows: int, taken: Sequence[Taken]) -> Float[Tensor, " rows"]:
    network = held.network
    stream = network.stream.expand(rows, -1, -1).clone()
    for one in taken:
        if one.kind == TOKEN:
            stream[one.row, one.position] = 0

    codes, features = held.codes, dict[int, Tensor]()

    def write(layer: int, read: Tensor) -> Tensor:
        own = [one for one in taken if one.layer == layer and one.kind <= ERROR]
        error = held.errors[layer].expand(rows, -1, -1).clone()
        for one in own:
            if one.kind == ERROR:
                error[one.row, one.position] = 0
        for earlier, f in features.items():
            if layer in codes[earlier].dictionary.layers:
                error = error + codes[earlier].dictionary.written(f, layer)
        if layer not in codes:
            return error
        dictionary = codes[layer].dictionary
        f = dictionary.encode(read.to(error))
        for one in own:
            if one.kind < ERROR:
                f[one.row, one.position, one.feature] = 0
        if dictionary.onward is not None:
            features[layer] = f
        return f @ dictionary.weight + dictionary.bias + held.skipped(layer, read.to(error)) + error

    _, end = network.run(stream, write)
    return held.metric(end)
