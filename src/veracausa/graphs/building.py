"""`vc.graphs.attribution_graph`: direct effects between features of transcoders, on one prompt (`rows` says how)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.laid import with_dictionary
from veracausa.engine.footprint import Memory
from veracausa.engine.measure import measured_runs
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import MethodError, TaskError
from veracausa.graphs.graph import AttributionGraph
from veracausa.graphs.held import Held, laid_transcoders
from veracausa.graphs.influence import ERROR, FEATURE, LOGIT, TOKEN
from veracausa.graphs.prompting import prompt, tokens_of
from veracausa.graphs.rows import GraphRows, together
from veracausa.graphs.targets import targets_of
from veracausa.reading.attributing import require_linear
from veracausa.scores.scores import task_header
from veracausa.storage.pieces import Checkpoint
from veracausa.version import __version__
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from veracausa.dictionaries.code import Code
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class GraphWork:
    """What `attribution_graph` is about to do: of the one prompt of `task`, which is pair `pair` of what was given.

    `which`: "answers", "top" or "named"; `named`: the tokens, of the last.
    """

    lm: Model
    task: Task
    pair: int
    which: str
    named: tuple[int, ...]
    mass: float
    most: int
    max_features: int
    kind: ClassVar[str] = "gradients"
    alone: ClassVar[bool] = True
    aligned: ClassVar[bool] = True
    what: ClassVar[str] = "an attribution graph"

    @property
    def codes(self) -> dict[int, Code]:
        """Layer → its transcoder."""
        return laid_transcoders(self.lm)

    @property
    def _targets(self) -> int:
        """Logit nodes, at most."""
        return {"answers": 1, "named": len(self.named)}.get(self.which, self.most)

    def tokens(self) -> float:
        """Token-layers at most: runs of the prompt, and one backward of a row for every target.

        Fewer where fewer features are active than may be nodes, or fewer tokens hold the mass.
        """
        n, lm = len(self.task.clean[0]), self.lm
        features = min(self.max_features, n * sum(code.dictionary.size for code in self.codes.values()))
        rows = min(together(lm.layers, n, lm.width), max(features, self._targets))
        own = measured_runs(lm, self.task.side(True))
        return own + float(n * lm.layers * (3 + rows + 1 + self._targets + features))

    def batches(self) -> int:
        """Prompts that are recorded."""
        return 1

    def needed(self) -> Memory:
        """Bytes at most, about: the graph of a batch of rows, and all rows, of as many sources as there are targets."""
        n, lm = len(self.task.clean[0]), self.lm
        rows = together(lm.layers, n, lm.width)
        stream = lm.layers * n * lm.width * lm.score_dtype.itemsize
        nodes = self.max_features + self._targets + (lm.layers + 1) * n
        scores = 3 * nodes * nodes * lm.score_dtype.itemsize
        return Memory(recordings=6 * stream, gradients=12 * stream * rows, scores=scores)

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> AttributionGraph:
        """Build it; with `out` finished rows are kept there, and an interrupted call goes on from them."""
        with session(self.lm, self.task.side(True), show=show_progress) as call:
            held = Held.of(self.lm, self.task, self.codes, call.cost)
            targets = targets_of(held, self.which, self.mass, self.most, self.named)
            rows = GraphRows(held, targets, self.max_features, call)
            self._open(call, rows, out)
            n = held.network.positions * self.lm.layers
            total = call.cost.token_layers + n * (rows.rows + 1 + int((~call.done).any(1).sum()))
            with call.bar(f"attribution graph of {counted(len(held.active), 'active feature')}", total):
                rows.run()
            return _graph(rows, self._said(held, rows), call.origin, self.task)

    def _open(self, call: Session, rows: GraphRows, out: str | Path | None) -> None:
        """Numbers of the call, or those that an earlier one kept."""
        if out is None:
            call.values = torch.full(rows.shape, float("nan"), dtype=self.lm.score_dtype)
            call.done = torch.zeros(rows.shape, dtype=torch.bool)
            return
        header = {"version": __version__, "model": call.origin["identity"], "task": self.task.digest(),
                  "dictionaries": self._digests, "which": self.which, "named": [*self.named], "mass": self.mass,
                  "most": self.most, "max_features": self.max_features}  # fmt: skip
        kept = Checkpoint.open(out, "attribution-graph", header, rows.shape, self.lm.score_dtype)
        call.pieces, call.values, call.done = kept, kept.values, kept.done
        call.hold(call.measured)
        call.before, call.again = kept.cost.seconds, replace(call.cost)
        for name in ("forward", "backward"):
            setattr(call.cost, name, getattr(call.cost, name) + getattr(kept.cost, name))

    @property
    def _digests(self) -> dict[str, str]:
        return {str(layer): code.digest for layer, code in self.codes.items()}

    def _said(self, held: Held, rows: GraphRows) -> dict[str, Any]:
        """The settings, in words where these are read."""
        texts = {"answers": "the task's metric", "named": f"the tokens {listed(rows.targets.names)}",
                 "top": f"the likeliest tokens, up to {self.mass:g}, at most {self.most}"}  # fmt: skip
        without = self.lm.layers - len(held.codes)
        whole = f"; MLPs of {counted(without, 'layer')} without a transcoder are errors, whole" if without else ""
        onward = any(code.dictionary.onward is not None for code in held.codes.values())
        crossing = ", but for what features of earlier layers write there" if without and onward else ""
        return {
            "targets": texts[self.which],
            "held": "attention patterns and norms' denominators, as in the clean run",
            "errors": f"nodes, one a layer and position{whole}{crossing}",
            "kept": f"{len(rows.chosen):,} of {len(held.active):,} active features",
            "pair": self.pair,
            "dictionaries": self._digests,
        }


@gives(AttributionGraph)
def attribution_graph(
    lm: Model,
    task: Task | str,
    *,
    pair: int = 0,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    targets: str | Sequence[str | int] | None = None,
    mass: float = 0.95,
    most: int = 10,
    max_features: int = 1000,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> GraphWork:
    """The attribution graph of one clean prompt: who directly feeds whom, with patterns and norms frozen.

    Args:
        lm: the model.
        task: prompts, with metric "logit_diff" or "logit"; or one prompt in plain words (see `vc.graphs.prompt`).
        pair: which clean prompt.
        dictionary: transcoders, at most one of a layer's MLP, or a cross-layer one (`vc.transcoders`), beside those
            laid on the model. MLPs without one are errors, whole.
        targets: "answers" (default of a task), one node that is its metric; "top" (default of a prompt), the likeliest
            tokens up to a `mass` of probability, at most `most`; or tokens, [" Paris", " London"]. Tokens are weighted
            by their probabilities.
        mass, most: see `targets`.
        max_features: features that are nodes at most; others stay in `rest`.
        out: a folder to keep finished rows in: the same call goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        MethodError: no transcoder, one that the linear model cannot hold, or a metric that is no sum of logits.
        ArchitectureError: a model with blocks that are not an attention and an MLP.
        AnswerError: a target that is not one token.
        ContractError: rows do not add up.

    Source: Ameisen et al. 2025 (circuit tracing); circuit-tracer.

    >>> graph = vc.graphs.attribution_graph(lm, "The capital of France is", dictionary=transcoders)
    """
    plain = isinstance(task, str)
    if most < 1 or not 0 < mass <= 1 or max_features < 1 or (isinstance(targets, str) and targets not in _NAMED):
        raise MethodError(
            f"targets={targets!r}, mass={mass}, most={most}, max_features={max_features}: targets are 'answers', 'top' "
            "or a list of tokens, mass is a probability, and the others are 1 or more."
        )
    lm.decoder.require_stream_alone("an attribution graph")
    lm = with_dictionary(lm, dictionary)
    laid_transcoders(lm)
    found = prompt(lm, task) if isinstance(task, str) else task
    require_linear(found.metric)
    if not 0 <= pair < len(found):
        raise TaskError(f"pair={pair}: task {found.name!r} has {len(found)} pairs, counted from 0.")
    if found.over == "product":
        raise MethodError("The product over several positions is no sum of logits: take over='mean' or 'sum'.")
    default = "top" if plain else "answers"
    own, which = found[pair : pair + 1], default if targets is None else targets
    named = () if isinstance(which, str) else tuple(tokens_of(lm, own, which))
    return GraphWork(lm, own, pair, which if isinstance(which, str) else "named", named, mass, most, max_features)


#: Targets that have a name.
_NAMED = ("answers", "top")


def _graph(rows: GraphRows, said: dict[str, Any], model: dict[str, str], one: Task) -> AttributionGraph:
    """All rows as a result; features in the order of the stream, errors, tokens, logits."""
    held, targets, n = rows.held, rows.targets, rows.network.positions
    logits, layers_of = len(targets.names), rows.layers
    chosen = sorted(rows.chosen)
    order = sorted(range(len(chosen)), key=lambda i: rows.chosen[i])
    columns = torch.cat([torch.tensor(chosen, dtype=torch.long), torch.arange(len(held.active), rows.sources)])
    made, direct = rows.call.values[1:], rows.call.values[0]
    arranged = torch.tensor([logits + i for i in order] + [*range(logits)], dtype=torch.long)
    own = made[arranged]
    where = torch.tensor([*range(len(chosen)), *range(len(columns), len(columns) + logits)])
    whole = len(columns) + logits
    adjacency = made.new_zeros(whole, whole)
    adjacency[where[:, None], torch.arange(len(columns))] = own[:, columns]
    table = {name: made.new_zeros(whole) for name in ("total", "bias", "rest", "weights", "direct")}
    table["bias"][where], table["total"][where] = own[:, -2], own[:, -1]
    table["rest"][where] = own[:, :-2].sum(1) - own[:, columns].sum(1)
    table["weights"][-logits:] = targets.weights.cpu()
    table["direct"][: len(columns)] = direct[columns]
    activation = made.new_ones(whole)
    activation[: len(chosen)] = held.values.cpu()[chosen]
    errors = [(layer, p) for layer in range(layers_of) for p in range(n)]
    at = held.active.cpu()[chosen]
    names = [f"{_stem(held, layer)}.{f}@{p}" for layer, p, f in at.tolist()]
    names += [f"{_stem(held, layer)}.error@{p}" if layer in held.codes else f"m{layer}@{p}" for layer, p in errors]
    names += [*(f"r0@{p}" for p in range(n)), *targets.names]
    layers = [*at[:, 0].tolist(), *(layer for layer, _ in errors), *[-1] * n, *[layers_of] * logits]
    places = [*at[:, 1].tolist(), *(p for _, p in errors), *range(n), *[n - 1] * logits]
    kinds = [FEATURE] * len(chosen) + [ERROR] * len(errors) + [TOKEN] * n + [LOGIT] * logits
    return AttributionGraph(
        names=tuple(names), kinds=torch.tensor(kinds), layers=torch.tensor(layers), positions=torch.tensor(places),
        adjacency=adjacency, activation=activation, tokens=tuple(one.tokens(0)[0]), settings=said, model=model,
        task=task_header(one), cost=rows.call.cost, **table,
    )  # fmt: skip


def _stem(held: Held, layer: int) -> str:
    name = held.codes[layer].dictionary.name
    return f"f{layer}.{name}" if name else f"f{layer}"
