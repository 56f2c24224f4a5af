"""`vc.graphs.attribution_graph`: direct effects between features of transcoders, on one prompt.

    A[t, s] = a_s · ⟨W_dec,s, J_ts w_t⟩

J_ts is the frozen network from where s writes to what t reads (`engine.frozen_network`), w_t a feature's encoder row,
or a logit's row of the unembedding less the mean over the vocabulary (of the task's metric its own mix of answers). One
backward per target, in batches. Of an error s is the whole ε of a transcoder at a position, or the output of an MLP
that has none; of a token what enters block 0 there. Where not all features can be nodes, those with the most influence
on the logits as far as known are taken, again and again (as in circuit-tracer).

Contract, at every call: each row, with its bias and the rest, adds up to the target's pre-activation or logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.laid import with_dictionary
from veracausa.engine.guard import precision_of
from veracausa.engine.session import session
from veracausa.engine.validate import rounding
from veracausa.errors import ContractError, MethodError, TaskError
from veracausa.graphs.graph import AttributionGraph
from veracausa.graphs.held import Held, laid_transcoders
from veracausa.graphs.influence import ERROR, FEATURE, LOGIT, TOKEN, normalised
from veracausa.graphs.targets import Targets, targets_of
from veracausa.reading.attributing import require_linear
from veracausa.scores.scores import task_header

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Numbers that the graph of one batch of targets may hold, about; targets that run together at most.
_NUMBERS, _TOGETHER = 1 << 27, 64
#: Batches after which candidates are ranked anew.
_RANKED = 4


def attribution_graph(
    lm: Model,
    task: Task,
    *,
    pair: int = 0,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    targets: str = "answers",
    mass: float = 0.95,
    most: int = 10,
    max_features: int = 1000,
) -> AttributionGraph:
    """The attribution graph of one clean prompt: who directly feeds whom, with patterns and norms frozen.

    Args:
        lm: the model.
        task: prompts, with metric "logit_diff" or "logit".
        pair: which clean prompt.
        dictionary: transcoders, at most one of a layer's MLP, beside those laid on the model. MLPs without one are
            errors, whole.
        targets: "answers", one node that is the task's metric, or "top", the likeliest tokens up to a `mass` of
            probability, at most `most`, each weighted by its probability.
        mass, most: see `targets`.
        max_features: features that are nodes at most; others stay in `rest`.

    Raises:
        MethodError: no transcoder, one that the linear model cannot hold, or a metric that is no sum of logits.
        ArchitectureError: a model with blocks that are not an attention and an MLP.
        ContractError: rows do not add up.

    Source: Ameisen et al. 2025 (circuit tracing); circuit-tracer.

    >>> graph = vc.graphs.attribution_graph(lm, task, dictionary=transcoders)
    """
    require_linear(task.metric)
    if not 0 <= pair < len(task):
        raise TaskError(f"pair={pair}: task {task.name!r} has {len(task)} pairs, counted from 0.")
    if targets not in ("answers", "top") or most < 1 or not 0 < mass <= 1 or max_features < 1:
        raise MethodError(
            f"targets={targets!r}, mass={mass}, most={most}, max_features={max_features}: targets are 'answers' or "
            "'top', mass is a probability, and the others are 1 or more."
        )
    if task.over == "product":
        raise MethodError("The product over several positions is no sum of logits: take over='mean' or 'sum'.")
    lm = with_dictionary(lm, dictionary)
    codes, own = laid_transcoders(lm), task[pair : pair + 1]
    with session(lm, own, measured=False, show=False) as call:
        held = Held.of(lm, own, codes, call.cost)
        made = _Building(held, targets_of(held, targets, mass, most), max_features)
        made.run()
    said = {
        "targets": "the task's metric"
        if targets == "answers"
        else f"the likeliest tokens, up to {mass:g}, at most {most}",
        "held": "attention patterns and norms' denominators, as in the clean run",
        "errors": made.errors_said(),
        "kept": f"{len(made.chosen):,} of {len(held.active):,} active features",
        "pair": pair,
        "dictionaries": {str(layer): code.digest for layer, code in codes.items()},
    }
    return made.graph(said, call.origin, own, call.cost)


class _Building:
    """Rows of a graph as they are made: logits first, then features, those with the most influence."""

    def __init__(self, held: Held, targets: Targets, max_features: int) -> None:
        self.held, self.targets = held, targets
        network, n = held.network, held.network.positions
        self.layers = held.lm.layers
        size = self.layers * n * 12 * held.lm.width
        self.rows = max(1, min(_TOGETHER, _NUMBERS // size, max(len(held.active), 1)))
        self.most = min(max_features, len(held.active))
        self.sources = len(held.active) + self.layers * n + n
        self.chosen: list[int] = []
        self.kept: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.network = network

    def run(self) -> None:
        """All rows, each held against what it adds up to."""
        with torch.enable_grad():
            leaves = self._leaves(self.rows)
            reads, end = self._forward(leaves)
        with torch.no_grad():
            at_zero = self._forward([torch.zeros_like(leaf[:1]) for leaf in leaves], biases=True)
        self._metric(leaves, end, at_zero[1])
        for first in range(0, len(self.targets.names), self.rows):
            along = self.targets.along[first : first + self.rows]
            rows = self._backward(leaves, [end], [along])
            self._keep(rows, self._off(at_zero[1], along) + self.targets.offset[first : first + self.rows],
                       self._off(self.network.end, along) + self.targets.offset[first : first + self.rows])  # fmt: skip
        while len(self.chosen) < self.most:
            for some in self._next().split(self.rows):
                self._features(some, leaves, reads, at_zero[0])

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

    def _off(self, end: Tensor, along: Tensor) -> Tensor:
        return (end.to(along) * along).sum((1, 2))

    def _metric(self, leaves: list[Tensor], end: Tensor, zero: Tensor) -> None:
        """The task's metric as a row of its own."""
        along = self.held.direction[None]
        self.direct = self._backward(leaves, [end], [along])[0]
        self._require(self.direct[None], self.held.metric(zero), self.held.metric(self.network.end))

    def _features(self, some: Tensor, leaves: list[Tensor], reads: dict[int, Tensor], zero: dict[int, Tensor]) -> None:
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
        rows_of = self._backward(leaves, [reads[layer] for layer in used], along)
        self.chosen += some.tolist()
        self._keep(rows_of, bias, total)

    def _keep(self, rows: Tensor, bias: Tensor, total: Tensor) -> None:
        self._require(rows, bias, total)
        self.kept.append(rows)
        self.biases.append(torch.stack([bias, total]))

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
        reached = self._known().cpu().masked_fill(taken, -1.0)
        return reached.topk(min(_RANKED * self.rows, self.most - len(self.chosen))).indices

    def _known(self) -> Tensor:
        """Influence of every feature along the rows that there are."""
        shares = normalised(torch.cat(self.kept).double())
        logits, size = len(self.targets.names), len(self.held.active)
        at = torch.tensor(self.chosen, dtype=torch.long, device=shares.device)
        flow, found = self.targets.weights.double() @ shares[:logits], shares.new_zeros(size)
        while flow[:size].any():
            found += flow[:size]
            flow = flow[at] @ shares[logits:] if len(at) else torch.zeros_like(flow)
        return found

    def errors_said(self) -> str:
        """What errors are, in words."""
        without = [layer for layer in range(self.layers) if layer not in self.held.codes]
        said = "nodes, one a layer and position"
        return said + (f"; MLPs of {len(without)} layers without a transcoder are errors, whole" if without else "")

    def graph(self, said: dict[str, Any], model: dict[str, str], one: Task, cost: Cost) -> AttributionGraph:
        """All of it as a result; features in the order of the stream, errors, tokens, logits."""
        held, n, logits = self.held, self.network.positions, len(self.targets.names)
        size = len(held.active)
        chosen = sorted(self.chosen)
        order = sorted(range(len(chosen)), key=lambda i: self.chosen[i])
        columns = torch.cat([torch.tensor(chosen, dtype=torch.long), torch.arange(size, self.sources)])
        rows, ends = torch.cat(self.kept).cpu(), torch.cat(self.biases, 1).cpu()
        arranged = torch.tensor([logits + i for i in order] + [*range(logits)], dtype=torch.long)
        where = torch.tensor([*range(len(chosen)), *range(len(columns), len(columns) + logits)])
        whole = len(columns) + logits
        adjacency = rows.new_zeros(whole, whole)
        adjacency[where[:, None], torch.arange(len(columns))] = rows[arranged][:, columns]
        table = {name: rows.new_zeros(whole) for name in ("total", "bias", "rest", "weights", "direct")}
        table["bias"][where], table["total"][where] = ends[0, arranged], ends[1, arranged]
        table["rest"][where] = rows[arranged].sum(1) - rows[arranged][:, columns].sum(1)
        table["weights"][-logits:] = self.targets.weights.cpu()
        table["direct"][: len(columns)] = self.direct.cpu()[columns]
        activation = rows.new_ones(whole)
        activation[: len(chosen)] = held.values.cpu()[chosen]
        errors = [(layer, p) for layer in range(self.layers) for p in range(n)]
        at = held.active.cpu()[chosen]
        names = [f"{self._stem(layer)}.{f}@{p}" for layer, p, f in at.tolist()]
        names += [f"{self._stem(layer)}.error@{p}" if layer in held.codes else f"m{layer}@{p}" for layer, p in errors]
        names += [*(f"r0@{p}" for p in range(n)), *self.targets.names]
        layers = [*at[:, 0].tolist(), *(layer for layer, _ in errors), *[-1] * n, *[self.layers] * logits]
        places = [*at[:, 1].tolist(), *(p for _, p in errors), *range(n), *[n - 1] * logits]
        kinds = [FEATURE] * len(chosen) + [ERROR] * len(errors) + [TOKEN] * n + [LOGIT] * logits
        return AttributionGraph(
            names=tuple(names), kinds=torch.tensor(kinds), layers=torch.tensor(layers), positions=torch.tensor(places),
            adjacency=adjacency, activation=activation, tokens=tuple(one.tokens(0)[0]), settings=said, model=model,
            task=task_header(one), cost=cost, **table,
        )  # fmt: skip

    def _stem(self, layer: int) -> str:
        name = self.held.codes[layer].dictionary.name
        return f"f{layer}.{name}" if name else f"f{layer}"


def _products(slope: Tensor, position: Tensor, written: Tensor) -> Tensor:
    """⟨slope at the position, what the feature writes⟩ of every feature, [targets, features], some at a time."""
    step = max(1, (1 << 24) // (len(slope) * slope.shape[-1]))
    parts = [(slope[:, p] * w).sum(-1) for p, w in zip(position.split(step), written.split(step), strict=True)]
    return torch.cat(parts, 1) if parts else slope.new_zeros(len(slope), 0)
