"""What `units=` means: a kind, a kind per position, names of units or of edges, or a table of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from veracausa.arguments import shown, texts
from veracausa.errors import UnitError
from veracausa.suggestions import did_you_mean
from veracausa.tasks.placing import length_of, places
from veracausa.tasks.spans import END, NAME
from veracausa.units.adapters import adapters_told, all_adapters, lacking_adapters, parse_adapter
from veracausa.units.at_spans import SpanUnits, require_spans
from veracausa.units.cells import Cells, hidden_cell
from veracausa.units.components import is_pattern
from veracausa.units.dictionaries import all_of_dictionaries, lacking, parse_feature, reads_like_feature, sizes_of
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups, is_grouped, is_window, pieces
from veracausa.units.kinds import KINDS, Kind, indexed, inside_index, inside_of
from veracausa.units.members import Member
from veracausa.units.path_names import Laid, are_paths, is_path, path_texts, require_path
from veracausa.units.paths import Paths
from veracausa.units.table import Units, layers_with, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: Every cell of every head's pattern.
ALL_CELLS = "patterns@cells"

#: Other words for kinds.
_SHORT = {"attn": "attention", "resid": "residual", "q": "queries", "k": "keys", "v": "values"}

#: A number in a name: ASCII digits without leading zeros, so that a unit has one name, and few enough for an int64.
NUMBER = r"(0|[1-9][0-9]{0,9})"
_NUMBER = re.compile(NUMBER)
#: What stands behind the @ of a single unit: its position, or the query and the key of a pattern's cell.
_WHERE = re.compile(rf"{NUMBER}(,{NUMBER})?")
_SPAN = re.compile(NAME)
#: All spans of a task, in "heads@spans".
_EVERY = "spans"

#: What an edge's name looks like; `anatomy.graph` knows which ends there are.
_EDGE = re.compile(r"[a-z][a-z0-9.]*->[a-z][a-z0-9.]*(<(q|k|v|kv)>)?(@[0-9]+)?")
_POSITION = re.compile(rf"(.*)@{NUMBER}")


def _patterns() -> dict[str, re.Pattern[str]]:
    """Kind → what its names look like."""
    plain = {name: kind.name for name, kind in KINDS.items() if not kind.coded}  # of coded ones see `dictionaries`
    return dict(zip(plain, _compiled(tuple(plain.values())), strict=True))


@cache
def _compiled(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    numbers = dict.fromkeys(("layer", "index", "neuron"), NUMBER)
    return tuple(re.compile(name.replace(".", r"\.").format(**numbers)) for name in names)


def all_edges(lm: Model, positions: int = 0) -> Edges:
    """Every edge of a model, reader by reader; with `positions` > 0 one per position, position fastest."""
    writer, reader = lm.graph.edges
    if not positions:
        return Edges.of(lm.graph, writer, reader)
    position = np.tile(np.arange(positions), len(writer))
    return Edges.of(lm.graph, np.repeat(writer, positions), np.repeat(reader, positions), position)


def parse_edges(lm: Model, names: Sequence[str]) -> Edges:
    """Edges by name.

    Raises:
        UnitError: a name that this model has not, twice the same, or some with and some without a position.
    """
    rows = []
    names = texts(names, "A list of edges", UnitError)
    for name in names:
        match = _POSITION.fullmatch(name)
        stem, position = (match[1], int(match[2])) if match else (name, -1)
        rows.append((*lm.graph.parse(stem), position))
    if len({position < 0 for *_, position in rows}) > 1:
        raise UnitError("The list mixes edges at one position (with @) and at all positions. Make two calls.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnitError(f"Edges are listed twice: {', '.join(twice[:5])}.")
    columns = np.array(rows, dtype=np.int64)
    return Edges.of(lm.graph, columns[:, 0], columns[:, 1], columns[:, 2])


def checked_edges(lm: Model, edges: Edges, longest: int) -> Edges:
    """The table, if it is about this model's graph and its positions exist."""
    if not len(edges):
        raise UnitError("The table of edges is empty. Name at least one, e.g. ['a0.h0->logits'].")
    if edges.graph != lm.graph:
        raise UnitError(f"The edges are those of {edges.graph}, but {lm.name} is {lm.graph}.")
    edges.require_existing()
    if (edges.position >= longest).any():
        name = edges[np.flatnonzero(edges.position >= longest)[:1]].names[0]
        raise UnitError(
            f"{name!r}: no prompt of this task has such a position; the longest has {longest} tokens, counted from 0."
        )
    return edges


def all_units(lm: Model, kind: Kind, positions: int = 0) -> Units:
    """Every unit of a kind, layer by layer; with `positions` > 0 one unit per position, position fastest."""
    if kind == "adapters":
        return _at_positions(all_adapters(lm), positions)
    if KINDS[kind].coded:
        return _at_positions(all_of_dictionaries(lm, kind), positions)
    layers, count = layers_with(lm, kind), per_layer(lm, kind)
    if KINDS[kind].inside:
        experts, neurons = (column.ravel() for column in np.indices((lm.experts, _inside(lm))))
        units = Units(kind, np.repeat(layers, len(experts)), np.tile(inside_index(experts, neurons), len(layers)),
                      np.full(len(layers) * len(experts), -1))  # fmt: skip
        return _at_positions(units, positions)
    layer = np.repeat(np.array(layers), max(count, 1))
    index = np.tile(np.arange(count), len(layers)) if count else np.full(len(layers), -1)
    return _at_positions(Units(kind, layer, index, np.full(len(layer), -1)), positions)


def _at_positions(units: Units, positions: int) -> Units:
    """Every unit at each of so many positions, position fastest; with 0 the units."""
    if not positions:
        return units
    position = np.tile(np.arange(positions), len(units))
    return Units(units.kind, np.repeat(units.layer, positions), np.repeat(units.index, positions), position)


def _inside(lm: Model) -> int:
    """Neurons of an expert."""
    lm.decoder.require("expert_neurons")
    return next(mixture.neurons for mixture in lm.decoder.mixtures.values())


def all_cells(lm: Model, longest: int) -> Cells:
    """Every cell of every head's pattern in prompts of that length that a query sees: key by key, query by query."""
    every = np.ones((longest, longest), dtype=bool)
    query, key = np.nonzero(np.tril(every) if lm.decoder.anatomy.causal else every)
    heads = all_units(lm, "patterns")
    layer, head = (np.repeat(column, len(query)) for column in (heads.layer, heads.index))
    return Cells.of(layer, head, *(np.tile(column, len(heads)) for column in (query, key)))


def parse_names(lm: Model, names: Sequence[str]) -> Units:
    """Units by name, all of one kind; names that this model does not have are errors that say its sizes."""
    names = texts(names, "A list of units", UnitError)
    if not names:
        raise UnitError("The list of units is empty. Name at least one, e.g. ['a0.h0'].")
    rows = [_parse(lm, name) for name in names]
    kinds = sorted({kind for kind, *_ in rows})
    if len(kinds) > 1:
        raise UnitError(
            f"The list mixes kinds of units ({', '.join(kinds)}), and rankings compare units of one kind. Make one "
            f"call per kind, or of vc.exact groups: units={{'one': [{names[0]!r}], …}}."
        )
    if len({at if at == -1 else type(at) for *_, at, _ in rows}) > 1:
        raise UnitError("The list mixes units at one position (with @7), at a span (@subject) and at all positions. "
                        "Make a call for each.")  # fmt: skip
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnitError(f"Units are listed twice: {', '.join(twice[:5])}.")
    if isinstance(rows[0][3], str):
        layer, index = np.array([row[1:3] for row in rows], dtype=np.int64).T
        return SpanUnits.of(cast("Kind", kinds[0]), layer, index, [str(row[3]) for row in rows])
    layer, index, position, key = np.array([row[1:] for row in rows], dtype=np.int64).T
    if (key < 0).any() and (key >= 0).any():
        raise UnitError("The list mixes whole rows of patterns and single cells. Make two calls, or groups of them.")
    if key[0] >= 0:
        return Cells.of(layer, index, position, key)
    return Units(cast("Kind", kinds[0]), layer, index, position)


def _parse(lm: Model, name: str) -> tuple[str, int, int, int | str, int]:
    """(kind, layer, index, position or span, key) of a name; −1 where it says nothing."""
    stem, at, text = name.partition("@")
    where, span = _WHERE.fullmatch(text), text if _SPAN.fullmatch(text) else None
    if (found := parse_feature(stem) or parse_adapter(stem)) and (not at or span or (where and where[3] is None)):
        kind, layer, index = found
        if layer not in layers_with(lm, kind) or _beyond(lm, kind, np.array([index]), np.array([layer])).any():
            raise UnitError(f"{name!r} is not in {lm.name}: {_sizes(lm, kind)}.")
        return kind, layer, index, span or int(where[1] if where else -1), -1
    for kind, pattern in _patterns().items():
        match = pattern.fullmatch(stem)
        if match and (not at or span or (where and (kind == "patterns" or where[3] is None))):
            layer, index = int(match[1]), int(match[2]) if len(match.groups()) > 1 else -1
            if KINDS[kind].inside:
                index = inside_index(index, int(match[3]))
            if layer not in layers_with(lm, kind) or _beyond(lm, kind, np.array([index]), np.array([layer])).any():
                raise UnitError(f"{name!r} is not in {lm.name}: {_sizes(lm, kind)}.")
            position, key = (where[1], where[3] or -1) if where else (-1, -1)
            return kind, layer, index, span or int(position), int(key)
    raise UnitError(
        f"{shown(name)} is not the name of a unit. Names look like a9.h6 (head), m3 (MLP), m3.n1200 (neuron), "
        "a9 (attention), a9.h6<q>, a9.kv2<k>, a9.kv2<v>, a9.h6<pattern>, r9 (stream), m3.e5 (expert), "
        "x9 (mixer), x9.c7, f9.12 (feature), d9.on (direction), m9.down.c3 (component), lora9.q_proj, each with @7 for "
        "one position or @subject for a span; a9.h6<pattern>@7,5: query 7, key 5."
        f"{_hint(name)}"
    )


def _known_stem(stem: str) -> bool:
    """Whether a name without a position reads like that of a unit."""
    return (
        reads_like_feature(stem)
        or parse_adapter(stem) is not None
        or any(pattern.fullmatch(stem) for pattern in _patterns().values())
    )


def _hint(name: str) -> str:
    """What a name with capitals, spaces or leading zeros was meant to be, for messages."""
    plain = re.sub(r"(?<![0-9])0+(?=[0-9])", "", name.strip().lower())
    stem, at, where = plain.partition("@")
    known = (_known_stem(stem)) and (not at or _WHERE.fullmatch(where))
    return f" Did you mean {plain!r}?" if known else ""


def require_names(units: str | Sequence[str]) -> None:
    """Raise UnitError unless these are a kind of units or read like names; which ones a model has is asked later."""
    names = [units] if isinstance(units, str) else list(units)
    for path in filter(is_path, names):
        require_path(path)
    names = [name for name in names if not is_path(name)]
    grouped = [stem for name in names if is_grouped(name) for stem, *_ in pieces(name, f"units={shown(name)}")]
    for name in [*(name for name in names if not is_grouped(name)), *grouped]:
        stem, at, where = name.partition("@")
        at_span = _SPAN.fullmatch(where) is not None and stem != "edges"
        is_kind = isinstance(units, str) and (stem in KINDS or stem in (*_SHORT, "edges"))
        is_kind = is_kind and (not at or where == "positions" or at_span)
        is_kind = is_kind or units == ALL_CELLS
        is_name = _known_stem(stem) or is_pattern(stem)
        is_name = is_name and (not at or at_span or _WHERE.fullmatch(where) is not None)
        if not (is_kind or is_name or _EDGE.fullmatch(name)):
            _refuse(units, name)


def _refuse(units: str | Sequence[str], name: str) -> NoReturn:
    known = (*KINDS, "edges")
    meant = _hint(name) or did_you_mean(name.partition("@")[0], known)
    raise UnitError(
        f"units={shown(units)} is not known.{meant} Kinds: {', '.join(known)}, each also as 'heads@positions' or "
        f"'heads@spans', patterns also as {ALL_CELLS!r}; or a list of names such as ['a20.h0', 'm3.n1200'] or "
        "['a9.h6->m10']."
    )


def parse_groups(lm: Model, asked: Any, longest: int, spans: Task | None = None) -> Groups:
    """Groups by the names of their members (see `units.groups`), or by names of their own: {"movers": ["a9.h6", "m3"]}.

    Raises:
        UnitError: a unit that the model has not, a position that no prompt has, a span that the task (`spans`) has not,
            an empty group, a unit twice.
    """
    entries = dict(asked) if isinstance(asked, Mapping) else {}
    listed = list(entries.values()) if entries else [asked] if isinstance(asked, str) else list(asked)
    found, told = [], dict[str, tuple[str, int, int, int | str, int]]()  # groups may share thousands of members
    for entry in listed:
        members = []
        for stem, queries, keys in pieces(entry, f"units={shown(entry)}"):
            if stem not in told:
                told[stem] = _parse(lm, stem)
            kind, layer, index, *_ = told[stem]
            at, keys_at = (span if isinstance(span, str) else None for span in (queries, keys))
            first, last = queries if isinstance(queries, tuple) else (None, None)
            own = keys if isinstance(keys, tuple) else None
            members.append(Member(cast("Kind", kind), layer, index, first, last, own, at, keys_at))
        found.append(members)
    named: list[str | None] = [str(name) for name in entries]
    named = named or [entry if is_window(entry) else None for entry in listed]
    return checked_groups(lm, Groups.of(found, named), longest, spans)


def checked_groups(lm: Model, groups: Groups, longest: int, spans: Task | None = None) -> Groups:
    """The table, if the model has every unit of it, some prompt every position, and the task every span.

    Raises:
        UnitError: the first that is not there.
    """
    if not len(groups):
        raise UnitError("The table of groups is empty. Name at least one, e.g. [('a0.h0', 'a1.h0')].")
    for name, members in zip(groups.names, groups.members, strict=True):
        for one in members:
            if KINDS[one.kind].carried:
                raise UnitError(
                    f"The group {name!r} holds {one.name}: what a mixer carries is replaced alone. Name it by itself."
                )
            if indexed(one.kind) != (one.index >= 0):
                raise UnitError(
                    f"The group {name!r} holds {one}: a unit of that kind has {'an' if one.index < 0 else 'no'} index."
                )
    _require_members(lm, groups, longest)
    for name, members in zip(groups.names, groups.members, strict=True):
        if lm.decoder.anatomy.causal and (hidden := next((one for one in members if one.hidden), None)):
            raise UnitError(hidden_cell(hidden.name))
        if beyond := next((one for one in members if not one.named and one.span(longest, {})[0] < 0), None):
            raise UnitError(
                f"{beyond.name!r} of the group {name!r}: no prompt of this task has such a position; the longest has "
                f"{longest} tokens, counted from 0."
            )
    if groups.named:
        require_spans(groups.named, spans, f"units={shown(groups.names)}")
        _require_apart(groups, cast("Task", spans))
    return groups


def _require_members(lm: Model, groups: Groups, longest: int) -> None:
    """UnitError where the model has not all units that members are: each is asked about once, a kind together."""
    found: dict[Kind, dict[tuple[int, int], None]] = {}
    for one in (one for group in groups.members for one in group):
        found.setdefault(one.kind, {})[one.layer, one.index] = None
    for kind, own in found.items():
        layer, index = np.array([*own], dtype=np.int64).T
        _checked(lm, Units(kind, layer, index, np.full(len(own), -1)), longest)


def _require_apart(groups: Groups, task: Task) -> None:
    """UnitError where two members at spans set the same activation in some pair."""
    for name, members in zip(groups.names, groups.members, strict=True):
        pairs = [(a, b) for a, b in combinations(members, 2) if (a.named or b.named) and a.shares_activation(b)]
        for i, clean in product(range(len(task)) if pairs else (), (True, False)):
            where = places(task, i, groups.named, clean)
            for a, b in pairs:
                if a.meets(b, length_of(task, i, clean), where):
                    raise UnitError(
                        f"The group {name!r} holds {a.name} and {b.name}, which overlap in pair {i} of {task.name!r}. "
                        "Name every activation once."
                    )


def resolve_units(
    lm: Model, units: Any, longest: int, *, groups: bool = False, spans: Task | None = None
) -> Units:  # fmt: skip
    """What a public call's `units` means: a kind ("heads"), a kind per position ("heads@positions") or at each span
    ("heads@spans"), names, a table.

    `longest`: number of positions of the task's longest prompt. `groups`: whether the call takes groups and paths, and
    what mixers carry. `spans`: the task whose spans units may be at; None where the call takes none.
    """
    table = _resolved(lm, units, longest, groups, spans)
    if table.kind in KINDS and KINDS[table.kind].carried:
        _require_carried(table, groups)
    return table


def _require_carried(table: Units, exact: bool) -> None:
    """UnitError unless what mixers carry is asked for at positions, and of a call that runs it."""
    name = KINDS[table.kind].called(int(table.layer[0]), -1)
    if isinstance(table, SpanUnits) or (table.position < 0).any():
        raise UnitError(
            f"{table.names[0]!r} is what a mixer carries away from one position: name that, as in {name}@7, or take "
            f"'{table.kind}@positions'."
        )
    if not exact:
        raise UnitError(
            f"{table.names[0]!r} is what a mixer carries inside its scan, which is no activation that a gradient or "
            "another method could take; only vc.exact replaces it. Name mixers, their channels or gates here."
        )


def _resolved(lm: Model, units: Any, longest: int, groups: bool, spans: Task | None) -> Units:
    """The table that `resolve_units` means."""
    if isinstance(units, SpanUnits):
        require_spans(units.named, spans, "units=")
    if isinstance(units, Paths) or are_paths(units):
        if not groups:
            raise UnitError(
                f"units={shown(units)} names paths, along which a change is passed on; only vc.exact takes them. Name "
                "single units or edges here."
            )
        laid = {
            key: (code.dictionary.reads.name, code.dictionary.writes.name) for key, code in lm.decoder.codes.items()
        }
        table = units if isinstance(units, Paths) else Paths.of(lm.graph, *path_texts(units), laid=laid)
        if table.named:
            require_spans(table.named, spans, f"units={shown(table.names)}")
        _require_laid(lm, table, laid)
        return table.checked(lm.graph, lm.name, longest)
    if isinstance(units, Groups) or is_grouped(units):
        if not groups:
            raise UnitError(
                f"units={shown(units)} names groups of units, which one patch replaces together; only vc.exact takes "
                "them. Name single units here."
            )
        given = isinstance(units, Groups)
        return checked_groups(lm, units, longest, spans) if given else parse_groups(lm, units, longest, spans)
    if isinstance(units, Edges):
        return checked_edges(lm, units, longest)
    if isinstance(units, Units):
        return _checked(lm, units, longest)
    names = units if isinstance(units, str) else texts(units, "A list of units", UnitError)
    if any("->" in name for name in ([names] if isinstance(names, str) else names)):
        edges = [re.sub(r"\s*->\s*", "->", name) for name in ([names] if isinstance(names, str) else names)]
        return checked_edges(lm, parse_edges(lm, edges), longest)
    if not isinstance(names, str):
        return _checked(lm, _at_spans(parse_names(lm, names), spans, names), longest)
    kind, at, what = names.partition("@")
    if kind == "edges" and (not at or what == "positions"):
        return all_edges(lm, longest if at else 0)
    kind = _SHORT.get(kind, kind)
    if names == ALL_CELLS:
        return all_cells(lm, longest)
    if kind in KINDS and (not at or what == "positions"):
        return all_units(lm, cast("Kind", kind), longest if at else 0)
    if kind in KINDS and _SPAN.fullmatch(what):
        return _all_at_spans(lm, cast("Kind", kind), what, spans)
    if _known_stem(kind) or _hint(names):
        return _checked(lm, _at_spans(parse_names(lm, [names]), spans, [names]), longest)
    _refuse(names, names)


def _require_laid(lm: Model, table: Paths, laid: Laid) -> None:
    """UnitError for a path through a part that no dictionary of the model has."""
    for one in table.coded:
        if laid.get((one.kind, one.layer)) != table.laid[one.kind, one.layer]:
            raise UnitError(
                f"The paths go through {one.kind} of layer {one.layer} that read {one.reads.name} and explain "
                f"{one.writes.name}; no such dictionary is laid on {lm.name}."
            )
        if lacking(lm, one.kind, np.array([one.layer]), np.array([one.index])).any():
            name = KINDS[one.kind].called(one.layer, one.index)
            raise UnitError(f"{name!r} is not in {lm.name}: {sizes_of(lm, one.kind)}.")


def _at_spans(units: Units, task: Task | None, names: Sequence[str]) -> Units:
    """The table, if the task has all spans that its units are at."""
    if isinstance(units, SpanUnits):
        require_spans(units.named, task, f"units={shown(names)}")
    return units


def _all_at_spans(lm: Model, kind: Kind, span: str, task: Task | None) -> SpanUnits:
    """Every unit of a kind at a span, or at all spans of the task, the last position among them."""
    what = f"units={shown(f'{kind}@{span}')}"
    if span != _EVERY:
        require_spans([span], task, what)
        return SpanUnits.at(all_units(lm, kind), [span])
    if task is None or not task.span_names:
        require_spans([_EVERY], task, what)
    assert task is not None
    return SpanUnits.at(all_units(lm, kind), [*task.span_names, END])


def _checked(lm: Model, units: Units, longest: int) -> Units:
    """The table, if the model has every unit of it and some prompt every position; names the first that is not."""
    if not len(units):
        raise UnitError("The table of units is empty. Name at least one, e.g. ['a0.h0'].")
    lm.decoder.require(units.kind)
    bad = ~np.isin(units.layer, layers_with(lm, units.kind)) | _beyond(lm, units.kind, units.index, units.layer)
    if bad.any():
        name = units[np.flatnonzero(bad)[:1]].names[0]
        raise UnitError(f"{name!r} is not in {lm.name}: {_sizes(lm, units.kind)}.")
    if isinstance(units, Cells) and lm.decoder.anatomy.causal:
        units.require_seen()
    if (units.furthest >= longest).any():
        name = units[np.flatnonzero(units.furthest >= longest)[:1]].names[0]
        raise UnitError(
            f"{name!r}: no prompt of this task has such a position; the longest has {longest} tokens, counted from 0."
        )
    return units


def _beyond(lm: Model, kind: str, index: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Which indices a layer has not."""
    if kind == "adapters":
        return lacking_adapters(lm, layer, index)
    if KINDS[kind].coded:
        return lacking(lm, kind, layer, index)
    if KINDS[kind].inside:
        expert, neuron = inside_of(index)
        return (expert >= lm.experts) | (neuron >= _inside(lm))
    return index >= per_layer(lm, kind) if indexed(kind) else np.zeros(len(index), dtype=bool)


def _sizes(lm: Model, kind: str) -> str:
    """ "its layers are 0 … 29, each with 9 heads", for messages."""
    if KINDS[kind].place == "adapters":
        return adapters_told(lm)
    if KINDS[kind].coded:
        return sizes_of(lm, kind)
    size = f", each with {per_layer(lm, kind)} {kind}" if indexed(kind) else ""
    if KINDS[kind].inside:
        size = f", each with {lm.experts} experts of {_inside(lm)} neurons"
    layers, last = layers_with(lm, kind), lm.layers - (kind != "residual")
    if len(layers) > last:
        return f"its layers are 0 … {last}{size}"
    part = {"mixer": "a mixer", "mlp": "an MLP"}.get(KINDS[kind].part, KINDS[kind].part)
    return f"its layers with {part} are {', '.join(map(str, layers))}{size}"
