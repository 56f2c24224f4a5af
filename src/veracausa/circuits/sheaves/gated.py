"""Runs under gates on edges and on weights (`estimates.learned.descent.Gated`); whatever is closed is zero.

A weight's gate multiplies it; an edge's is the weight of the edge in the circuit's run (`engine.soft_circuit`). Gates
of one row: edges first, then weights, of what is learned; `edges`, `weights` are what stands for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.runs.recorded import Group, Recorded
from veracausa.engine.ablated import Constants
from veracausa.engine.circuit_forward import all_edges_mask, wiring_of
from veracausa.engine.masked_weights import Weights
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class GatedSheaf:
    """See the module. `groups`: those of steps, each as its recorded buckets (several where memory is short).

    `learned`: of which gates there are, "edges", "weights" or both; `fixed`: gates of all weights, where these are not
    learned (None: all are open).
    """

    recorded: Recorded
    edges: Edges
    weights: Weights
    loss: str
    groups: list[list[Group]]
    learned: Sequence[str]
    fixed: Float[Tensor, " weights"] | None = None
    along: list[Tensor] = field(default_factory=list)

    def pairs(self, group: int) -> list[int]:
        """Which pairs a group has."""
        return [pair for own in self.groups[group] for pair in own.soft.tape.examples]

    def tokens(self, group: int) -> float:
        """Token-layers of one run of a group and its gradient: 1 forward, 1 back to activations, 1 to weights."""
        passes = 2 + ("weights" in self.learned)
        return float(sum(passes * len(own) * own.positions * self.recorded.lm.layers for own in self.groups[group]))

    def slope(self, group: int, gates: Float[Tensor, " gates"], cause: bool) -> tuple[float, Float[Tensor, " gates"]]:
        """Summed loss of a group, and its gradient with respect to the gates."""
        own, total = torch.zeros_like(gates), 0.0
        of = self.recorded.judged(self.loss, cause)

        def run(group: Group, rows: slice) -> tuple[float, Tensor]:
            leaf = gates.detach().clone().requires_grad_()
            with torch.enable_grad():
                edges, weights = self._parts(leaf)
                with self.weights.standing({} if weights is None else self.weights.times(weights)):
                    soft = replace(group.soft, ablated=_nothing(group))
                    loss = of(group, soft.run(self._mask(edges, leaf), rows), rows).sum()
                    (found,) = torch.autograd.grad(loss, leaf)
            self._count(group, rows)
            return float(loss.detach()), found

        for value, found in self.recorded.chunks(run, backward=True, among=self.groups[group]):
            total += value
            own += found
        return total, own

    def _parts(self, gates: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gates of edges and of weights; None: all open."""
        both = len(self.learned) > 1
        edges = gates[: len(self.edges)] if both else gates if "edges" in self.learned else None
        weights = gates[len(self.edges) :] if both else gates if "weights" in self.learned else self.fixed
        return edges, weights

    def _mask(self, edges: Tensor | None, like: Tensor) -> Float[Tensor, "readers writers"]:
        """Weights of edges by their ends."""
        graph, device = self.edges.graph, like.device
        reader, writer = (torch.as_tensor(end, device=device) for end in (self.edges.reader, self.edges.writer))
        given = torch.ones_like(reader, dtype=like.dtype) if edges is None else edges
        return like.new_zeros(graph.readers, graph.writers).index_put((reader, writer), given)

    def _count(self, group: Group, rows: slice) -> None:
        """Token-layers of some rows: see `tokens`."""
        tokens = len(range(*rows.indices(len(group)))) * group.positions * self.recorded.lm.layers
        group.soft.cost.forward += tokens
        group.soft.cost.backward += tokens * (1 + ("weights" in self.learned))


def _nothing(group: Group) -> Constants:
    """Zero in the place of ablated edges, with nothing remembered of weights that stood there before."""
    ablated = group.soft.ablated
    assert isinstance(ablated, Constants)
    return Constants(ablated.decoder, ablated.tape, ablated.writes)


@torch.no_grad()
def ran(
    recorded: Recorded,
    weights: Weights,
    gates: Float[Tensor, " weights"] | None,
    mask: Bool[np.ndarray, "readers writers"] | None,
) -> tuple[Float[Tensor, " examples"], Float[Tensor, " examples"]]:
    """M and KL (from the bare clean run) of every pair under weights times gates, with the edges of a mask alone.

    None: all weights, all edges. The attention function must be `attention.SUFFIX`.
    """
    lm = recorded.lm
    wiring = wiring_of(lm.decoder, all_edges_mask(lm.graph) if mask is None else mask, settled=False)
    metric, kl = (torch.full_like(recorded.measured.clean, float("nan")) for _ in range(2))

    def run(group: Group, rows: slice) -> None:
        last = replace(group.hard, ablated=_nothing(group))(wiring, rows)
        metric[group.examples(rows)] = group.metric(last, rows).to(metric)
        kl[group.examples(rows)] = group.kl(last, rows).to(kl)

    with weights.standing({} if gates is None else weights.times(gates)):
        for _ in recorded.chunks(run, backward=False):
            pass
    return metric, kl
