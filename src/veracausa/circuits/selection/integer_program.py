"""The connected circuit with the largest total importance, as an integer program.

    maximise Σ_e c_e x_e   subject to   Σ_e x_e ≤ n,   x_e, y_u ∈ {0, 1}               multipliers
    x_e ≤ y_u                      edge e is written by node u (u not the input)           α_e
    x_e ≤ Σ_{u fed by e} y_u       a node that e feeds is in (a key or value feeds more)   β_e
    y_u ≤ Σ_{e written by u} x_e   a node has an edge out                                  σ_u
    y_u ≤ Σ_{e feeds u} x_e        and an edge in                                          τ_u

The graph has no cycles, so following edges in backwards ends at the input and edges out forwards ends at the logits:
no flow or ordering is needed. An edge of negative importance is taken only where it connects; so there may be fewer
than n.

**Which edges have to be in the program.** For any multipliers ≥ 0 (λ that of the budget) and with

    r_e = c_e − λ − α_e − β_e + σ_u + Σ_{v fed by e} τ_v       s_u = Σ α + Σ β over the edges at u − σ_u − τ_u

no circuit exceeds B = λn + Σ_e max(0, r_e) + Σ_u max(0, s_u), and none with an edge of r_e < 0 exceeds B + r_e. The
multipliers come from the linear relaxation over the strongest edges; edges left out with r_e > 0 join it until there
are none. Then the program is solved over these edges, and again with all edges of r_e ≥ z − B where some are missing,
z being the total found: no other edge can be in a better circuit. B is computed over all edges, so what is proved does
not rest on the solver's tolerances. Where more than `MOST` edges would be needed, or time runs out, the notes say that
the solution is not proved to be the best one, and what total no circuit exceeds.

Solved by HiGHS through scipy; deterministic unless it runs out of time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.circuits.wiring import live_edges, writers_fed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Edges of the first program, for each edge of the budget and at least.
_FIRST, _LEAST = 1.25, 500
#: Edges of the largest program.
MOST = 20_000
#: The strongest edge in the solver's units: its own tolerances are absolute.
_SCALE = 1_000.0
#: What counts as proved, in units of the strongest edge.
_EXACT = 1e-6


@dataclass
class Found:
    """Rows of the chosen edges, in order; `bound`: no circuit has a larger total; notes on what is not proved."""

    chosen: Int[np.ndarray, " chosen"]
    total: float
    bound: float
    notes: list[str] = field(default_factory=list)


def optimal(
    graph: Graph,
    writer: Int[np.ndarray, " edges"],
    reader: Int[np.ndarray, " edges"],
    value: Float[np.ndarray, " edges"],
    n: int,
    *,
    seconds: float = 60.0,
) -> Found:
    """The best connected circuit of at most n of these edges; see the module. Empty where no path is worth it."""
    end = time.monotonic() + seconds
    live = _live(graph, writer, reader, np.arange(len(value)))
    program = _Program(graph, writer[live], reader[live], value[live], n)
    found = program.best(end)
    return Found(live[found.chosen], found.total, found.bound, found.notes)


def _live(graph: Graph, writer: np.ndarray, reader: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that lie on a path of the rows' edges."""
    mask = np.zeros((graph.readers, graph.writers), dtype=bool)
    mask[reader[rows], writer[rows]] = True
    return rows[live_edges(graph, mask)[reader[rows], writer[rows]]]


@dataclass(frozen=True)
class _Program:
    """The integer program over any of these edges."""

    graph: Graph
    writer: Int[np.ndarray, " edges"]
    reader: Int[np.ndarray, " edges"]
    value: Float[np.ndarray, " edges"]
    n: int

    def best(self, end: float) -> Found:
        """See `optimal`."""
        unit = float(np.abs(self.value).max(initial=0))
        if not unit:
            return Found(np.zeros(0, dtype=np.int64), 0.0, 0.0)
        order = np.argsort(-self.value, kind="stable")
        best = self._pruned(order[: self.n])
        inside, gain, bound = self._priced(np.sort(order[: self._first]), end)
        while True:
            solved = self._solved(inside, end)
            best = max(best, solved, key=lambda found: found.total)
            needed = np.flatnonzero(gain >= best.total - bound - _EXACT * unit)
            missing = np.setdiff1d(needed, inside)
            if not len(missing) or len(inside) + len(missing) > MOST or time.monotonic() > end:
                break
            inside = np.union1d(inside, missing)
        # A better circuit lies in the program last solved, or holds an edge that was missing there.
        outside = bound + min(0.0, float(gain[missing].max())) if len(missing) else best.total
        best.bound = max(best.total, min(bound, max(solved.bound, outside)))
        if best.bound > best.total + _EXACT * unit:
            best.notes = [
                f"optimal: not proved; total importance {best.total:.6g}, and no circuit has more than {best.bound:.6g}"
            ]
        return best

    @property
    def _first(self) -> int:
        return min(MOST, max(_LEAST, int(_FIRST * self.n)))

    def _pruned(self, rows: np.ndarray) -> Found:
        """The circuit that pruning leaves of these edges: a start, for want of a better one."""
        rows = np.sort(_live(self.graph, self.writer, self.reader, rows))
        total = float(self.value[rows].sum())
        return Found(rows, total, np.inf) if total > 0 else Found(rows[:0], 0.0, np.inf)

    def _priced(self, inside: np.ndarray, end: float) -> tuple[np.ndarray, Float[np.ndarray, " edges"], float]:
        """Edges of the relaxation, every edge's r_e (where it is left out: the least one), and the bound B."""
        from scipy.optimize import linprog

        least = self._unconnected()
        while True:
            matrix, upper, cost = self._rows(inside)
            left = max(1.0, end - time.monotonic())
            solved = linprog(cost, matrix, upper, bounds=(0, 1), method="highs", options={"time_limit": left})
            if solved.status != 0:
                return inside, *least
            multipliers = -solved.ineqlin.marginals / _SCALE * float(np.abs(self.value).max())
            gain, bound, open_edges = self._bounds(inside, np.clip(multipliers, 0, None))
            if bound < least[1]:
                least = gain, bound
            if not len(open_edges) or len(inside) + len(open_edges) > MOST or time.monotonic() > end:
                return inside, *least
            inside = np.union1d(inside, open_edges)

    def _unconnected(self) -> tuple[Float[np.ndarray, " edges"], float]:
        """r_e and B where only the budget has a multiplier, the n-th largest value: B is the sum of the n largest."""
        price = 0.0 if self.n >= len(self.value) else max(0.0, float(np.sort(self.value)[-self.n]))
        gain = self.value - price
        return gain, price * self.n + float(gain.clip(min=0).sum())

    def _bounds(
        self, inside: np.ndarray, multipliers: np.ndarray
    ) -> tuple[Float[np.ndarray, " edges"], float, Int[np.ndarray, " open"]]:
        """r_e of all edges, B, and the edges left out with r_e > 0.

        An edge left out has α = β = 0. Where its nodes have s < 0, these may be raised for it alone, which lowers its
        r_e at no cost to B.
        """
        budget, alpha, beta, sigma, tau = self._split(inside, multipliers)
        s = -sigma - tau
        np.add.at(s, self.writer[inside], alpha)
        for rank in range(self.fed.shape[1]):
            there = self.fed[inside, rank] >= 0
            np.add.at(s, self.fed[inside, rank][there], beta[there])
        s[0] = 0.0
        sigma[0] = 0.0
        padded = np.append(tau, 0.0)  # fed is −1 where an edge feeds nothing more
        gain = self.value - budget + sigma[self.writer] + padded[self.fed].sum(1)
        gain[inside] -= alpha + beta
        bound = budget * self.n + float(gain.clip(min=0).sum()) + float(s.clip(min=0).sum())
        out = np.setdiff1d(np.arange(len(gain)), inside)
        open_edges = out[gain[out] > _EXACT * float(np.abs(self.value).max())]
        slack = np.append(np.clip(-s, 0, None), np.inf)
        at_reader = slack[self.fed].min(1)
        at_reader[self.fed[:, 0] < 0] = 0.0
        gain[out] -= slack[self.writer[out]] + at_reader[out]
        return gain, bound, open_edges

    def _split(self, inside: np.ndarray, multipliers: np.ndarray) -> tuple[Any, ...]:
        """The multipliers by kind: λ, α and β of the edges inside, σ and τ of all writers."""
        edges, nodes = len(inside), self.graph.writers
        return multipliers[0], *np.split(multipliers[1:], np.cumsum([edges, edges, nodes]))

    @cached_property
    def fed(self) -> Int[np.ndarray, "edges most"]:
        """Writers that each edge feeds, −1 for none."""
        lists = [writers_fed(self.graph, reader) for reader in range(self.graph.readers)]
        table = np.full((len(lists), max(1, *map(len, lists))), -1)
        for reader, ends in enumerate(lists):
            table[reader, : len(ends)] = ends
        return table[self.reader]

    def _rows(self, inside: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
        """A, b and the cost of `A z ≤ b`, z = (x, y): budget, α rows, β rows, σ rows, τ rows."""
        from scipy.sparse import coo_array

        edges, nodes = len(inside), self.graph.writers
        each, all_nodes = np.arange(edges), np.arange(nodes)
        writer, fed = self.writer[inside], self.fed[inside]
        row, column, factor = [np.zeros(edges, dtype=int)], [each], [np.ones(edges)]

        def add(rows: np.ndarray, columns: np.ndarray, number: float) -> None:
            row.append(rows)
            column.append(columns)
            factor.append(np.full(len(rows), number))

        alpha, beta, sigma, tau = 1, 1 + edges, 1 + 2 * edges, 1 + 2 * edges + nodes
        inner, feeding = each[writer > 0], each[fed[:, 0] >= 0]
        add(alpha + inner, inner, 1.0)
        add(alpha + inner, edges + writer[inner], -1.0)
        add(beta + feeding, feeding, 1.0)
        add(sigma + all_nodes[1:], edges + all_nodes[1:], 1.0)
        add(sigma + writer[inner], inner, -1.0)
        add(tau + all_nodes[1:], edges + all_nodes[1:], 1.0)
        for rank in range(fed.shape[1]):
            there = each[fed[:, rank] >= 0]
            add(beta + there, edges + fed[there, rank], -1.0)
            add(tau + fed[there, rank], there, -1.0)
        shape = (1 + 2 * edges + 2 * nodes, edges + nodes)
        entries = np.concatenate(factor), (np.concatenate(row), np.concatenate(column))
        upper = np.zeros(shape[0])
        upper[0] = self.n
        cost = np.zeros(shape[1])
        cost[:edges] = -self.value[inside] / float(np.abs(self.value).max()) * _SCALE
        return coo_array(entries, shape=shape).tocsr(), upper, cost

    def _solved(self, inside: np.ndarray, end: float) -> Found:
        """The integer program over the edges inside."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        matrix, upper, cost = self._rows(inside)
        solved = milp(
            cost,
            constraints=LinearConstraint(matrix, ub=upper),
            integrality=np.ones(len(cost)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "time_limit": max(1.0, end - time.monotonic())},
        )
        scale = float(np.abs(self.value).max()) / _SCALE
        bound = np.inf if solved.mip_dual_bound is None else -float(solved.mip_dual_bound) * scale
        if solved.x is None:
            return Found(np.zeros(0, dtype=np.int64), 0.0, bound)
        chosen = inside[solved.x[: len(inside)] > 0.5]
        return Found(chosen, float(self.value[chosen].sum()), bound)
