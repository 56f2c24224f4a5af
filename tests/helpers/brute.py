"""Circuits by names and sets: pruning as a fixpoint, greedy and optimal selection by trying; and tables of scores."""

import itertools
import re

import numpy as np
import torch

from veracausa.anatomy.graph import Graph
from veracausa.cost import Cost
from veracausa.scores.scores import Scores
from veracausa.units.edges import Edges

SMALL = Graph(2, 2, 2)
GROUPED = Graph(3, 4, 2)
PARALLEL = Graph(3, 4, 2, parallel=True)
FLAT = Graph(3, 4, 2, joint=("q", "k"))
LATENT = Graph(3, 4, 4, joint=("kv",))


def every_name(graph):
    return Edges.of(graph, *graph.edges).names


def nodes_fed(graph, reader):
    """Names of the writers that a reader feeds."""
    if match := re.fullmatch(r"a(\d+)<.+>", reader):  # of all heads
        return [f"a{match[1]}.h{i}" for i in range(graph.heads)]
    match = re.fullmatch(r"a(\d+)\.(h|kv)(\d+)<.>", reader)
    if match and match[2] == "kv":
        share = graph.heads // graph.kv_heads
        return [f"a{match[1]}.h{int(match[3]) * share + i}" for i in range(share)]
    return [re.sub(r"<.>", "", reader)] if reader != "logits" else []


def prune(graph, names):
    """Drop edges whose writer is not fed or whose reader feeds nothing that writes, until nothing changes."""
    kept = set(names)
    while True:
        written = {name.split("->")[0] for name in kept}
        fed = {node for name in kept for node in nodes_fed(graph, name.split("->")[1])}
        left = {
            name
            for name in kept
            for writer, reader in [name.split("->")]
            if (writer == "input" or writer in fed)
            and (reader == "logits" or any(node in written for node in nodes_fed(graph, reader)))
        }
        if left == kept:
            return kept
        kept = left


def greedy(graph, value, n):
    """From the logits: all edges whose reader feeds a node in the circuit are open; take the strongest, n times."""
    inside, chosen = {"logits"}, []
    while len(chosen) < n:
        found = [
            name
            for name in value  # in the graph's order
            if name not in chosen and (name.endswith("->logits") or inside & set(nodes_fed(graph, name.split("->")[1])))
        ]
        if not found:
            break
        best = max(found, key=lambda name: value[name])
        chosen.append(best)
        inside.add(best.split("->")[0])
    return set(chosen)


def optimum(graph, value, n):
    """Largest total over all connected sets of at most n edges, the empty one included."""
    sets = (chosen for size in range(n + 1) for chosen in itertools.combinations(value, size))
    return max(sum(map(value.get, s)) for s in sets if prune(graph, s) == set(s))


def scores(graph, values, **more):
    """Scores of edges [examples, edges of the graph] (or of `names`), denoising: importances are the values."""
    values = torch.as_tensor(np.atleast_2d(np.asarray(values, dtype=np.float64)))
    n = len(values)
    parts = {
        "values": values, "units": Edges.of(graph, *graph.edges), "method": "exact",
        "settings": {"direction": "denoising"}, "model": {"name": "m", "source": "s", "identity": "id"},
        "task": {"name": "t", "description": "t", "digest": "d", "metric": "logit_diff", "n": n},
        "clean": torch.ones(n, dtype=torch.float64), "corrupted": torch.zeros(n, dtype=torch.float64), "cost": Cost(),
    }  # fmt: skip
    return Scores(**(parts | more))
