"""Circuit files: JSON of our own, with the edges by name. Data only; whole or absent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from veracausa.attribution.files import unpack_graph
from veracausa.circuits.circuit import Circuit, parse_names
from veracausa.errors import FileError
from veracausa.storage.files import at, read_json, write_json
from veracausa.storage.schema import MODEL, TASK, many, number, reading, record, text

_FORMAT = "veracausa-circuit-2"
_HEADER = record(method=text, settings=record(), model=MODEL, task=TASK, notes=many(text))


def pack_circuit(circuit: Circuit) -> dict[str, Any]:
    """A circuit's header: everything but its edges."""
    from veracausa import __version__

    return {
        "format": _FORMAT,
        "version": __version__,
        "method": circuit.method,
        "settings": circuit.settings,
        "model": circuit.model,
        "task": circuit.task,
        "notes": list(circuit.notes),
        "graph": asdict(circuit.graph),
    }


def unpack_circuit(header: dict[str, Any], names: list[str], importance: list[float] | None, path: Path) -> Circuit:
    """The circuit of a header and its edges; `path` is for messages.

    Raises:
        FileError: something is missing, or does not fit together.
    """
    with reading(path):
        if header.get("format") != _FORMAT:
            raise FileError(f"{path} is not a {_FORMAT} file (it says {header.get('format')!r}).")
        found, graph = _HEADER(header), unpack_graph(header["graph"])
        ends = parse_names(graph, names)
        values = None if importance is None else many(number(nan=True), len(names))(importance)
        return Circuit.of(
            graph,
            ends[:, 0],
            ends[:, 1],
            importance=None if values is None else np.array(values, dtype=np.float64),
            **{name: found[name] for name in ("method", "settings", "model", "task", "notes")},
        )


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """See `Circuit.save`."""
    importance = None if circuit.importance is None else [float(x) for x in circuit.importance]
    body = pack_circuit(circuit) | {"edges": circuit.names, "importance": importance}
    return write_json(path, body)


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit that `Circuit.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or not a circuit file.

    >>> vc.load_circuit("ioi.json").require_for(lm).nodes
    """
    path = at(path)
    body = read_json(path, "a circuit file")
    edges, importance = body.get("edges"), body.get("importance")
    if not isinstance(edges, list) or not all(isinstance(name, str) for name in edges):
        raise FileError(f"{path} lacks 'edges', a list of names: it was not written by veracausa.")
    return unpack_circuit(body, edges, importance, path)
