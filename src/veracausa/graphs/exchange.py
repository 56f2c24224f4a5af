"""Attribution graphs as JSON of Neuronpedia and circuit-tracer: read, and written for their viewers.

Followed: Neuronpedia's `graph-schema.json`, version 1.0.0 (hijohnnylin/neuronpedia, b8efe84), and circuit-tracer's
`frontend/graph_models.py` (safety-research/circuit-tracer, 196e2ce). `circuits.exchange.neuronpedia` writes circuits of
heads and MLPs in the same form, and says more about the form.

Such a file holds the part of a graph that its program kept: what was pruned is not in it, nor what biases add, so that
influence of what is read is that of the kept part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from veracausa.cost import Cost
from veracausa.errors import FileError
from veracausa.graphs.graph import AttributionGraph
from veracausa.graphs.influence import ERROR, FEATURE, LOGIT, TOKEN
from veracausa.storage.files import at, read_json, write_text
from veracausa.storage.schema import many, maybe, number, reading, record, text, whole
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.graphs.influence import Pruned

#: Nodes that a graph read may have: its adjacency is a whole matrix.
_MOST = 20_000
_TYPES = {"embedding": TOKEN, "logit": LOGIT, "mlp reconstruction error": ERROR}
_WRITTEN = ("cross layer transcoder", "mlp reconstruction error", "embedding", "logit")
_META = record(slug=text, scan=text, prompt_tokens=many(text, least=1), prompt=text)
_BODY = record(metadata=_META, qParams=record())
_NODE = record(node_id=text, ctx_idx=whole(), feature_type=text)
_LINK = record(source=text, target=text, weight=number())


def read_graph_json(path: str | Path) -> AttributionGraph:
    """Read a graph that Neuronpedia, circuit-tracer or `write_graph_json` wrote to `path`.

    Nodes keep the names of the file ("20_1234_5": layer, feature, position). Logits are weighted by `token_prob`, or
    alike where it is missing.

    Raises:
        FileError: no such file, no graph, or one that does not hold together: says what is wrong.

    >>> vc.graphs.read_graph_json("graph.json").replacement_score
    """
    path = at(path)
    body = read_json(path, "an attribution graph", sealed=False)
    lacking = [name for name in ("metadata", "qParams", "nodes", "links") if name not in body]
    if lacking:
        raise FileError(
            f"{path} is no attribution graph of Neuronpedia or circuit-tracer: it lacks {', '.join(lacking)}. "
            "(Their .pt files hold pickles and are not read: write the JSON with circuit-tracer's create_graph_files.)"
        )
    with reading(path):
        head = _BODY({name: body[name] for name in ("metadata", "qParams")})["metadata"]
        nodes = [_node(one) for one in many(lambda one: one, least=1)(body["nodes"])]
        if len(nodes) > _MOST:
            raise ValueError(f"{len(nodes):,} nodes are more than {_MOST:,}: prune it more before")
        return _graph(path, head, nodes, many(_LINK)(body["links"]))


def _node(given: Any) -> dict[str, Any]:
    found: dict[str, Any] = _NODE(given)
    found["kind"] = _TYPES.get(found["feature_type"], FEATURE)
    layer = str(given["layer"])
    found["layer"] = -1 if layer == "E" else int(layer)
    for name in ("activation", "token_prob"):
        found[name] = maybe(number())(given.get(name))
    return found


def _graph(path: Path, head: Mapping[str, Any], nodes: list[dict[str, Any]], links: Any) -> AttributionGraph:
    where = {node["node_id"]: i for i, node in enumerate(nodes)}
    if len(where) < len(nodes):
        raise ValueError("two nodes have one node_id")
    tokens = tuple(head["prompt_tokens"])
    if far := [node["node_id"] for node in nodes if node["ctx_idx"] >= len(tokens)]:
        raise ValueError(f"node {far[0]} stands behind the {len(tokens)} tokens of the prompt")
    kinds = torch.tensor([node["kind"] for node in nodes])
    if not bool((kinds == LOGIT).any()):
        raise ValueError("it has no logit")
    adjacency = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    for link in links:
        if link["source"] not in where or link["target"] not in where:
            raise ValueError(f"a link joins {link['source']} and {link['target']}, which are not both nodes")
        adjacency[where[link["target"]], where[link["source"]]] = link["weight"]
    if _circles(adjacency):
        raise ValueError("its links run in a circle")
    chances = torch.tensor([node["token_prob"] or 0.0 for node in nodes], dtype=torch.float64) * (kinds == LOGIT)
    weights = chances if bool(chances.any()) else (kinds == LOGIT).double() / int((kinds == LOGIT).sum())
    nothing = torch.zeros(len(nodes), dtype=torch.float64)
    return AttributionGraph(
        names=tuple(where), kinds=kinds, layers=torch.tensor([node["layer"] for node in nodes]),
        positions=torch.tensor([node["ctx_idx"] for node in nodes]), adjacency=adjacency, total=adjacency.sum(1),
        bias=nothing, rest=nothing,
        activation=torch.tensor([node["activation"] or 1.0 for node in nodes], dtype=torch.float64), weights=weights,
        direct=weights @ adjacency, tokens=tokens,
        settings={
            "targets": "logits of the file", "held": "as the program that wrote it holds them",
            "errors": "nodes of the file", "kept": f"{len(nodes):,} nodes of a file, pruned by its program",
        },
        model={"name": head["scan"], "source": f"read from {path.name}: {head['scan']}", "identity": ""},
        task={
            "name": head["slug"], "description": f"prompt {head['prompt']!r}", "digest": "", "metric": "logits", "n": 1,
        },
        cost=Cost(),
    )  # fmt: skip


def _circles(adjacency: torch.Tensor) -> bool:
    """Whether links run in a circle: nodes that nothing feeds are taken off, again and again."""
    left = torch.arange(len(adjacency))
    joined = adjacency != 0
    while len(left):
        fed = joined[left][:, left].any(1)
        if bool(fed.all()):
            return True
        left = left[fed]
    return False


def write_graph_json(
    graph: AttributionGraph,
    path: str | Path,
    *,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    scan: str = "",
    slug: str = "",
) -> Path:
    """Write the pruned graph as Neuronpedia and circuit-tracer open it, whole or not at all.

    Args:
        graph: of `attribution_graph`.
        path: the file.
        node_threshold, edge_threshold: shares of influence that are kept.
        scan: the model's name there; ours where empty.
        slug: the graph's name there; the task's where empty.

    >>> vc.graphs.write_graph_json(graph, "graph.json")
    """
    kept = graph.pruned(node_threshold, edge_threshold)
    ids = [_id(graph, i) for i in range(len(graph.names))]
    targets, sources = kept.edges.nonzero().T.tolist()
    body = {
        "metadata": {
            "slug": slug or graph.task["name"], "scan": scan or graph.model["name"], "transcoder_list": [],
            "prompt_tokens": [*graph.tokens], "prompt": "".join(graph.tokens), "node_threshold": node_threshold,
            "schema_version": 1,
            "info": {"description": graph.describe(), "generator": {"name": "veracausa", "version": __version__}},
            "pruning_settings": {"node_threshold": node_threshold, "edge_threshold": edge_threshold},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_record(graph, i, ids[i], kept) for i in kept.nodes.nonzero()[:, 0].tolist()],
        "links": [
            {"source": ids[s], "target": ids[t], "weight": float(graph.adjacency[t, s])}
            for t, s in zip(targets, sources, strict=True)
        ],
    }  # fmt: skip
    return write_text(path, json.dumps(body, ensure_ascii=False))


def _id(graph: AttributionGraph, i: int) -> str:
    kind, layer, position = (int(of[i]) for of in (graph.kinds, graph.layers, graph.positions))
    if kind == TOKEN:
        return f"E_{position}_{position}"
    if kind == ERROR:
        return f"{layer}_-1_{position}"
    return f"{layer + 1}_{_number(graph, i)}_{position}" if kind == LOGIT else f"{layer}_{_number(graph, i)}_{position}"


def _number(graph: AttributionGraph, i: int) -> int:
    """A feature's number; of a logit which of them it is."""
    if int(graph.kinds[i]) == LOGIT:
        return int((graph.kinds[:i] == LOGIT).sum())
    last = graph.names[i].partition("@")[0].replace("_", ".").split(".")
    return int(last[-1]) if "@" in graph.names[i] else int(last[1])


def _record(graph: AttributionGraph, i: int, name: str, kept: Pruned) -> dict[str, Any]:
    """One node with the fields that both programs read."""
    kind, position, chance = int(graph.kinds[i]), int(graph.positions[i]), float(graph.weights[i])
    layer, number_of = name.split("_")[0], _number(graph, i) if kind in (FEATURE, LOGIT) else -1
    found: dict[str, Any] = {
        "node_id": name, "feature": number_of, "layer": layer, "ctx_idx": position, "feature_type": _WRITTEN[kind],
        "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_-1-{position}", "clerp": graph.names[i], "activation": None,
        "influence": float(kept.cumulative[i]),
    }  # fmt: skip
    if kind == FEATURE:
        own = (int(layer) + number_of) * (int(layer) + number_of + 1) // 2 + number_of
        found |= {"feature": own, "jsNodeId": f"{layer}_{number_of}-0", "activation": float(graph.activation[i])}
    if kind == TOKEN:
        found |= {"feature": position, "jsNodeId": f"{name.rpartition('_')[0]}-{position}"}
        found |= {"clerp": f'Emb: "{graph.tokens[position]}"'}
    if kind == LOGIT:
        said = f'Output "{graph.names[i].removeprefix("logit:")}" (p={chance:.3f})'
        found |= {"jsNodeId": f"L_{number_of}-{position}", "clerp": said, "token_prob": chance}
        found["is_target_logit"] = number_of == 0
    return found
