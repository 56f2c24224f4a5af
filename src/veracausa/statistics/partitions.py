"""Partitions of a graph's nodes: how alike two of them are, and graphs of the same degrees to hold one against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int


def adjusted_rand(one: Int[np.ndarray, " nodes"], other: Int[np.ndarray, " nodes"]) -> float:
    """The adjusted Rand index (Hubert & Arabie 1985): 1 for equal partitions, 0 on average for unrelated ones.

    (Σ C(n_ij, 2) − E) / ((Σ C(a_i, 2) + Σ C(b_j, 2)) / 2 − E),    E = Σ C(a_i, 2) Σ C(b_j, 2) / C(n, 2)

    1, too, where both put all nodes together, or each apart.

    >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    """
    first, second = (np.unique(each, return_inverse=True)[1] for each in (one, other))
    table = np.zeros((first.max(initial=0) + 1, second.max(initial=0) + 1))
    np.add.at(table, (first, second), 1)
    both, a, b, whole = (
        float((n * (n - 1) / 2).sum()) for n in (table, table.sum(1), table.sum(0), np.array([len(first)]))
    )
    expected = a * b / whole if whole else 0.0
    return 1.0 if (a + b) / 2 == expected else (both - expected) / ((a + b) / 2 - expected)


def swapped(
    sources: Int[np.ndarray, " edges"], targets: Int[np.ndarray, " edges"], drawn: np.random.Generator, times: int = 10
) -> Int[np.ndarray, " edges"]:
    """Targets of a random graph between the same two sets of nodes, in which every node has as many edges as before.

    `times` swaps for every edge are tried: a → b, c → d become a → d, c → b unless there is such an edge already.
    """
    found, known = targets.copy(), set(zip(sources.tolist(), targets.tolist(), strict=True))
    for i, j in drawn.integers(len(sources), size=(times * len(sources), 2)).tolist():
        a, b, c, d = int(sources[i]), int(found[i]), int(sources[j]), int(found[j])
        if (a, d) in known or (c, b) in known:
            continue
        known -= {(a, b), (c, d)}
        known |= {(a, d), (c, b)}
        found[i], found[j] = d, b
    return found
