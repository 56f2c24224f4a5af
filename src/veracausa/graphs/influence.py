"""Influence, pruning and scores of an attribution graph, as circuit-tracer defines them.

With Â the rows of |A| divided by their sums and w the logits' probabilities,

    influence = w (Â + Â² + …),   edge influence = Â[t, s] · (influence[t] + w[t])  (of the graph of the kept nodes)

Nodes are kept from the most influential on until they hold a share of all influence, then edges likewise; tokens and
logits always stay; features without inputs, and features and errors without outputs, go.
(safety-research/circuit-tracer, `graph.py`, 72f92c6.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

#: Kinds of nodes, in the order in which they stand.
FEATURE, ERROR, TOKEN, LOGIT = range(4)
_SMALLEST = 1e-10


@dataclass(frozen=True, eq=False)
class Pruned:
    """`nodes`, `edges`: which are kept. `cumulative`: the share of all influence up to each node, strongest first."""

    nodes: Bool[Tensor, " nodes"]
    edges: Bool[Tensor, "targets sources"]
    cumulative: Float[Tensor, " nodes"]


def normalised(adjacency: Float[Tensor, "targets sources"]) -> Float[Tensor, "targets sources"]:
    """Â: |A|, every row divided by its sum; rows of zeros stay."""
    size = adjacency.abs()
    return size / size.sum(1, keepdim=True).clamp_min(_SMALLEST)


def influence(adjacency: Float[Tensor, "nodes nodes"], weights: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
    """w (Â + Â² + …); a graph has no circles, so that the sum ends."""
    shares = normalised(adjacency)
    flow = weights @ shares
    found = flow.clone()
    for _ in range(len(adjacency)):
        if not flow.any():
            break
        flow = flow @ shares
        found += flow
    return found


def edge_influence(
    adjacency: Float[Tensor, "nodes nodes"], weights: Float[Tensor, " nodes"]
) -> Float[Tensor, "nodes nodes"]:
    """What flows along every edge."""
    return normalised(adjacency) * (influence(adjacency, weights) + weights)[:, None]


def pruned(
    adjacency: Float[Tensor, "nodes nodes"],
    weights: Float[Tensor, " nodes"],
    kinds: Int[Tensor, " nodes"],
    node_threshold: float,
    edge_threshold: float,
) -> Pruned:
    """The part of a graph that holds these shares of the influence on the logits."""
    reached = influence(adjacency, weights)
    always, feature = kinds >= TOKEN, kinds == FEATURE
    nodes = (reached >= _least(reached, node_threshold)) | always
    inside = adjacency * nodes[:, None] * nodes
    flows = edge_influence(inside, weights)
    edges = (flows >= _least(flows.flatten(), edge_threshold)) & (inside != 0)
    while True:
        edges = edges & nodes[:, None] & nodes
        left = nodes & (always | edges.any(0)) & (~feature | edges.any(1))
        if bool((left == nodes).all()):
            break
        nodes = left
    order = torch.argsort(-reached, stable=True)
    cumulative = torch.empty_like(reached)
    cumulative[order] = reached[order].cumsum(0) / reached.sum().clamp_min(_SMALLEST)
    return Pruned(nodes, edges, cumulative)


def _least(scores: Float[Tensor, " scores"], share: float) -> Tensor:
    """The smallest score of those that hold a share of the sum, the largest first."""
    ordered = scores.sort(descending=True).values
    reached = ordered.cumsum(0) / ordered.sum().clamp_min(_SMALLEST)
    at = int(torch.searchsorted(reached, torch.tensor(share, dtype=reached.dtype)))
    return ordered[min(at, len(ordered) - 1)]


def replacement_score(
    adjacency: Float[Tensor, "nodes nodes"], weights: Float[Tensor, " nodes"], kinds: Int[Tensor, " nodes"]
) -> float:
    """Influence of tokens, as a share of that of tokens and errors: how much goes through features alone."""
    reached = influence(adjacency, weights)
    tokens, errors = (float(reached[kinds == kind].sum()) for kind in (TOKEN, ERROR))
    return tokens / max(tokens + errors, _SMALLEST)


def completeness_score(
    adjacency: Float[Tensor, "nodes nodes"], weights: Float[Tensor, " nodes"], kinds: Int[Tensor, " nodes"]
) -> float:
    """The share of nodes' inputs that comes from no error, weighted by what the nodes do to the logits."""
    explained = 1 - normalised(adjacency)[:, kinds == ERROR].sum(1)
    reached = influence(adjacency, weights) + weights
    return float((explained * reached).sum() / reached.sum().clamp_min(_SMALLEST))
