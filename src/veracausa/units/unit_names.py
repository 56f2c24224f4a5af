"""Names of units and edges: what they look like, which tables they mean, and what a wrong one was meant to be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NoReturn, cast

import numpy as np

from veracausa.arguments import shown, texts
from veracausa.errors import UnitError
from veracausa.suggestions import did_you_mean
from veracausa.tasks.spans import NAME
from veracausa.units.adapters import parse_adapter
from veracausa.units.at_spans import SpanUnits
from veracausa.units.cells import Cells
from veracausa.units.components import is_pattern
from veracausa.units.dictionaries import parse_feature, reads_like_feature
from veracausa.units.edges import Edges
from veracausa.units.existing import beyond, sizes
from veracausa.units.groups import is_grouped, pieces
from veracausa.units.kinds import KINDS, Kind, inside_index
from veracausa.units.path_names import is_path, require_path
from veracausa.units.table import Units, layers_with

if TYPE_CHECKING:
    from veracausa.model import Model


#: Every cell of every head's pattern.
ALL_CELLS = "patterns@cells"

#: Other words for kinds.
OTHER_WORDS = {"attn": "attention", "resid": "residual", "q": "queries", "k": "keys", "v": "values"}

#: A number in a name: ASCII digits without leading zeros, so that a unit has one name, and few enough for an int64.
NUMBER = r"(0|[1-9][0-9]{0,9})"
#: What stands behind the @ of a single unit: its position, or the query and the key of a pattern's cell.
_WHERE = re.compile(rf"{NUMBER}(,{NUMBER})?")
SPAN = re.compile(NAME)

#: What an edge's name looks like; `anatomy.graph` knows which ends there are.
_EDGE = re.compile(r"[a-z][a-z0-9.]*->[a-z][a-z0-9.]*(<(q|k|v|kv)>)?(@[0-9]+)?")
_POSITION = re.compile(rf"(.*)@{NUMBER}")

#: (kind, layer, index, position or span, key) of a name; −1 where it says nothing.
_Row = tuple[str, int, int, int | str, int]


def _patterns() -> dict[str, re.Pattern[str]]:
    """Kind → what its names look like."""
    plain = {name: kind.name for name, kind in KINDS.items() if not kind.coded}  # of coded ones see `dictionaries`
    return dict(zip(plain, _compiled(tuple(plain.values())), strict=True))


@cache
def _compiled(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    numbers = dict.fromkeys(("layer", "index", "neuron"), NUMBER)
    return tuple(re.compile(name.replace(".", r"\.").format(**numbers)) for name in names)


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


def parse_names(lm: Model, names: Sequence[str]) -> Units:
    """Units by name, all of one kind; names that this model does not have are errors that say its sizes."""
    names = texts(names, "A list of units", UnitError)
    if not names:
        raise UnitError("The list of units is empty. Name at least one, e.g. ['a0.h0'].")
    patterns = _patterns()
    rows = [_read(name, patterns) for name in names]
    _require_there(lm, names, rows)
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


def parse_name(lm: Model, name: str) -> _Row:
    """What a name says, of a unit that this model has."""
    row = _read(name, _patterns())
    _require_there(lm, [name], [row])
    return row


def _require_there(lm: Model, names: Sequence[str], rows: Sequence[_Row]) -> None:
    """UnitError at the first name that this model does not have; those of a kind are asked about together."""
    kinds = np.array([kind for kind, *_ in rows])
    layer, index = np.array([row[1:3] for row in rows], dtype=np.int64).T
    lacks = np.zeros(len(rows), dtype=bool)
    for kind in dict.fromkeys(kind for kind, *_ in rows):
        lacks |= (kinds == kind) & ~np.isin(layer, layers_with(lm, kind))
        there = (kinds == kind) & ~lacks
        lacks[there] = beyond(lm, kind, index[there], layer[there])
    if lacks.any():
        first = int(np.flatnonzero(lacks)[0])
        raise UnitError(f"{names[first]!r} is not in {lm.name}: {sizes(lm, rows[first][0])}.")


def _read(name: str, patterns: Mapping[str, re.Pattern[str]]) -> _Row:
    """What a name says, whatever model it is of; `patterns`: of every kind."""
    stem, at, text = name.partition("@")
    where, span = _WHERE.fullmatch(text), text if SPAN.fullmatch(text) else None
    if (found := parse_feature(stem) or parse_adapter(stem)) and (not at or span or (where and where[3] is None)):
        return *found, span or int(where[1] if where else -1), -1
    for kind, pattern in patterns.items():
        match = pattern.fullmatch(stem)
        if match and (not at or span or (where and (kind == "patterns" or where[3] is None))):
            layer, index = int(match[1]), int(match[2]) if len(match.groups()) > 1 else -1
            if KINDS[kind].inside:
                index = inside_index(index, int(match[3]))
            position, key = (where[1], where[3] or -1) if where else (-1, -1)
            return kind, layer, index, span or int(position), int(key)
    raise UnitError(
        f"{shown(name)} is not the name of a unit. Names look like a9.h6 (head), m3 (MLP), m3.n1200 (neuron), "
        "a9 (attention), a9.h6<q>, a9.kv2<k>, a9.kv2<v>, a9.h6<pattern>, r9 (stream), m3.e5 (expert), "
        "x9 (mixer), x9.c7, f9.12 (feature), d9.on (direction), m9.down.c3 (component), lora9.q_proj, each with @7 for "
        "one position or @subject for a span; a9.h6<pattern>@7,5: query 7, key 5."
        f"{hint(name)}"
    )


def known_stem(stem: str) -> bool:
    """Whether a name without a position reads like that of a unit."""
    return (
        reads_like_feature(stem)
        or parse_adapter(stem) is not None
        or any(pattern.fullmatch(stem) for pattern in _patterns().values())
    )


def hint(name: str) -> str:
    """What a name with capitals, spaces or leading zeros was meant to be, for messages."""
    plain = re.sub(r"(?<![0-9])0+(?=[0-9])", "", name.strip().lower())
    stem, at, where = plain.partition("@")
    known = (known_stem(stem)) and (not at or _WHERE.fullmatch(where))
    return f" Did you mean {plain!r}?" if known else ""


def is_kind(text: str) -> bool:
    """Whether a text is a kind of units: alone, at every position, or at a span."""
    stem, at, where = text.partition("@")
    at_span = SPAN.fullmatch(where) is not None and stem != "edges"
    known = stem in KINDS or stem in (*OTHER_WORDS, "edges")
    return text == ALL_CELLS or (known and (not at or where == "positions" or at_span))


def require_names(units: str | Sequence[str]) -> None:
    """Raise UnitError unless these are a kind of units or read like names; which ones a model has is asked later."""
    names = [units] if isinstance(units, str) else list(units)
    for path in filter(is_path, names):
        require_path(path)
    names = [name for name in names if not is_path(name)]
    grouped = [stem for name in names if is_grouped(name) for stem, *_ in pieces(name, f"units={shown(name)}")]
    for name in [*(name for name in names if not is_grouped(name)), *grouped]:
        stem, at, where = name.partition("@")
        known = known_stem(stem) or is_pattern(stem)
        known = known and (not at or any(form.fullmatch(where) for form in (SPAN, _WHERE)))
        if not ((isinstance(units, str) and is_kind(name)) or known or _EDGE.fullmatch(name)):
            refuse(units, name)


def refuse(units: str | Sequence[str], name: str) -> NoReturn:
    """Raise UnitError for a name that means nothing: what it may have been meant to be, and what there is."""
    known = (*KINDS, "edges")
    meant = hint(name) or did_you_mean(name.partition("@")[0], known)
    raise UnitError(
        f"units={shown(units)} is not known.{meant} Kinds: {', '.join(known)}, each also as 'heads@positions' or "
        f"'heads@spans', patterns also as {ALL_CELLS!r}; or a list of names such as ['a20.h0', 'm3.n1200'] or "
        "['a9.h6->m10']."
    )
