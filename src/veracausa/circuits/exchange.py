"""Circuits for other programs: networkx and GraphML, CSV. EAP-IG's and MIB's JSON graph: `circuits.eap_json`;
Neuronpedia's attribution graph: `circuits.neuronpedia`.

**GraphML and networkx.** A directed multigraph of nodes (`input`, heads, MLPs, `logits`) with one edge for every input
of a node. Its key names both ends, `a0.h0->a1.h2<k>`, with keys and values per query head, as the graph's nodes are
heads; its attribute `edge` is our name, `a0.h0->a1.kv1<k>`, so that one of our edges may be several lines there, one
for each head of the group that the circuit touches (`Circuit.nodes`). Attributes: `edge`, `reader` (q, k, v, mlp,
logits), `importance` where it is known; of nodes: `kind`, `layer`, `head`. A header keeps model, task and method.

**CSV.** One line per edge: name, writer, reader, layer, importance where it is known. It has no header of the model, so
reading needs one; only the column `name` is asked for, and `importance` read where there is one.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import LOGITS, MLP, READERS
from veracausa.circuits.circuit import Circuit, node_table, parse_names, touched_by
from veracausa.circuits.files import pack_circuit, unpack_circuit
from veracausa.errors import FileError, VeracausaError
from veracausa.storage.files import at, csv_text, json_seal, require_seal, write_text
from veracausa.storage.origin import model_header
from veracausa.storage.schema import number, reading, record, text

if TYPE_CHECKING:
    import networkx as nx

    from veracausa.model import Model


def graph_of(circuit: Circuit) -> nx.MultiDiGraph:
    """A circuit as a networkx graph; see the module.

    >>> nx.shortest_path(graph_of(circuit), "input", "logits")
    """
    import networkx as nx

    graph, edges = circuit.graph, circuit.edges
    made = nx.MultiDiGraph()
    table = node_table(graph)
    made.add_nodes_from((name, table[name]) for name in circuit.nodes)
    touched = touched_by(graph, circuit.mask)
    names, importance = edges.names, circuit.importance
    for i, (writer, reader) in enumerate(zip(edges.writer.tolist(), edges.reader.tolist(), strict=True)):
        kind = int(graph.reader_kind[reader])
        what: dict[str, Any] = {"edge": names[i], "reader": READERS[kind]}
        if importance is not None:
            what["importance"] = float(importance[i])
        start = graph.writer_names[writer]
        for end in [graph.writer_names[one] for one in touched[reader]] or ["logits"]:
            suffix = "" if kind in (MLP, LOGITS) else f"<{READERS[kind]}>"
            made.add_edge(start, end, key=f"{start}->{end}{suffix}", **what)
    return made


def write_graphml(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit as GraphML, whole or not at all."""
    import networkx as nx

    made = graph_of(circuit)
    header, importance = pack_circuit(circuit), circuit.importance
    known = None if importance is None else [float(value) for value in importance]
    order = list(dict.fromkeys(edge for *_, edge in made.edges(data="edge")))  # as they are read back
    at_edge = dict(zip(circuit.names, known or [], strict=False))
    body = header | {"edges": order, "importance": [at_edge[name] for name in order] if known else None}
    made.graph["veracausa"] = json.dumps(header | {"checksum": json_seal(body)}, ensure_ascii=False)
    text = io.BytesIO()
    nx.write_graphml_xml(made, text)
    return write_text(path, text.getvalue().decode("utf-8"))


def read_graphml(path: str | Path) -> Circuit:
    """Read a circuit that `write_graphml` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or GraphML of another program.
    """
    import networkx as nx

    path = at(path)
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    try:
        made = nx.read_graphml(path, force_multigraph=True)
    except Exception as error:  # the XML parser's and networkx's errors have no base in common
        raise FileError(f"{path} is no whole GraphML file ({error}). Write or copy it again.") from error
    if "veracausa" not in made.graph:
        raise FileError(f"{path} was not written by veracausa, or by another version: it has no header of a circuit.")
    with reading(path):
        header = record(graph=record())(json.loads(made.graph["veracausa"]))
        found = {text(edge["edge"]): edge.get("importance") for *_, edge in made.edges(data=True)}
        known = [number(nan=True)(value) for value in found.values() if value is not None]
        if len(known) not in (0, len(found)):
            raise FileError(f"{path}: {len(known)} of {len(found)} edges have an importance; all or none should.")
        require_seal(header | {"edges": list(found), "importance": known or None}, path, "a GraphML file")
    return unpack_circuit(header, list(found), known or None, path)


def write_csv(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit's edges as CSV, whole or not at all."""
    return write_text(path, csv_text(circuit.to_pandas()))


def read_csv(path: str | Path, lm: Model) -> Circuit:
    """The circuit of the edges named in a CSV file, as one of this model.

    Raises:
        FileError: no such file, no column `name`, an edge that this model has not, an importance that is no number.
    """
    import pandas as pd

    path = at(path)
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    try:
        table = pd.read_csv(path, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise FileError(f"{path} is no CSV file ({error}).") from error
    if "name" not in table:
        raise FileError(f"{path} has no column 'name'; it has {', '.join(map(str, table.columns))}.")
    try:
        ends = parse_names(lm.graph, [str(name) for name in table["name"]])
        importance = table["importance"].to_numpy(np.float64) if "importance" in table else None
    except VeracausaError as error:
        raise FileError(f"{path} does not fit {lm.name}: {error}") from error
    except ValueError as error:
        raise FileError(f"{path}: an importance is no number ({error}). Is the file cut short?") from error
    return Circuit.of(
        lm.graph, ends[:, 0], ends[:, 1], importance=importance, model=model_header(lm), method=f"read from {path.name}"
    )
