"""Circuits for other programs: networkx and GraphML, CSV. EAP-IG's and MIB's JSON graph: `circuits.exchange.eap_json`;
Neuronpedia's attribution graph: `circuits.exchange.neuronpedia`.

**GraphML and networkx.** A directed multigraph of nodes (`input`, heads, MLPs, `logits`) with one edge for every input
of a node. Its key names both ends, `a0.h0->a1.h2<k>`, with keys and values per query head, as the graph's nodes are
heads; its attribute `edge` is our name, `a0.h0->a1.kv1<k>`, so that one of our edges may be several lines there, one
for each head of the group that the circuit touches (`Circuit.nodes`), and so may one into a reader that all heads of a
block share (`a0.h0->a1.h2<kv>` of `a0.h0->a1<kv>`). Attributes: `edge`, `reader` (q, k, v, kv, mlp, mixer, logits),
`importance` where it is known; of nodes: `kind`, `layer`, `head`. A header keeps model, task and method.

**CSV.** One line per edge: name, writer, reader, layer, importance where it is known. It has no header of the model, so
reading needs one; only the column `name` is asked for, and `importance` read where there is one.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from veracausa.circuits.circuit import Circuit, graph_of, pack_circuit
from veracausa.circuits.exchange.files import unpack_circuit
from veracausa.circuits.wiring import parse_names
from veracausa.errors import FileError, VeracausaError
from veracausa.extras import require_extra
from veracausa.storage.files import at, csv_text, json_seal, require_seal, write_text
from veracausa.storage.schema import number, reading, record, text

if TYPE_CHECKING:
    from veracausa.model import Model


def write_graphml(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit as GraphML, whole or not at all."""
    require_extra("graphs")
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
        ExtraError: networkx is not installed.
        FileError: no such file, damaged, cut short, or GraphML of another program.
    """
    require_extra("graphs")
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
    return write_text(path, csv_text(circuit.table()))


def read_csv(path: str | Path, lm: Model) -> Circuit:
    """The circuit of the edges named in a CSV file, as one of this model.

    Raises:
        ExtraError: networkx is not installed.
        FileError: no such file, no column `name`, an edge that this model has not, an importance that is no number.
    """
    import pandas as pd

    path = at(path)
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"importance": str})
    except (ValueError, OSError) as error:
        raise FileError(f"{path} is no CSV file ({error}).") from error
    if "name" not in table:
        raise FileError(f"{path} has no column 'name'; it has {', '.join(map(str, table.columns))}.")
    try:
        ends = parse_names(lm.graph, [str(name) for name in table["name"]])
        # read by Python: pandas before 3 reads the last digits otherwise than they were written
        importance = np.array([float(one) for one in table["importance"]]) if "importance" in table else None
    except VeracausaError as error:
        raise FileError(f"{path} does not fit {lm.name}: {error}") from error
    except ValueError as error:
        raise FileError(f"{path}: an importance is no number ({error}). Is the file cut short?") from error
    return Circuit.of(
        lm.graph, ends[:, 0], ends[:, 1], importance=importance, model=lm.header(), method=f"read from {path.name}"
    )
