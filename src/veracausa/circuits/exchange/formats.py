"""`vc.circuits.read` and `vc.circuits.write`: circuits of ours and of other programs, by a file's name or content.

| `format` | file | read | written | needs |
|---|---|---|---|---|
| "veracausa" | .json | yes | yes | |
| "graphml" | .graphml | yes | yes | |
| "csv" | .csv | yes | yes | the model, to read |
| "eap" | .json of EAP-IG and MIB | yes | yes | the model |
| "neuronpedia" | .json of Neuronpedia and circuit-tracer | no | yes | the model, a task |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from veracausa.circuits.exchange.eap_json import read_eap_json, write_eap_json
from veracausa.circuits.exchange.files import load_circuit
from veracausa.circuits.exchange.graphml import read_csv, read_graphml, write_csv, write_graphml
from veracausa.circuits.exchange.neuronpedia import write_neuronpedia
from veracausa.errors import CircuitError, MethodError
from veracausa.storage.files import at, read_json
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from veracausa.circuits.circuit import Circuit
    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task

Format = Literal["veracausa", "graphml", "csv", "eap", "neuronpedia"]
#: Ending of a file → what it is where nothing else is said.
_BY_ENDING: dict[str, Format] = {".json": "veracausa", ".graphml": "graphml", ".csv": "csv"}


def read(
    path: str | Path,
    lm: Model | None = None,
    *,
    format: Format | None = None,
    groups: Literal["agree", "any"] = "agree",
) -> Circuit:
    """Read a circuit of ours (JSON, GraphML, CSV), or of EAP-IG and MIB (JSON).

    Args:
        path: the file.
        lm: the model; files of EAP-IG and CSV say nothing of it, so they need it. Given for another file, the circuit
            must be one of it.
        format: what the file is; None: what its ending and its content say.
        groups: of EAP-IG: "agree": flags of a key/value head's query heads must be equal; "any": one true flag keeps
            the edge.

    Raises:
        CircuitError: a file that needs the model, without it; a circuit of another model; no edge in the graph.
        FileError: no such file, damaged, cut short, of another format, or of edges that the model has not.
        MethodError: an unknown format, or one that is only written. ExtraError: GraphML without networkx.

    >>> vc.circuits.read("importances.json", lm).nodes
    """
    path = at(path)
    kind = _kind(path, format)
    if kind == "veracausa" and format is None and "cfg" in read_json(path, "a circuit", sealed=False):
        kind = "eap"
    if kind == "neuronpedia":
        raise MethodError("format='neuronpedia' is only written: such a graph is one prompt's, and rounded.")
    if kind == "eap":
        return read_eap_json(path, _needed(lm, path, kind), groups=groups)
    if kind == "csv":
        return read_csv(path, _needed(lm, path, kind))
    circuit = read_graphml(path) if kind == "graphml" else load_circuit(path)
    return circuit if lm is None else circuit.require_for(lm)


def write(
    circuit: Circuit,
    path: str | Path,
    *,
    format: Format | None = None,
    lm: Model | None = None,
    task: Task | None = None,
    pair: int = 0,
    positions: Scores | None = None,
) -> Path:
    """Write a circuit for us or for another program, whole or not at all; returns the path.

    Args:
        circuit: the circuit.
        path: the file; .json is ours, .graphml (networkx) and .csv are themselves.
        format: "eap" (EAP-IG and MIB) or "neuronpedia" (Neuronpedia and circuit-tracer), which are JSON, too.
        lm: the model, for "eap" and "neuronpedia".
        task: whose `pair`'s clean prompt Neuronpedia's graph shows.
        pair: which pair of it.
        positions: scores of edges at positions on this task, for Neuronpedia; None: all nodes at the last position.

    Raises:
        CircuitError: a format that needs the model or a task, without it; a circuit of another model, or an empty one
            for Neuronpedia. TaskError: no such pair. FileError: it cannot be written.
        MethodError: an unknown format or ending; `task` or `positions` for another format, which has no place for them.

    >>> vc.circuits.write(circuit, "ioi.graphml")
    >>> vc.circuits.write(circuit, "ioi.json", format="neuronpedia", lm=lm, task=task)
    """
    path = at(path)
    kind = _kind(path, format)
    if kind == "neuronpedia":
        if task is None:
            raise CircuitError("Neuronpedia's graph shows a circuit on one prompt: give its task=, and pair=.")
        model = _needed(lm, path, kind)
        return write_neuronpedia(model, path, circuit=circuit, task=task, pair=pair, positions=positions)
    if task is not None or positions is not None:
        raise MethodError(f"task= and positions= are for format='neuronpedia'; {kind!r} has no place for them.")
    if kind == "eap":
        return write_eap_json(_needed(lm, path, kind), path, circuit=circuit)
    if kind == "graphml":
        return write_graphml(circuit, path)
    return write_csv(circuit, path) if kind == "csv" else circuit.save(path)


def _kind(path: Path, format: Format | None) -> Format:
    """What a file is said to be, or called."""
    if format is not None:
        if format not in get_args(Format):
            raise MethodError(not_known("format", format, get_args(Format)))
        return format
    if path.suffix.lower() not in _BY_ENDING:
        raise MethodError(f"{path.name}: a circuit's file ends in {', '.join(_BY_ENDING)}; or say format=.")
    return _BY_ENDING[path.suffix.lower()]


def _needed(lm: Model | None, path: Path, kind: str) -> Model:
    if lm is None:
        raise CircuitError(f"{path.name}: a file of {kind!r} does not say which model it is about: give lm=, too.")
    return lm
