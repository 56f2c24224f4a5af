"""Score files: safetensors with a JSON header. Data only, never code; whole or absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.graph import JOINT, Graph, graph_of
from veracausa.errors import UnitError, VeracausaError
from veracausa.scores.completeness import Completeness
from veracausa.scores.packed import FORMAT
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, read_tensors
from veracausa.storage.origin import require_same_ends
from veracausa.storage.schema import (
    MODEL,
    TASK,
    cost,
    flag,
    many,
    maybe,
    one_of,
    reading,
    record,
    require_tensors,
    text,
    whole,
)
from veracausa.tasks.spans import NAME
from veracausa.units.at_spans import SpanUnits
from veracausa.units.cells import Cells
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.kinds import KINDS, indexed
from veracausa.units.members import Member
from veracausa.units.paths import Paths
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.measurement import Measurement


def load_scores(path: str | Path) -> Scores:
    """Read scores that `Scores.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or not a score file.

    >>> vc.open("heads.safetensors").top(5)
    """
    return unpack_scores(*read_tensors(path, FORMAT), at(path))


def confirmed(scores: Scores, lm: Model, measured: Measurement, path: Path) -> Scores:
    """Scores read from a folder of pieces, if they were made with the metric that the bare model has now.

    Raises:
        FileError: they were not.
    """
    now = torch.stack([measured.clean, measured.corrupted])
    require_same_ends(lm, torch.stack([scores.clean, scores.corrupted]), now, path)
    return scores


def kind_of_units(value: Any) -> Any:
    """A kind of units; those of dictionaries may have a name of their own ("features.mlp")."""
    return value if isinstance(value, str) and value in KINDS else one_of(*KINDS)(value)


def _kind(value: Any) -> Any:
    """A kind of what scores are about."""
    return value if value in ("edges", "groups", "paths") else kind_of_units(value)


_HEADER = record(
    kind=_kind,
    method=text,
    settings=record(direction=one_of("noising", "denoising")),
    model=MODEL,
    task=TASK,
    cost=cost,
    signed=flag,
    verified=text,
    notes=many(text),
)
_GRAPH = record(layers=whole(1, 1000), heads=whole(0, 1000), kv_heads=whole(0, 1000), parallel=flag)
#: Of a graph whose blocks are not all an attention and an MLP.
_BLOCKS = record(mixer_heads=whole(0, 1000), blocks=many(one_of("", "a", "am", "x", "xm", "ax", "axm", "m"), least=1))
#: Of a graph whose heads share readers.
_JOINT = record(joint=many(one_of(*JOINT), least=1))
#: Of one whose blocks differ in key/value heads; of one whose keys are values.
_BY_BLOCK = record(kv_by_block=many(whole(0, 1000), least=1))
_ONE = record(keys_are_values=many(whole(0, 1000), least=1))


def unpack_scores(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Scores:
    """What `pack_scores` packed; `path` is for messages.

    Raises:
        FileError: something is missing, out of range, or does not fit together.
    """
    with reading(path):
        found = _HEADER(header)
        if found["kind"] == "groups":
            units: Units = unpack_groups(header["groups"])
        elif found["kind"] == "paths":
            units = unpack_paths(header["paths"], header["graph"], header.get("laid"))
        else:
            units = unpack_units(found["kind"], tensors, header["graph"], header.get("spans"))
        wanted = {"values": "float examples units", "clean": "float examples", "corrupted": "float examples"}
        wanted |= {"claimed": "float layers examples", "true": "float layers examples"} if "claimed" in tensors else {}
        wanted |= {"draw_stderr": "float examples units"} if "draw_stderr" in tensors else {}
        if not require_tensors(tensors, wanted, units=len(units))["examples"]:
            raise ValueError("it has no examples")
        return Scores(
            values=tensors["values"],
            units=units,
            clean=tensors["clean"],
            corrupted=tensors["corrupted"],
            completeness=Completeness(tensors["claimed"], tensors["true"]) if "claimed" in tensors else None,
            draw_stderr=tensors.get("draw_stderr"),
            **{name: found[name] for name in ("method", "settings", "model", "task", "cost", "signed", "verified")},
            notes=found["notes"],
        )


def unpack_units(kind: str, tensors: dict[str, Tensor], graph: Any = None, spans: Any = None) -> Units:
    """The table of units in the tensors "layer", "index" and "position", and "key" of cells; `graph`: that of edges.

    `spans`: the names of the spans that the tensor "span" counts.

    Raises:
        KeyError, ValueError: a column is missing, or names no unit.
    """
    cells = kind == "patterns" and "key" in tensors
    require_tensors(tensors, dict.fromkeys(("layer", "index", "position", *(("key",) if cells else ())), "index units"))
    layer, index, position = (tensors[name].numpy() for name in ("layer", "index", "position"))
    if not len(layer) or (layer < 0).any() or (layer > 1000).any() or (position > 1 << 31).any():
        raise ValueError("its units are none, or in no layer that a model has")
    if len({*map(bool, position < 0)}) > 1:
        raise ValueError("some of its units have a position, and others have none")
    if kind == "edges":
        units: Units = Edges("edges", layer, index, position, unpack_graph(graph))
        _require_edges(units)  # type: ignore[arg-type]
    else:
        columns = (layer, index, position)
        key = tensors["key"].numpy() if cells else None
        units = Units(kind_of_units(kind), *columns) if key is None else Cells.of(*columns, key)
        if key is not None and ((key < 0) | (key > 1 << 31)).any():
            raise ValueError("a key is no position")
        most = (1 << 63) - 1 if KINDS[kind].coded else 10_000_000
        if ((index < 0) != (not indexed(kind))).any() or (index > most).any():
            raise ValueError(f"an index is none of {kind}")
        units = units if spans is None else SpanUnits.of(units.kind, layer, index, _spans(spans, tensors))
    if len(set(units.keys)) < len(units):
        raise ValueError("a unit is many twice")
    return units


def _spans(listed: Any, tensors: dict[str, Tensor]) -> list[str]:
    """The span of each unit; ValueError for one that is not listed, or is no name."""
    names = many(text, least=1)(listed)
    require_tensors(tensors, {"layer": "index units", "span": "index units"})
    numbers = tensors["span"].tolist()
    if not all(re.fullmatch(NAME, name) for name in names) or not all(0 <= number < len(names) for number in numbers):
        raise ValueError("a unit is at a span that has no name")
    return [names[number] for number in numbers]


#: Positions before a prompt's end that a file may name.
_FAR = 1 << 31
_MEMBER = record(
    kind=kind_of_units, layer=whole(0, 1000), index=whole(-1), first=maybe(whole(-_FAR)), last=maybe(whole(-_FAR)),
    keys=maybe(many(whole(-_FAR), 2)), at=maybe(text), keys_at=maybe(text),
)  # fmt: skip


def _member(value: Any) -> Any:
    """A member of a group; of cells it says which keys, at a span which."""
    found = _MEMBER({"keys": None, "at": None, "keys_at": None} | value)
    for span in (found["at"], found["keys_at"]):
        if span is not None and not re.fullmatch(NAME, span):
            raise ValueError(f"{span!r} is no name of a span")
    return found


_GROUPS = many(record(name=text, members=many(_member, least=1)), least=1)


def unpack_groups(listed: Any) -> Groups:
    """The groups of a header; ValueError if they are none."""
    found = _GROUPS(listed)
    try:
        return Groups.of([[Member(**one) for one in each["members"]] for each in found], [one["name"] for one in found])
    except UnitError as error:
        raise ValueError(str(error)) from error


_PATHS = many(record(name=text, path=text), least=1)
_LAID = many(record(kind=kind_of_units, layer=whole(0, 1000), reads=text, writes=text))


def unpack_paths(listed: Any, graph: Any, laid: Any = None) -> Paths:
    """The paths of a header, in its graph, through these dictionaries; ValueError if they are none."""
    found = _PATHS(listed)
    sites = {(one["kind"], one["layer"]): (one["reads"], one["writes"]) for one in _LAID(laid or [])}
    try:
        return Paths.of(unpack_graph(graph), [one["path"] for one in found], [one["name"] for one in found], sites)
    except VeracausaError as error:
        raise ValueError(str(error)) from error


def unpack_graph(sizes: Any) -> Graph:
    """The graph of a header; ValueError if it is none."""
    found = _GRAPH(sizes)
    usual = [found[name] for name in ("layers", "heads", "kv_heads", "parallel")]
    found |= {"mixer_heads": 0, "blocks": []} | (_BLOCKS(sizes) if "blocks" in found else {})
    joint = _joint(sizes) if "joint" in found else ()
    by_block = tuple(_BY_BLOCK(sizes)["kv_by_block"]) if "kv_by_block" in found else ()
    one = tuple(_ONE(sizes)["keys_are_values"]) if "keys_are_values" in found else ()
    graph = graph_of(*usual, found["mixer_heads"], tuple(found["blocks"]), joint, by_block, one)
    for listed in (graph.blocks, graph.kv_by_block):
        if listed and len(listed) != graph.layers:
            raise ValueError(f"{len(listed)} blocks are not {graph.layers} layers")
    _require_key_heads(graph)
    attends = any("a" in graph.parts(layer) for layer in range(graph.layers))
    if attends != (graph.heads > 0) or attends != (graph.kv_heads > 0):
        raise ValueError("a graph has heads and key/value heads if, and only if, a block has an attention")
    if graph.joint and not attends:
        raise ValueError("readers are shared by heads, of which there are none")
    if graph.writers * graph.readers > 1e9:
        raise ValueError(f"{graph.writers:,} × {graph.readers:,} edges are more than any model has")
    return graph


def _require_key_heads(graph: Graph) -> None:
    """Raise ValueError unless every attention's heads can share its key/value heads."""
    attending = [layer for layer in range(graph.layers) if "a" in graph.parts(layer)]
    counts = {graph.kv_heads_of(layer) for layer in attending}
    for count in counts:
        if graph.heads and (not count or graph.heads % count):
            raise ValueError(f"{graph.heads} heads cannot share {count} key/value heads")
    if graph.kv_by_block and (max(counts, default=0) != graph.kv_heads or len({*graph.kv_by_block}) == 1):
        raise ValueError(f"{graph.kv_heads} key/value heads are not those of the blocks")
    if graph.keys_are_values and (not {*graph.keys_are_values} <= {*attending} or {"k", "kv"} & {*graph.joint}):
        raise ValueError("blocks whose keys are values have no attention, or share readers")


def _joint(sizes: Any) -> tuple[str, ...]:
    """Kinds of readers that heads share; ValueError for some that no model has together."""
    found = tuple(_JOINT(sizes)["joint"])
    if found != tuple(kind for kind in JOINT if kind in found) or {"k", "kv"} <= {*found}:
        raise ValueError(f"heads share no readers of the kinds {', '.join(found)}")
    return found


def _require_edges(edges: Edges) -> None:
    """Raise ValueError unless every row of the table is an edge of its graph."""
    graph = edges.graph
    if (edges.index < 0).any() or (edges.index >= graph.writers * graph.readers).any():
        raise ValueError("an edge is not in its graph")
    if (edges.layer != graph.reader_layer[edges.reader]).any():
        raise ValueError("an edge's layer is not that of its reader")
    if (graph.writer_order[edges.writer] > graph.reader_order[edges.reader]).any():
        raise ValueError("an edge's reader lies before its writer")


def same_table(scores: Mapping[str, Scores]) -> None:
    """Raise ValueError unless scores are of the same units and of as many pairs."""
    first = next(iter(scores.values()), None)
    if first is None:
        raise ValueError("it holds no scores")
    for name, one in scores.items():
        if (one.units.kind, one.units.keys, one.n) != (first.units.kind, first.units.keys, first.n):
            raise ValueError(f"the scores {name!r} are of other units or pairs")
