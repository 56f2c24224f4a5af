"""The rows of an attribution graph: what every source adds to a target.

    A[t, s] = Σ_l a_s · ⟨W_{s → l}, J_{t,l} w_t⟩,   l the layer that s writes to, or all that a cross-layer one does

J is the frozen network from where s writes to what t reads (`engine.frozen_network`), w_t a feature's encoder row, or a
logit's row of the unembedding less the mean over the vocabulary (of the task's metric its own mix of answers). One
backward per target, in batches. Of an error s is the whole ε of a layer's MLP at a position; of a token what enters
block 0 there. Where not all features can be nodes, those with the most influence on the logits as far as known are
taken, again and again (as in circuit-tracer).

Contract, at every row: with its bias and the rest it adds up to the target's pre-activation or logit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from veracausa.engine.guard import precision_of
from veracausa.engine.session import Session
from veracausa.engine.validate import rounding
from veracausa.errors import ContractError
from veracausa.graphs.held import Held
from veracausa.graphs.influence import normalised
from veracausa.graphs.targets import Targets

#: Numbers that the graph of one batch of targets may hold, about; targets that run together at most.
NUMBERS, TOGETHER = 1 << 27, 64
#: Batches after which candidates are ranked anew.
_RANKED = 4
#: Rows of targets with what biases add to each, and what it has.
Made = tuple[Tensor, Tensor, Tensor]


def together(layers: int, positions: int, width: int) -> int:
    """Targets that run together at most."""
    return max(1, min(TOGETHER, NUMBERS // (layers * positions * 12 * width)))


class GraphRows:
    """Rows as they are made: the metric, logits, then features, those with the most influence.

    They are numbers of the `call`, [rows, sources + 2]: what sources add, biases, and the whole, so that an interrupted
    call goes on from those that it kept. `chosen`: features that have rows, in their order.
    """

    def __init__(self, held: Held, targets: Targets, max_features: int, call: Session) -> None:
        self.held, self.targets, self.network, self.call = held, targets, held.network, call
        self.layers = held.lm.layers
        self.most = min(max_features, len(held.active))
        most = together(self.layers, self.network.positions, held.lm.width)
        self.rows = min(most, max(self.most, len(targets.names)))
        self.sources = len(held.active) + (self.layers + 1) * self.network.positions
        self.chosen: list[int] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Of the numbers of the call."""
        return 1 + len(self.targets.names) + self.most, self.sources + 2

    def run(self) -> None:
        """All rows, each held against what it adds up to."""
        if bool(self.call.done.all()):
            self._choose_again()
            return
        with torch.enable_grad():
            leaves = self._leaves(self.rows)
            reads, end = self._forward(leaves)
        with torch.no_grad():
            zero_reads, zero_end = self._forward([torch.zeros_like(leaf[:1]) for leaf in leaves], biases=True)
        self._row(0, 1, lambda: self._metric(leaves, end, zero_end))
        for first in range(0, len(self.targets.names), self.rows):
            own = slice(first, min(first + self.rows, len(self.targets.names)))
            self._row(1 + first, own.stop - first, lambda own=own: self._logits(own, leaves, end, zero_end))  # type: ignore[misc]
        while len(self.chosen) < self.most:
            for some in self._next().split(self.rows):
                first = 1 + len(self.targets.names) + len(self.chosen)
                self._row(first, len(some), lambda some=some: self._features(some, leaves, reads, zero_reads))  # type: ignore[misc]
                self.chosen += some.tolist()

    def _choose_again(self) -> None:
        """Which features the rows of a finished call are of."""
        while len(self.chosen) < self.most:
            self.chosen += self._next().tolist()

    def _row(self, first: int, count: int, make: Callable[[], Made]) -> None:
        """Make some rows, unless they were kept."""
        own = slice(first, first + count)
        if not bool(self.call.done[own].all()):
            rows, bias, total = make()
            self._require(rows, bias, total)
            self.call.put(own, torch.cat([rows, bias[:, None], total[:, None]], 1).cpu())

    def _leaves(self, rows: int) -> list[Tensor]:
        """What every row's sources write: the stream, and every MLP's output but for a skip."""
        held, network = self.held, self.network
        given = [network.stream]
        for layer, y in enumerate(network.writes):
            given.append(y - held.skipped(layer, network.reads[layer]) if layer in held.codes else y)
        return [leaf.detach().expand(rows, -1, -1).clone().requires_grad_(True) for leaf in given]

    def _forward(self, leaves: list[Tensor], biases: bool = False) -> tuple[dict[int, Tensor], Tensor]:
        held = self.held

        def write(layer: int, read: Tensor) -> Tensor:
            found = leaves[1 + layer]
            if layer not in held.codes:
                return found
            found = found + held.codes[layer].dictionary.bias.to(found) if biases else found
            return found + held.skipped(layer, read)

        return self.network.run(leaves[0], write)

    def _backward(self, leaves: list[Tensor], read: list[Tensor], along: list[Tensor]) -> Tensor:
        """What every source adds to some targets, [targets, sources]."""
        count = len(along[0])
        outer = [
            torch.cat([one, one.new_zeros(self.rows - count, *one.shape[1:])]).to(of)
            for one, of in zip(along, read, strict=True)
        ]
        found = torch.autograd.grad(read, leaves, outer, retain_graph=True, allow_unused=True)
        slopes = [
            torch.zeros_like(leaf[:count]) if g is None else g[:count] for g, leaf in zip(found, leaves, strict=True)
        ]
        self.network.cost.backward += count * self.network.positions * self.layers
        return self._along([slope.to(self.held.values) for slope in slopes])

    def _along(self, slopes: list[Tensor]) -> Tensor:
        held = self.held
        features = []
        for layer, code in held.codes.items():
            own = held.active[:, 0] == layer
            at, values = held.active[own], held.values[own]
            gained = [_products(slopes[1 + to], at[:, 1], held.written[layer, to]) for to in code.dictionary.layers]
            features.append(sum(gained[1:], gained[0]) * values)
        errors = [(slopes[1 + layer] * held.errors[layer]).sum(-1) for layer in range(self.layers)]
        tokens = (slopes[0] * self.network.stream.to(slopes[0])).sum(-1)
        return torch.cat([*features, *errors, tokens], 1)

    def _metric(self, leaves: list[Tensor], end: Tensor, zero: Tensor) -> Made:
        """The task's metric."""
        row = self._backward(leaves, [end], [self.held.direction[None]])
        return row, self.held.metric(zero), self.held.metric(self.network.end)

    def _logits(self, own: slice, leaves: list[Tensor], end: Tensor, zero: Tensor) -> Made:
        """Some targets."""
        along, offset = self.targets.along[own], self.targets.offset[own]
        rows = self._backward(leaves, [end], [along])
        bias, total = ((one.to(along) * along).sum((1, 2)) + offset for one in (zero, self.network.end))
        return rows, bias, total

    def _features(self, some: Tensor, leaves: list[Tensor], reads: dict[int, Tensor], zero: dict[int, Tensor]) -> Made:
        """What some features read."""
        held = self.held
        at = held.active[some]
        used = sorted(set(at[:, 0].tolist()))
        along, bias, total = [], held.values.new_zeros(len(some)), held.values.new_zeros(len(some))
        for layer in used:
            encoder, rows = held.codes[layer].dictionary.encoder, (at[:, 0] == layer).nonzero()[:, 0]
            columns = encoder.weight[:, at[rows, 2]].T
            one = columns.new_zeros(len(some), self.network.positions, columns.shape[1])
            one[rows, at[rows, 1]] = columns
            along.append(one)
            before = 0.0 if encoder.before is None else columns @ encoder.before
            offset = encoder.bias[at[rows, 2]] - before
            bias[rows] = (zero[layer][0, at[rows, 1]].to(columns) * columns).sum(-1) + offset
            total[rows] = (self.network.reads[layer][0, at[rows, 1]].to(columns) * columns).sum(-1) + offset
        return self._backward(leaves, [reads[layer] for layer in used], along), bias, total

    def _require(self, rows: Tensor, bias: Tensor, total: Tensor) -> None:
        lm = self.held.lm
        off = (rows.sum(1) + bias - total).abs()
        size = rows.abs().sum(1) + bias.abs() + 1
        if not float((off / size).max()) <= rounding(precision_of(lm.decoder).dtype, 1.0, lm.layers):
            raise ContractError(
                f"What sources add to a node adds up to {float(off.max()):.3g} more or less than the node has, so "
                f"between its features {lm.name} is not linear with patterns and norms held, and there is no graph. "
                "Does its attention have a gate, or is there a hook on a block?"
            )

    def _next(self) -> Tensor:
        """Features to take next: all, or those with the most influence as far as known."""
        taken = torch.zeros(len(self.held.active), dtype=torch.bool)
        taken[self.chosen] = True
        if self.most == len(taken):
            return (~taken).nonzero()[:, 0]
        reached = self._known().masked_fill(taken, -1.0)
        return reached.topk(min(_RANKED * self.rows, self.most - len(self.chosen))).indices

    def _known(self) -> Tensor:
        """Influence of every feature along the rows that there are."""
        logits, size = len(self.targets.names), len(self.held.active)
        shares = normalised(self.call.values[1 : 1 + logits + len(self.chosen), :-2].double())
        at = torch.tensor(self.chosen, dtype=torch.long)
        flow, found = self.targets.weights.double().cpu() @ shares[:logits], shares.new_zeros(size)
        while flow[:size].any():
            found += flow[:size]
            flow = flow[at] @ shares[logits:] if len(at) else torch.zeros_like(flow)
        return found


def _products(slope: Tensor, position: Tensor, written: Tensor) -> Tensor:
    """⟨slope at the position, what the feature writes⟩ of every feature, [targets, features], some at a time."""
    step = max(1, (1 << 24) // (len(slope) * slope.shape[-1]))
    parts = [(slope[:, p] * w).sum(-1) for p, w in zip(position.split(step), written.split(step), strict=True)]
    return torch.cat(parts, 1) if parts else slope.new_zeros(len(slope), 0)
