"""What a circuit leaves out, one weight each, and runs in which these weights are what an adversary makes them.

    input_v = ablated stream + Σ_kept δ_u + Σ_others r_uv · δ_u,     δ_u = write of u in this very run − what ablates it

r = 0 is the circuit's own run, r = 1 on all others the whole model's. Other edges have a weight each; other nodes
(heads, MLPs) one for all their edges out, so that every reader sees the same share of their write.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.graph import Graph
from veracausa.circuits.runs.recorded import Group, Recorded
from veracausa.engine.circuit_forward import all_edges_mask, wiring_of
from veracausa.errors import CircuitError
from veracausa.words import listed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Others:
    """All edges, or nodes, outside a circuit.

    `kept`: the circuit's mask; `reader`, `writer`, `which`: every edge outside, and the number of its weight.
    """

    graph: Graph
    kept: Bool[np.ndarray, "readers writers"]
    reader: Int[np.ndarray, " edges"]
    writer: Int[np.ndarray, " edges"]
    which: Int[np.ndarray, " edges"]
    parts: str = "edges"

    @classmethod
    def of(cls, graph: Graph, kept: Bool[np.ndarray, "readers writers"], parts: str) -> Others:
        """The parts outside of a circuit's mask.

        Raises:
            CircuitError: nodes are asked for, and the circuit keeps some edges out of a node and not others.
        """
        reader, writer = np.nonzero(all_edges_mask(graph) & ~kept)
        if parts == "edges":
            return cls(graph, kept, reader, writer, np.arange(len(reader)))
        _require_nodes(graph, kept)
        which = np.searchsorted(np.unique(writer), writer)
        return cls(graph, kept, reader, writer, which, parts)

    def __len__(self) -> int:
        return int(self.which.max(initial=-1)) + 1

    @cached_property
    def names(self) -> list[str]:
        """Of every edge, or of every node."""
        if self.parts == "nodes":
            return [self.graph.writer_names[writer] for writer in np.unique(self.writer)]
        ends = zip(self.writer.tolist(), self.reader.tolist(), strict=True)
        return [f"{self.graph.writer_names[writer]}->{self.graph.reader_names[reader]}" for writer, reader in ends]

    def weights(self, r: Float[Tensor, "*pairs others"]) -> Float[Tensor, "*pairs readers writers"]:
        """Weights of all edges: 1 of the circuit's, r of the others; carries r's graph."""
        kept = torch.as_tensor(self.kept, dtype=r.dtype, device=r.device)
        made = kept.expand(*r.shape[:-1], *kept.shape).clone()
        made[..., self.reader, self.writer] = r[..., self.which]
        return made

    def with_restored(self, chosen: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, "readers writers"]:
        """The circuit's mask with some of the others in it."""
        back, mask = np.isin(self.which, chosen), self.kept.copy()
        mask[self.reader[back], self.writer[back]] = True
        return mask


def _require_nodes(graph: Graph, kept: Bool[np.ndarray, "readers writers"]) -> None:
    torn = np.flatnonzero(kept.any(0) & (all_edges_mask(graph) & ~kept).any(0))
    if len(torn):
        names = listed([graph.writer_names[writer] for writer in torn[:3]])
        raise CircuitError(
            f"parts='nodes' needs a circuit of whole nodes, and this one keeps some edges out of {names}, not all "
            f"({len(torn):,} such nodes). Take Circuit.of_nodes(lm, circuit.nodes), or parts='edges'."
        )


@dataclass(frozen=True, eq=False)
class Field:
    """A circuit with its others on recorded pairs; the attention function must be `attention.SUFFIX`."""

    recorded: Recorded
    others: Others
    settled: bool = True

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self.recorded.measured.clean)

    def zeros(self, *pairs: int) -> Float[Tensor, "*pairs others"]:
        """r = 0, for all pairs or for each."""
        lm = self.recorded.lm
        return torch.zeros(*pairs, len(self.others), dtype=lm.score_dtype, device=lm.device)

    @torch.no_grad()
    def restored(self, chosen: Int[np.ndarray, " chosen"]) -> Float[Tensor, " examples"]:
        """M with some of the others restored: `vc.faithfulness` of that larger circuit."""
        return self.recorded.metric(
            wiring_of(self.recorded.lm.decoder, self.others.with_restored(chosen), self.settled)
        )

    @torch.no_grad()
    def metric(self, r: Float[Tensor, "*pairs others"]) -> Float[Tensor, " examples"]:
        """M under weights r, of all pairs or of each."""
        found = torch.full_like(self.recorded.measured.clean, float("nan"))

        def run(group: Group, rows: slice) -> None:
            at = group.examples(rows)
            found[at] = self._run(group, rows, r[at] if r.ndim > 1 else r).to(found)
            group.soft.cost.add(len(at), group.positions * self.recorded.lm.layers)

        for _ in self.recorded.chunks(run, backward=True):
            pass
        return found

    def slope(
        self, r: Float[Tensor, "*pairs others"]
    ) -> tuple[Float[Tensor, " examples"], Float[Tensor, "*pairs others"]]:
        """M under weights r, and the gradient of its sum over the pairs: each row's own where each pair has weights."""
        found, gradient = torch.full_like(self.recorded.measured.clean, float("nan")), torch.zeros_like(r)

        def run(group: Group, rows: slice) -> None:
            at = group.examples(rows)
            leaf = (r[at] if r.ndim > 1 else r).detach().clone().requires_grad_()
            with torch.enable_grad():
                metric = self._run(group, rows, leaf)
                (own,) = torch.autograd.grad(metric.sum(), leaf)
            group.soft.cost.add(len(at), group.positions * self.recorded.lm.layers, backward=True)
            found[at] = metric.detach().to(found)
            if r.ndim > 1:
                gradient[at] = own
            else:
                gradient.add_(own)

        for _ in self.recorded.chunks(run, backward=True):
            pass
        return found, gradient

    def _run(self, group: Group, rows: slice, r: Tensor) -> Float[Tensor, " rows"]:
        return group.metric(group.soft.run(self.others.weights(r), rows), rows)
