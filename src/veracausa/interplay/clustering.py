"""Modules: parts of many layers that interact more with each other than with the rest (`modules`).

Nodes are the parts of a chain of sites, edges the strongest interactions of each site with the next, weighed within
each such pair of sites, since strengths are in units of the readers. Modules maximise the modularity of that graph
(Louvain). Random graphs, too, have modules: some of the same degrees and weights are clustered beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.choices import EdgeWeight
from veracausa.errors import MethodError
from veracausa.extras import require_extra
from veracausa.interplay.module_results import Modules
from veracausa.interplay.results import Interactions
from veracausa.statistics.partitions import adjusted_rand, swapped
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Weight → in words.
WEIGHTS: dict[EdgeWeight, str] = {
    "share": "share of the kept strength of its two sites",
    "raw": "strength",
    "log": "log10 of strength over the weakest kept of its two sites",
}
#: What the interactions of a chain must share.
_SHARED = ("method", "way", "ablation", "reference_digest")


@dataclass(frozen=True)
class _Edges:
    """Edges between nodes, `pair` by pair of sites."""

    source: Int[np.ndarray, " edges"]
    target: Int[np.ndarray, " edges"]
    strength: Float[np.ndarray, " edges"]
    weight: Float[np.ndarray, " edges"]
    pair: Int[np.ndarray, " edges"]


def modules(
    found: Sequence[Interactions],
    *,
    keep: int = 200,
    weight: EdgeWeight = "share",
    resolution: float = 1.0,
    random: int = 20,
    draws: int = 20,
    seed: int = 0,
) -> Modules:
    """Modules of a chain of sites, of the interactions of each with the next.

    Args:
        found: interactions upward: the readers of each are the sources of the next. One alone is a chain, too.
        keep: edges of every two neighbouring sites: the strongest, and none of strength 0.
        weight: "share": of the kept strength of its two sites; "raw": the strength, in units of the reader; "log":
            log₁₀(strength / the weakest kept one), so that the weakest has no weight.
        resolution: of the modularity; above 1 modules are smaller.
        random: random graphs, in which every node keeps its number of edges up and down, and weights are dealt anew
            among the edges of two sites; at least 20.
        draws: bootstrap draws of the prompts, whose edges are chosen and clustered anew.
        seed: of Louvain, the random graphs and the draws.

    Raises:
        MethodError: no chain, of several tasks, models or methods, or nothing interacts. ExtraError: networkx lacks,
            which PyTorch brings.

    >>> chain = ["heads:10", "neurons:10", "heads:11"]
    >>> found = [vc.interactions(lm, task, one, other) for one, other in zip(chain, chain[1:])]
    >>> vc.interplay.modules(found).sentences
    """
    require_extra("graphs")
    if weight not in WEIGHTS:
        raise MethodError(not_known("weight", weight, [*WEIGHTS]))
    if keep < 1 or random < 20 or draws < 0 or not resolution > 0:
        raise MethodError("modules takes keep=1 or more, random=20 or more, draws=0 or more and a resolution over 0.")
    found = tuple(found)
    _require_chain(found)
    nodes, step = _nodes(found)
    edges = _edges(found, nodes, [one.strength for one in found], keep, weight)
    if not len(edges.source):
        raise MethodError("Nothing interacts here: no strength is over 0.")
    own, modularity = _louvain(edges, resolution, seed)
    generator = np.random.default_rng(seed)
    held = [_louvain(_random(edges, generator), resolution, seed)[1] for _ in range(random)]
    alike = [] if found[0].n < 2 else [
        _agree(own, _louvain(_edges(found, nodes, _drawn(found, generator), keep, weight), resolution, seed)[0])
        for _ in range(draws)
    ]  # fmt: skip
    return _result(found, nodes, step, edges, own, modularity, held, alike, {
        "keep": keep, "weight": weight, "resolution": resolution, "seed": seed,
    })  # fmt: skip


def _require_chain(found: Sequence[Interactions]) -> None:
    if not found:
        raise MethodError("A chain has interactions of two sites at least; there are none.")
    for below, above in pairwise(found):
        if not set(below.readers) & set(above.sources):
            raise MethodError(
                f"No chain: none of the readers {below.readers[0]} … are among the sources {above.sources[0]} …."
            )
    first = found[0]
    for other in found[1:]:
        different = [name for name in _SHARED if other.settings.get(name) != first.settings.get(name)]
        different += ["model"] if other.model["identity"] != first.model["identity"] else []
        different += ["task"] if other.task["digest"] != first.task["digest"] else []
        if different:
            raise MethodError(f"Interactions of one chain must share what they are of; these differ in {different[0]}.")


def _nodes(found: Sequence[Interactions]) -> tuple[dict[str, int], list[int]]:
    """Every part's place, in the order of the chain, and which site it is of."""
    step: dict[str, int] = {}
    for k, one in enumerate(found):
        step |= {name: k for name in one.sources if name not in step}
        step |= {name: k + 1 for name in one.readers if name not in step}
    order = sorted(step, key=step.__getitem__)  # stable: names keep their order within a site
    return {name: i for i, name in enumerate(order)}, [step[name] for name in order]


def _edges(
    found: Sequence[Interactions], nodes: dict[str, int], strengths: Sequence[np.ndarray], keep: int, weight: EdgeWeight
) -> _Edges:
    """The strongest interactions of every two sites, weighed."""
    parts: list[tuple[np.ndarray, ...]] = []
    for k, (one, strength) in enumerate(zip(found, strengths, strict=True)):
        order = np.argsort(-strength, axis=None, kind="stable")[:keep]
        order = order[strength.ravel()[order] > 0]
        i, j = np.unravel_index(order, strength.shape)
        value = strength[i, j]
        weighed = {"raw": value, "share": value / max(value.sum(), 1e-300),
                   "log": np.log10(value / value.min(initial=np.inf))}[weight]  # fmt: skip
        names = ([one.sources[n] for n in j], [one.readers[n] for n in i])
        ends = (np.array([nodes[name] for name in own], dtype=np.int64) for own in names)
        parts.append((*ends, value, weighed, np.full(len(i), k)))
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    real = joined[3] > 0
    return _Edges(*(column[real] for column in joined))


def _louvain(edges: _Edges, resolution: float, seed: int) -> tuple[dict[int, int], float]:
    """Node → module, of those that have edges, the largest module first; and the modularity."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(np.unique(np.concatenate([edges.source, edges.target])).tolist())
    graph.add_weighted_edges_from(zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True))
    how: dict[str, Any] = {"weight": "weight", "resolution": resolution}
    groups = sorted(nx.community.louvain_communities(graph, seed=seed, **how), key=lambda own: (-len(own), min(own)))
    return {node: k for k, group in enumerate(groups) for node in group}, nx.community.modularity(graph, groups, **how)


def _random(edges: _Edges, generator: np.random.Generator) -> _Edges:
    """The same with other readers and, since all may be kept, weights dealt anew among the edges of two sites.

    Every node keeps its number of edges to the site above and below.
    """
    target, weight = edges.target.copy(), edges.weight.copy()
    for k in np.unique(edges.pair):
        own = edges.pair == k
        target[own] = swapped(edges.source[own], edges.target[own], generator)
        weight[own] = generator.permutation(weight[own])
    return _Edges(edges.source, target, edges.strength, weight, edges.pair)


def _drawn(found: Sequence[Interactions], generator: np.random.Generator) -> list[np.ndarray]:
    """Strengths over a bootstrap draw of the prompts, the same of all sites."""
    times = np.bincount(generator.integers(found[0].n, size=found[0].n), minlength=found[0].n)
    made = []
    for one in found:
        made.append(np.sqrt(np.nan_to_num(one.over(one.squares.double(), torch.from_numpy(times)).numpy())))
    return made


def _agree(own: dict[int, int], other: dict[int, int]) -> float:
    """The adjusted Rand index over the nodes that both have."""
    both = sorted(own.keys() & other.keys())
    return adjusted_rand(np.array([own[node] for node in both]), np.array([other[node] for node in both]))


def _result(
    found: Sequence[Interactions], nodes: dict[str, int], step: list[int], edges: _Edges, own: dict[int, int],
    modularity: float, held: list[float], alike: list[float], how: dict[str, Any],
) -> Modules:  # fmt: skip
    """The nodes that have edges, numbered anew."""
    kept = sorted(own)
    place = {node: k for k, node in enumerate(kept)}
    names = list(nodes)
    first = found[0]
    settings = {name: first.settings[name] for name in _SHARED if name in first.settings} | how
    settings["trust"] = "of exact interactions" if first.exact else "of estimated interactions, not verified"
    return Modules(
        (first.settings["sources"], *(one.settings["readers"] for one in found)),
        tuple(names[node] for node in kept), tuple(step[node] for node in kept), tuple(own[node] for node in kept),
        tuple(place[node] for node in edges.source.tolist()), tuple(place[node] for node in edges.target.tolist()),
        tuple(edges.strength.tolist()), tuple(edges.weight.tolist()), float(modularity), tuple(held), tuple(alike),
        settings, first.model, first.task,
    )  # fmt: skip
