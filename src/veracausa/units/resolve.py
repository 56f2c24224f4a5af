"""What `units=` means: a kind, a kind per position, names of units or of edges, or a table of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from veracausa.arguments import shown, texts
from veracausa.errors import UnitError
from veracausa.tasks.spans import END
from veracausa.units.at_spans import SpanUnits, require_spans
from veracausa.units.dictionaries import lacking, sizes_of
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_cells, all_edges, all_units
from veracausa.units.existing import checked_edges, checked_groups, checked_units
from veracausa.units.groups import Groups, is_grouped, is_window, pieces
from veracausa.units.kinds import KINDS, Kind
from veracausa.units.members import Member
from veracausa.units.path_names import Laid, are_paths, path_texts
from veracausa.units.paths import Paths
from veracausa.units.table import Units
from veracausa.units.unit_names import (
    ALL_CELLS,
    OTHER_WORDS,
    SPAN,
    hint,
    known_stem,
    parse_edges,
    parse_name,
    parse_names,
    refuse,
)

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: All spans of a task, in "heads@spans".
_EVERY = "spans"


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
                told[stem] = parse_name(lm, stem)
            kind, layer, index, *_ = told[stem]
            at, keys_at = (span if isinstance(span, str) else None for span in (queries, keys))
            first, last = queries if isinstance(queries, tuple) else (None, None)
            own = keys if isinstance(keys, tuple) else None
            members.append(Member(cast("Kind", kind), layer, index, first, last, own, at, keys_at))
        found.append(members)
    named: list[str | None] = [str(name) for name in entries]
    named = named or [entry if is_window(entry) else None for entry in listed]
    return checked_groups(lm, Groups.of(found, named), longest, spans)


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
        return checked_units(lm, units, longest)
    names = units if isinstance(units, str) else texts(units, "A list of units", UnitError)
    if any("->" in name for name in ([names] if isinstance(names, str) else names)):
        edges = [re.sub(r"\s*->\s*", "->", name) for name in ([names] if isinstance(names, str) else names)]
        return checked_edges(lm, parse_edges(lm, edges), longest)
    if not isinstance(names, str):
        return checked_units(lm, _at_spans(parse_names(lm, names), spans, names), longest)
    kind, at, what = names.partition("@")
    if kind == "edges" and (not at or what == "positions"):
        return all_edges(lm, longest if at else 0)
    kind = OTHER_WORDS.get(kind, kind)
    if names == ALL_CELLS:
        return all_cells(lm, longest)
    if kind in KINDS and (not at or what == "positions"):
        return all_units(lm, cast("Kind", kind), longest if at else 0)
    if kind in KINDS and SPAN.fullmatch(what):
        return _all_at_spans(lm, cast("Kind", kind), what, spans)
    if known_stem(kind) or hint(names):
        return checked_units(lm, _at_spans(parse_names(lm, [names]), spans, [names]), longest)
    refuse(names, names)


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
    if task is None:
        require_spans([_EVERY], task, what)
    assert task is not None
    if not task.span_names:
        raise UnitError(
            f"{what}: the task {task.name!r} has no spans but 'end'. Name some when you make it, e.g. "
            "vc.task(lm, …, spans={'subject': …})."
        )
    return SpanUnits.at(all_units(lm, kind), [*task.span_names, END])
