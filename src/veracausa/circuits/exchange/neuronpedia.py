"""Circuits as attribution graphs of Neuronpedia and circuit-tracer, to look at in their viewers.

Followed: Neuronpedia's `apps/webapp/app/api/graph/graph-schema.json`, version 1.0.0 (hijohnnylin/neuronpedia, b8efe84);
what its viewer expects beyond that (`graph/utils.ts`, 2a614bc); and the fields and names of nodes that circuit-tracer
writes (`frontend/graph_models.py`, safety-research/circuit-tracer, 196e2ce: `schema_version` 1).

    {"metadata": {slug, scan, prompt_tokens, prompt, …}, "qParams": {…},
     "nodes": [{node_id, feature, layer, ctx_idx, feature_type, jsNodeId, clerp, influence, …}],
     "links": [{source, target, weight}]}

* Their nodes are features at positions; here they are heads ("attention head") and MLPs ("MLP") at positions. `feature`
  is Cantor's pairing of layer and index, as in theirs; an MLP's index is the number of heads. Layers are text: "E" for
  tokens, "0" … for blocks, and, as there, the number of blocks + 1 for the logit.
* `weight`: importance, positive supports the behaviour. Query, key and value edges between two nodes are one link,
  their sum. Where importances are not known, every edge weighs 1; the description says so.
* `influence`: as in circuit-tracer the share of all influence on the logit held by the nodes up to this one, from the
  most influential on; their viewer hides nodes above a threshold. Influence goes back through |weights| that are
  normalised over each node's inputs.
* **With scores at positions** a link runs from the writer at its position; an edge into a key or value is split evenly
  among the heads of its group at the same and later positions where these read a query or write. **Without,** all nodes
  stand at the last position, and edges from `input` are split evenly among the tokens in which the prompts differ.
* The viewer cannot open a graph that has nothing above block 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.circuits.circuit import Circuit
from veracausa.circuits.nodes import SHARED, Node, at_positions, edges_of, ends_of
from veracausa.circuits.wiring import require_heads_and_mlps
from veracausa.engine.work import require_even
from veracausa.errors import CircuitError, TaskError
from veracausa.scores.scores import Scores
from veracausa.storage.files import write_text
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

Weights = dict[tuple[Node, Node], float]


def write_neuronpedia(
    lm: Model,
    path: str | Path,
    *,
    circuit: Circuit,
    task: Task,
    pair: int = 0,
    positions: Scores | None = None,
    slug: str = "",
    scan: str = "",
) -> Path:
    """Write a circuit on one prompt as an attribution graph of Neuronpedia, whole or not at all.

    Args:
        lm: the model; one forward gives the answer's probability.
        path: the file, as Neuronpedia's upload takes it.
        circuit: of this model.
        task: the prompts; the graph shows the clean one of `pair`.
        pair: which pair of the task.
        positions: scores of edges at positions on this same task; the pair's own ones are written. None: the
            circuit's importances, all at the last position.
        slug: the graph's name there; from the task and the circuit's size where empty.
        scan: the model's name there, e.g. "gpt2-small"; ours where empty.

    Raises:
        CircuitError: a circuit of another model, without edges, or `positions` of other prompts, units or edges; a
            model with mixers.
        TaskError: no such pair.

    >>> write_neuronpedia(lm, "ioi.json", circuit=circuit, task=task, positions=at_each)
    """
    circuit.require_for(lm)
    require_heads_and_mlps(lm.graph, "Neuronpedia's graph")
    if not len(circuit):
        raise CircuitError("The circuit has no edges, so there is no graph to write.")
    if not 0 <= pair < len(task):
        raise TaskError(f"pair={pair}: task {task.name!r} has {len(task)} pairs, counted from 0.")
    tokens, _ = task.tokens(pair)
    last = len(tokens) - 1
    if positions is None:
        weights = _spread_input(_weights(circuit.edges, circuit.importance), task, pair)
    else:
        weights = _weights(*_own(circuit, positions, task, pair))
    weights = {(_placed(start, last), _placed(end, last)): value for (start, end), value in weights.items()}
    nodes = {Node("input", -1, -1, p) for p in range(len(tokens))} | {Node("logits", lm.graph.layers, -1, last)}
    nodes = nodes | {node for ends in weights for node in ends}
    ids = {node: _id(node, lm, task, pair) for node in nodes}
    influence = _influence(sorted(nodes), weights)
    described = "" if circuit.importance is not None or positions is not None else "\nweights 1: importances not known"
    body = {
        "metadata": {
            "slug": slug or _slug(f"{task.name}-{pair}-{len(circuit)}-edges"),
            "scan": scan or lm.name,
            "transcoder_list": [],
            "prompt_tokens": tokens,
            "prompt": task.clean_text[pair] or "".join(tokens),
            "node_threshold": 1.0,
            "schema_version": 1,
            "info": {"description": circuit.describe() + described, "generator": _generator()},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_record(node, ids[node], influence[node], lm, task, pair) for node in sorted(nodes, key=_order)],
        "links": [
            {"source": ids[start], "target": ids[end], "weight": value}
            for (start, end), value in sorted(weights.items(), key=lambda item: -abs(item[1]))
        ],
    }
    return write_text(path, json.dumps(body, ensure_ascii=False))


def _own(circuit: Circuit, positions: Scores, task: Task, pair: int) -> tuple[Edges, Float[np.ndarray, " edges"]]:
    """The circuit's edges at positions, and their importances on this pair; exact zeros are left out."""
    if positions.task["digest"] != task.digest():
        raise CircuitError("positions=… are scores of other prompts than task=…. Compute them on this task.")
    one = dataclasses.replace(positions, values=positions.values[pair : pair + 1])
    kept = at_positions(circuit, one)
    importance = one.importance().double().numpy()[kept]
    return edges_of(one)[kept[importance != 0]], importance[importance != 0]


def _weights(edges: Edges, importance: Float[np.ndarray, " edges"] | None) -> Weights:
    """Importance from node to node; what enters a key/value head, or a reader that heads share, is split evenly among
    the heads joined to it."""
    ends, joins = ends_of(edges)
    heads = defaultdict(list)
    for kv, head in joins:
        heads[kv].append(head)
    weights: Weights = defaultdict(float)
    values = np.ones(len(edges)) if importance is None else importance
    for (start, end), value in zip(ends, values.tolist(), strict=True):
        targets = heads[end] or _group(edges, end) if end.kind in ("kv", *SHARED.values()) else [end]
        for target in targets:
            weights[start, target] += value / len(targets)
    return weights


def _group(edges: Edges, kv: Node) -> list[Node]:
    """All heads of a key/value head, or of a reader that all of a block share, where it stands."""
    if kv.kind != "kv":
        return [kv._replace(kind="head", which=head) for head in range(edges.graph.heads)]
    size = edges.graph.share(kv.layer)
    return [kv._replace(kind="head", which=head) for head in range(kv.which * size, (kv.which + 1) * size)]


def _spread_input(weights: Weights, task: Task, pair: int) -> Weights:
    """Edges from the input of all positions, as those of the tokens in which the prompts differ."""
    require_even(task[pair], "Neuronpedia's graph")
    both = enumerate(zip(task.clean[pair], task.corrupted[pair], strict=True))
    differ = [position for position, (clean, corrupted) in both if clean != corrupted]
    spread: Weights = {}
    for (start, end), value in weights.items():
        if start.kind == "input":
            spread |= {(start._replace(position=p), end): value / len(differ) for p in differ}
        else:
            spread[start, end] = value
    return spread


def _placed(node: Node, last: int) -> Node:
    """Nodes of all positions at the last one."""
    return node if node.position >= 0 else node._replace(position=last)


def _influence(nodes: list[Node], weights: Weights) -> dict[Node, float]:
    """See the module; nodes in the order of the stream, so one pass against it suffices."""
    into = defaultdict(list)
    for (start, end), value in weights.items():
        into[end].append((start, abs(value)))
    reached = dict.fromkeys(nodes, 0.0)
    for end in sorted(nodes, key=_order, reverse=True):
        flow = 1.0 if end.kind == "logits" else reached[end]
        total = sum(size for _, size in into[end]) or 1.0
        for start, size in into[end]:
            reached[start] += flow * size / total
    ranked = sorted(nodes, key=lambda node: -reached[node])
    whole = sum(reached.values()) or 1.0
    sums = np.cumsum([reached[node] for node in ranked]) / whole
    return {node: min(1.0, float(share)) for node, share in zip(ranked, sums, strict=True)}


def _order(node: Node) -> tuple[int, bool, int, int]:
    """Along the stream: the input, heads before the MLP of a block, the logits."""
    return node.layer, node.kind == "mlp", node.which, node.position


def _id(node: Node, lm: Model, task: Task, pair: int) -> str:
    if node.kind == "input":
        return f"E_{task.clean[pair][node.position]}_{node.position}"
    if node.kind == "logits":
        return f"{lm.graph.layers + 1}_{task.correct[pair][0]}_{node.position}"
    return f"{node.layer}_{_index(node, lm)}_{node.position}"


def _record(node: Node, name: str, influence: float, lm: Model, task: Task, pair: int) -> dict[str, Any]:
    """One node with the fields that both programs read."""
    layer, index, _ = name.split("_")
    record: dict[str, Any] = {
        "node_id": name,
        "feature": _cantor(node.layer, int(index)),
        "layer": layer,
        "ctx_idx": node.position,
        "feature_type": "attention head" if node.kind == "head" else "MLP",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{index}-0",
        "clerp": node.stem,
        "influence": influence,
        "activation": None,
    }
    if node.kind == "input":
        shown = f'Emb: "{task.tokens(pair)[0][node.position]}"'
        js = f"E_{index}-{node.position}"
        return record | {"feature": node.position, "feature_type": "embedding", "jsNodeId": js, "clerp": shown}
    if node.kind == "logits":
        chance = _chance(lm, task, pair)
        shown = f'Output "{task.answer_strings(pair)[0][0]}" (p={chance:.3f})'  # their viewer reads p from here
        record |= {"feature": int(index), "feature_type": "logit", "clerp": shown}
        return record | {"jsNodeId": f"L_{index}-{node.position}", "token_prob": chance, "is_target_logit": True}
    return record


def _chance(lm: Model, task: Task, pair: int) -> float:
    """Probability of the first correct answer after the clean prompt."""
    one = task[pair]
    alone = dataclasses.replace(one, correct=(one.correct[0][:1],), incorrect=((),), metric="prob")
    return float(lm.measure(alone).clean[0])


def _index(node: Node, lm: Model) -> int:
    return lm.graph.heads if node.kind == "mlp" else node.which


def _cantor(layer: int, index: int) -> int:
    return (layer + index) * (layer + index + 1) // 2 + index


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _generator() -> dict[str, str]:
    from veracausa.version import __version__

    return {"name": "veracausa", "version": __version__}
