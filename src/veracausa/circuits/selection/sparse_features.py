"""Sparse feature circuits (Marks et al. 2403.19647): nodes by the scores of features and errors, edges between them.

    node     E(u) = ḡ_u · (u' − u)                  ḡ: gradient at the clean run ("atp"), or its mean at α = 0, 1/N, …
                                                    as the whole site goes straight to its replacement ("ig", N = 10)
    edge     E(u → d) = ḡ_d · ∂d/∂u · (u' − u)      ∂d/∂u at the clean run, past no other dictionary's site
    circuit  nodes with |E| > T_N, edges between them with |E| > T_E

E over pairs is a mean; over positions a sum, or (templatic data) every position is a node of its own. Another site is
stood in the way of: its attention or MLP gives no gradient, and nothing passes by a dictionary of the stream, which all
goes through. So where attention, MLPs and streams of all layers have dictionaries, these are the paper's edges, along
the stream alone; where parts between have none, their answers count. Errors are nodes like features.

T_N is asked of the mean over pairs; the authors' program asks it of each pair and position before it takes means. Edges
to the logits are the scores of parts behind which no dictionary reads, as there.

One backward pass for each node of the circuit, beside the scores of all nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.circuits.featured import FeatureCircuit
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.crossing_rows import require_one_layer
from veracausa.effects.laid import for_parts, with_dictionary
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.guard import attention_function
from veracausa.engine.path_codes import Coded
from veracausa.engine.routes import Read
from veracausa.engine.session import Session, session
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.attribute import attribute
from veracausa.estimates.edges_of_features import EDGE_METHODS, EdgeMethod, recorded_slopes
from veracausa.estimates.method import Method
from veracausa.estimates.path_slopes import PathSlopes, stopped, within
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import Scores

if TYPE_CHECKING:
    from veracausa.anatomy.graph import Graph
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class Node:
    """A node of the circuit: its name, its part of a dictionary, and its position (−1: summed over all)."""

    name: str
    part: Coded
    position: int

    def place(self, start: int, length: int) -> tuple[int, int]:
        """First and last position, counted from `start`."""
        return (0, length - start - 1) if self.position < 0 else (self.position - start, self.position - start)


def feature_circuit(
    lm: Model,
    task: Task,
    *,
    node_threshold: float = 0.1,
    edge_threshold: float = 0.01,
    method: EdgeMethod = "ig",
    nodes: int = 10,
    positions: bool = False,
    ablation: Literal["counterfactual", "zero"] = "counterfactual",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    show_progress: bool = True,
) -> FeatureCircuit:
    """The circuit of features and errors of all dictionaries laid on a model, by Marks et al.'s scores and thresholds.

    Args:
        node_threshold, edge_threshold: T_N and T_E, in units of the metric (theirs: 0.1 and 0.01 of a logit
            difference). Every node over T_N costs a backward pass: raise it where there are thousands.
        method: "ig" or "atp"; nodes: points of "ig".
        positions: False sums over positions; True makes every position a node, for templates.
        ablation: what replaces a part: its value in the corrupted run, or "zero".
        dictionary: beside those that were laid on the model.

    Returns:
        A `FeatureCircuit` of estimates; `vc.circuits.part_curve(lm, task, circuit)` runs it.

    Raises:
        UnitError: no dictionary is laid on the model, or one that cannot be read behind another. MethodError,
        GapError, NumericsError, OutOfMemoryError: as `vc.attribute`.

    >>> circuit = vc.circuits.feature_circuit(lm, task, dictionary=[lower, upper])
    >>> vc.circuits.part_curve(lm, task, circuit, dictionary=[lower, upper]).faithfulness
    """
    lm = with_dictionary(lm, dictionary)
    _require(lm, task, method, nodes, ablation, (node_threshold, edge_threshold))
    how = Method(path="layer", grid="left", nodes=nodes) if method == "ig" else Method()
    baseline: Any = "zero" if ablation == "zero" else "corrupted"
    scored = tuple(
        attribute(
            lm, task, units=cast("Any", kind + "@positions" * positions), method=how, baseline=baseline,
            show_progress=show_progress,
        )
        for kind in sorted({kind for kind, _ in lm.decoder.codes})
    )  # fmt: skip
    every, last = _chosen(lm, scored, node_threshold)
    edges = [(u, d) for d in every for u in every if _joins(lm, u.part, d.part)]
    values, cost = torch.zeros(len(task), 0, dtype=lm.score_dtype), scored[0].cost
    for one in scored[1:]:
        cost = cost + one.cost
    if edges:
        own = for_parts(lm, [(one.part.kind, one.part.layer, one.part.index) for one in every])
        values, more = _edges(own, task, edges, nodes if method == "ig" else 0, ablation == "zero", show_progress)
        cost = cost + more
    ends = [*((u.name, d.name) for u, d in edges), *((name, "logits") for name, _ in last)]
    columns = [values, *(column[:, None] for _, column in last)]
    upstream, downstream = zip(*ends, strict=True) if ends else ((), ())
    told = {"method": method, "nodes": nodes if method == "ig" else None, "positions": positions, "ablation": ablation}
    settings = {**told, **dictionary_settings(lm, *{kind for kind, _ in lm.decoder.codes})}
    thresholds = float(node_threshold), float(edge_threshold)
    return FeatureCircuit(scored, upstream, downstream, torch.cat(columns, 1), *thresholds, settings, cost)


def _require(lm: Model, task: Task, method: str, nodes: int, ablation: str, thresholds: tuple[float, float]) -> None:
    """Raise MethodError or UnitError for what cannot be asked, before anything is run."""
    if method not in EDGE_METHODS or nodes < 1 or ablation not in ("counterfactual", "zero"):
        raise MethodError(
            f"method={shown(method)}, nodes={nodes}, ablation={shown(ablation)}: circuits of features are estimated "
            f"by {' or '.join(EDGE_METHODS)} with one node or more, ablation 'counterfactual' or 'zero'."
        )
    if not all(isinstance(one, int | float) and one >= 0 for one in thresholds):
        raise MethodError(f"Thresholds {thresholds} are not both 0 or more, in units of the metric.")
    if not lm.decoder.codes:
        raise UnitError(
            "No dictionary is laid on the model. Lay them there, lm.reading(vc.dictionary(lm, …)), or give dictionary=."
        )
    task.require_last("Circuits of features")
    lm.decoder.require("edges")
    for kind in {kind for kind, _ in lm.decoder.codes}:
        require_one_layer(lm, kind, "Circuits are")
    for (kind, layer), code in lm.decoder.codes.items():
        if not Coded(kind, layer, 0, code.dictionary.reads, code.dictionary.writes).passes_on:
            raise UnitError(
                f"The dictionary {kind} of layer {layer} reads {code.dictionary.reads.name} and explains "
                f"{code.dictionary.writes.name}, so no edge leads to its features alone. Circuits are of dictionaries "
                "of one site, and of transcoders of one layer's MLP."
            )


def _chosen(lm: Model, scored: Sequence[Scores], threshold: float) -> tuple[list[Node], list[tuple[str, Tensor]]]:
    """Parts over the threshold, along the stream; and those behind which no dictionary reads, with their scores."""
    found, last = [], []
    for one in scored:
        for i in np.flatnonzero((one.mean().abs() > threshold).numpy()).tolist():
            layer, index = int(one.units.layer[i]), int(one.units.index[i])
            laid = lm.decoder.codes[one.units.kind, layer].dictionary
            part = Coded(one.units.kind, layer, index, laid.reads, laid.writes)
            name = one.units[[i]].names[0]
            found.append(Node(name, part, int(one.units.position[i])))
            if not any(_joins(lm, part, other) for other in _sites(lm)):
                last.append((name, one.values[:, i]))
    return sorted(found, key=lambda node: node.part.written_at(lm.graph)), last


def _sites(lm: Model) -> list[Coded]:
    """One part of every dictionary."""
    return [
        Coded(kind, layer, 0, code.dictionary.reads, code.dictionary.writes)
        for (kind, layer), code in lm.decoder.codes.items()
    ]


def _joins(lm: Model, up: Coded, down: Coded) -> bool:
    """Whether an edge leads from one part to another: it is read behind it, and no dictionary of the stream between."""
    graph: Graph = lm.graph
    first, last = up.written_at(graph), down.read_at(graph)
    if first > last or up.writes == down.writes:
        return False
    return not any(
        first <= 2 * one.layer <= last
        for one in _sites(lm)
        if one.behind == "stream" and one.writes not in (up.writes, down.writes)
    )


def _edges(
    lm: Model, task: Task, edges: list[tuple[Node, Node]], nodes: int, zero: bool, show_progress: bool
) -> tuple[Tensor, Any]:
    """Scores of edges, [pairs, edges], and what they cost."""
    most = examples_per_batch(lm, task, 4 * lm.width)
    groups = buckets(lm.decoder, task, not zero, most)
    shape, label = (len(task), len(edges)), f"{len(edges):,} edges between features"
    with (
        session(lm, task, shape, name="feature-circuit", measured=False, show=show_progress) as call,
        call.bar(label, 0.0),
    ):
        call.rest(groups, partial(_bucket, call, edges, nodes, zero))
    return call.values, call.cost


def _bucket(
    call: Session, edges: list[tuple[Node, Node]], nodes: int, zero: bool, start: int, examples: tuple[int, ...]
) -> None:
    """The scores of a bucket's pairs: of each downstream node the slopes everywhere before it, once."""
    lm, graph = call.lm, call.lm.graph
    downs = list(dict.fromkeys(down for _, down in edges))
    parts = list(dict.fromkeys(node.part for edge in edges for node in edge))
    read = {(node.part.kind, node.part.layer) for node in downs} if nodes else set()
    with torch.enable_grad(), attention_function(lm.decoder, SUFFIX):
        slopes = recorded_slopes(
            call, start, examples, kinds={part.kind for part in parts}, read=read, noising=True, zero=zero, nodes=nodes,
            places={part.written_at(graph) for part in parts},
        )  # fmt: skip
        length = slopes.bucket.tape.length
        values = torch.full((len(examples), len(edges)), float("nan"), dtype=lm.score_dtype)
        for down in downs:
            own = [i for i, edge in enumerate(edges) if edge[1] == down]
            if down.position < length:
                _into(slopes, down, {i: edges[i][0] for i in own}, start, values)
    index = torch.tensor(examples)
    call.put((index[:, None], torch.arange(len(edges))[None]), values)


def _into(slopes: PathSlopes, down: Node, ups: dict[int, Node], start: int, values: Tensor) -> None:
    """Scores of the edges into one node, written into their columns."""
    lm, length = slopes.bucket.lm, slopes.bucket.tape.length
    first, last = down.place(start, length)
    if last < 0:  # before the first position that can change
        values[:, [*ups]] = 0
        return
    onward = (True, (Read(down.part.layer, False, (), ((down.part, first, last),)),), True)
    if not slopes.means:
        slopes.at((True,), slopes.places[0])  # the metric's own slope, which nothing stops
    with stopped(_between(slopes, down.part)):
        slopes.at(onward, slopes.places[0])
    for column, up in ups.items():
        if up.position >= length:
            continue
        change = within(slopes.change(up.part), *up.place(start, length))
        slope = slopes.at(onward, up.part.written_at(lm.graph))
        values[:, column] = (change * slope).flatten(1).sum(1).detach().to("cpu", values.dtype)
    slopes.forget(onward)


def _between(slopes: PathSlopes, down: Coded) -> list[Tensor]:
    """What stands in the way of gradients: attentions and MLPs of all other dictionaries."""

    def where(one: Coded) -> tuple[str, int]:
        return {"attention": "z", "mlp": "mlp"}.get(one.behind, ""), one.layer

    others = {where(one) for one in _sites(slopes.bucket.lm)} - {where(down)}
    return [slopes.base.sites[site][layer] for site, layer in sorted(others) if site]
