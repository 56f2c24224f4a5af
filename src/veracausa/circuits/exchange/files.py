"""Circuit files: JSON of our own, with the edges by name. Data only; whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from veracausa.circuits.circuit import _FORMAT, Circuit
from veracausa.circuits.wiring import parse_names
from veracausa.errors import FileError
from veracausa.scores.files import unpack_graph
from veracausa.storage.files import at, read_json
from veracausa.storage.schema import MODEL, TASK, cost, many, maybe, number, reading, record, text

_HEADER = record(method=text, settings=record(), model=MODEL, task=TASK, notes=many(text), cost=maybe(cost))


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
            **{name: found[name] for name in ("method", "settings", "model", "task", "notes", "cost")},
        )


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit that `Circuit.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or not a circuit file.

    >>> vc.open("ioi.json").require_for(lm).nodes
    """
    path = at(path)
    body = read_json(path, "a circuit file")
    edges, importance = body.get("edges"), body.get("importance")
    if not isinstance(edges, list) or not all(isinstance(name, str) for name in edges):
        raise FileError(f"{path} lacks 'edges', a list of names: it was not written by veracausa.")
    return unpack_circuit(body, edges, importance, path)
