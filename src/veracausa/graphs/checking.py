"""`vc.graphs.check`: an attribution graph's strongest nodes, taken out of the live model and of the frozen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.exact import exact
from veracausa.effects.laid import with_dictionary
from veracausa.engine.guard import borrowed
from veracausa.errors import MethodError
from veracausa.graphs.ablating import frozen_metrics
from veracausa.graphs.checked import GraphCheck
from veracausa.graphs.graph import AttributionGraph
from veracausa.graphs.held import Held, laid_transcoders
from veracausa.graphs.influence import ERROR
from veracausa.graphs.prompting import prompt
from veracausa.scores.scores import task_header

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def check(
    lm: Model,
    graphs: AttributionGraph | Sequence[AttributionGraph],
    task: Task | str,
    *,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    top: int = 50,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    show_progress: bool = True,
) -> GraphCheck:
    """Live ablation beside frozen ablation beside influence, of the nodes with the most influence.

    A node is set to 0 at its position: a feature, an error, an MLP's output, a token's embedding. Live, everything
    downstream answers (`vc.exact`); frozen, features alone do, patterns and norms being held. The circuit is what
    pruning keeps, all other features and errors being 0.

    Args:
        lm: the model.
        graphs: graphs of pairs of the task, as `attribution_graph` made them.
        task: the task, or the prompt in plain words.
        dictionary: the same transcoders.
        top: nodes of each graph.
        node_threshold, edge_threshold: see `AttributionGraph.pruned`.
        show_progress: show a progress bar, graph by graph.

    Raises:
        MethodError: a graph of another model, task or dictionary.

    >>> vc.graphs.check(lm, graph, task, dictionary=transcoders).agreement(by="distance")
    """
    every = [graphs] if isinstance(graphs, AttributionGraph) else [*graphs]
    lm, cost = with_dictionary(lm, dictionary), Cost()
    task = prompt(lm, task) if isinstance(task, str) else task
    if not every or top < 1:
        raise MethodError("A check takes at least one graph, and at least one of its nodes.")
    parts: list[dict[str, Tensor]] = []
    names: list[str] = []
    circuits = []
    for number, graph in enumerate(every):
        one = _own(lm, graph, task)
        chosen = graph.strongest(top)
        kept = graph.pruned(node_threshold, edge_threshold).nodes
        outside = [i for i in range(len(graph.names)) if graph.kinds[i] <= ERROR and not kept[i]]
        rest = [i for i in range(len(graph.names)) if graph.kinds[i] <= ERROR]
        with borrowed(lm.decoder):
            held = Held.of(lm, one, laid_transcoders(lm), cost)
            frozen = frozen_metrics(held, graph, [[], outside, rest, *([i] for i in chosen)]).cpu()
        live, clean, (without, nothing), spent = _live(lm, one, graph, chosen, (outside, rest), show_progress)
        cost = cost + spent
        names += [graph.names[i] for i in chosen]
        parts.append(
            {
                "graphs": torch.full((len(chosen),), number), "kinds": graph.kinds[chosen],
                "layers": graph.layers[chosen], "live": live, "frozen": frozen[3:] - frozen[0],
                "linear": graph.linear_effects()[chosen].to(live), "direct": -graph.direct[chosen].to(live),
                "influence": graph.influence[chosen].to(live),
            }
        )  # fmt: skip
        sizes = len(rest) - len(outside), len(rest)
        circuits.append(
            [clean, clean + without, float(frozen[1]), *map(float, sizes), clean + nothing, float(frozen[2])]
        )
    settings = {
        "nodes": f"the {top} with the most influence of each graph, set to 0", "top": top, "layers": lm.layers,
        "node_threshold": node_threshold, "edge_threshold": edge_threshold,
        "dictionaries": every[0].settings["dictionaries"],
    }  # fmt: skip
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    table = torch.tensor(circuits, dtype=columns["live"].dtype)
    return GraphCheck(
        names=tuple(names), **columns, circuits=table, settings=settings, model=lm.header(), task=task_header(task),
        cost=cost,
    )  # fmt: skip


def _own(lm: Model, graph: AttributionGraph, task: Task) -> Task:
    """The pair that a graph is of."""
    known: Any = graph.settings.get("dictionaries")
    pair: Any = graph.settings.get("pair", -1)
    laid = {str(layer): code.digest for layer, code in laid_transcoders(lm).items()}
    fits = isinstance(pair, int) and 0 <= pair < len(task) and graph.model["identity"] == lm.identity
    if not fits or known != laid or task[pair : pair + 1].digest() != graph.task["digest"]:
        raise MethodError(
            "This graph is of another model, task or dictionary, or was read from a file of another program. Build it "
            "by vc.graphs.attribution_graph(lm, task, pair=…, dictionary=…) and give the same here."
        )
    return task[pair : pair + 1]


def _live(
    lm: Model, one: Task, graph: AttributionGraph, chosen: Sequence[int], sets: Sequence[Sequence[int]], show: bool
) -> tuple[Tensor, float, list[float], Cost]:
    """Exact effects of nodes, M of the clean prompt, and exact effects of sets of nodes: each a group, in one call.

    Features of a transcoder that reads the stream before its block's attention cannot be members of groups: there
    nodes go by kinds, one call each, and sets are not known (NaN).
    """
    how: dict[str, Any] = {"ablation": "zero", "show_progress": show}
    if any(code.dictionary.reads.kind == "r" for code in lm.decoder.codes.values()):
        return _by_kinds(lm, one, [graph.names[i] for i in chosen], len(sets), how)
    units = {f"node {k}": [graph.names[i]] for k, i in enumerate(chosen)}
    units |= {f"set {k}": [graph.names[i] for i in members] for k, members in enumerate(sets) if members}
    scores = exact(lm, one.side(True), units=units, **how)
    found = dict(zip(scores.units.names, scores.values[0], strict=True))
    whole = [float(found.get(f"set {k}", 0.0)) for k in range(len(sets))]
    live = torch.stack([found[f"node {k}"] for k in range(len(chosen))])
    return live, float(scores.clean[0]), whole, scores.cost or Cost()


def _by_kinds(
    lm: Model, one: Task, names: Sequence[str], sets: int, how: dict[str, Any]
) -> tuple[Tensor, float, list[float], Cost]:
    """The same without groups."""
    kinds: dict[str, list[str]] = {}
    for name in names:  # f2.76@5, m2@5, r0@5; of several dictionaries each by itself
        kinds.setdefault(name[0] + ".".join(name.split(".")[1:-1]), []).append(name)
    found, cost, clean = dict[str, Tensor](), Cost(), float("nan")
    for units in kinds.values():
        scores = exact(lm, one.side(True), units=units, **how)
        found |= dict(zip(scores.units.names, scores.values[0], strict=True))
        cost, clean = cost + (scores.cost or Cost()), float(scores.clean[0])
    return torch.stack([found[name] for name in names]), clean, [float("nan")] * sets, cost
