"""Weighted circuits of a recorded task under gates on all edges (`estimates.learned.descent.Gated`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.runs.recorded import Group, LearnedWrites, Recorded
from veracausa.engine.circuit_forward import wiring_of
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class GatedEdges:
    """See the module. `groups`: those of steps, each as its recorded buckets (several where memory is short). `writes`:
    constants that are learned along, in the place of ablated edges."""

    recorded: Recorded
    edges: Edges
    loss: str
    groups: list[list[Group]]
    writes: LearnedWrites | None = None

    def along_with(self, begin: LearnedWrites | None) -> GatedEdges:
        """The same with constants of its own, which begin where these do."""
        if begin is None:
            return self
        leaf = torch.zeros_like(begin.start).requires_grad_()
        return replace(self, writes=LearnedWrites(begin.lm, begin.start, leaf))

    @property
    def along(self) -> list[Tensor]:
        """What is learned beside the gates."""
        return [] if self.writes is None else self.writes.leaves

    def pairs(self, group: int) -> list[int]:
        """Which pairs a group has."""
        return [pair for own in self.groups[group] for pair in own.soft.tape.examples]

    def tokens(self, group: int) -> float:
        """Token-layers of one forward and backward run of a group."""
        return float(sum(2 * len(own) * own.positions * self.recorded.lm.layers for own in self.groups[group]))

    @cached_property
    def _at(self) -> tuple[Tensor, Tensor]:
        """Reader and writer of every edge."""
        device = self.recorded.lm.device
        return (
            torch.as_tensor(self.edges.reader, device=device),
            torch.as_tensor(self.edges.writer, device=device),
        )

    def slope(
        self, group: int, gates: Float[Tensor, "*pairs edges"], cause: bool
    ) -> tuple[float, Float[Tensor, "*pairs edges"]]:
        """Summed loss of a group under gates on all edges, and its gradient with respect to them."""
        graph, (reader, writer) = self.edges.graph, self._at
        mask = gates.new_zeros(*gates.shape[:-1], graph.readers, graph.writers)
        mask[..., reader, writer] = gates.detach()
        of = self.recorded.judged(self.loss, cause)
        if mask.ndim == 2:
            value, found = self.recorded.slope(mask, of, self.groups[group], self.writes)
            return value, found[reader, writer]
        sizes = [len(own) for own in self.groups[group]]
        parts = [
            self.recorded.slope(rows, of, [own], self.writes)
            for own, rows in zip(self.groups[group], mask.split(sizes), strict=True)
        ]
        return sum(value for value, _ in parts), torch.cat([found for _, found in parts])[:, reader, writer]

    @torch.no_grad()
    def kept(self, edges: np.ndarray) -> tuple[float, float]:
        """Mean KL and mean metric of the circuit of some edges, rows of the table."""
        recorded = self._final()
        settled = all(one.hard.ablated.settled for one in recorded.groups)
        wiring = wiring_of(recorded.lm.decoder, self.edges[edges].mask, settled)
        return recorded.loss(wiring, "kl"), float(recorded.metric(wiring).mean())

    def _final(self) -> Recorded:
        """With the constants as they are."""
        if self.writes is None:
            return self.recorded
        hard = [replace(one.hard, ablated=self.writes.of(one.hard.tape)) for one in self.recorded.groups]
        made = [replace(one, hard=own) for one, own in zip(self.recorded.groups, hard, strict=True)]
        return replace(self.recorded, groups=made)


def gated_edges(
    recorded: Recorded, edges: Edges, loss: str, groups: Sequence[tuple[int, tuple[int, ...]]]
) -> GatedEdges:
    """Runs of recorded pairs, by the groups that steps take; a bucket lies within one of them."""
    number = {pair: i for i, (_, members) in enumerate(groups) for pair in members}
    parts: list[list[Group]] = [[] for _ in groups]
    for own in recorded.groups:
        parts[number[own.soft.tape.examples[0]]].append(own)
    return GatedEdges(recorded, edges, loss, parts)
