"""Groups: several units as one, patched together; of any kinds, layers and positions.

    a9.h6+a20.h0        two heads, at all positions
    m3@5-8              an MLP at positions 5 to 8
    m3+m4@5-8           two MLPs at positions 5 to 8: the last name's positions hold for all where no other has any
    a9.h6@2+m10@5       each at its own position
    m3-7, a3-5.h2       a window of layers: the MLPs of layers 3 to 7, head 2 of layers 3 to 5; m3-7@subject
    m3+m4@-1            two MLPs at each prompt's last position (also @end); @-3--1 at its last three
    m3+m4@subject       two MLPs at the tokens that each pair names so (see `tasks.spans`)
    a9.h6<pattern>@12,3-5   what query 12 of a head takes from keys 3 to 5 (see `units.cells`), beside "m3" or alone
    a9.h6<pattern>@end,subject  what each prompt's last position takes from the tokens that are named so

A group's name is what it is made of, or one that you give: {"movers": ["a9.h6", "a20.h0"]}.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.arguments import is_list, shown
from veracausa.errors import UnitError
from veracausa.tasks.spans import END, NAME
from veracausa.units.members import Member, require_member
from veracausa.units.spans import Range, is_range, read_range
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.engine.patches import Place

#: Members that are shown one by one.
_SHOWN = 8
#: A window of layers: m3-7, a3-5.h2.
_WINDOW = re.compile(r"([amrx])([0-9]{1,4})-([0-9]{1,4})(.*)")
#: What an entry says of one member: its name, its positions and its keys (or their spans); None where it says nothing.
Piece = tuple[str, Range | str | None, Range | str | None]


@dataclass(frozen=True, eq=False)
class Groups(Units):
    """A table of groups. `layer`: the first that a group touches; `members[g]`: what it is made of; `labels[g]`."""

    members: tuple[tuple[Member, ...], ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, members: Sequence[Sequence[Member]], labels: Sequence[str | None] | None = None) -> Groups:
        """Groups by their members, called by these names or (None) by what they are made of.

        Raises:
            UnitError: no group, an empty one, two of one name, or one that names an activation twice.
        """
        found = tuple(tuple(group) for group in members)
        for one in (one for group in found for one in group):
            require_member(one)
        given = labels or [None] * len(found)
        called = tuple(_called(group) if label is None else label for label, group in zip(given, found, strict=True))
        if not found:
            raise UnitError("There are no groups. Name at least one, e.g. [('a0.h0', 'a1.h0')].")
        for name, group in zip(called, found, strict=True):
            _require_group(name, group)
        if len(set(called)) < len(called):
            twice = sorted({name for name in called if called.count(name) > 1})
            raise UnitError(
                f"Groups have the same name: {', '.join(twice[:5])}. Name them: units={{'one': […], 'other': […]}}."
            )
        none = np.full(len(found), -1)
        first = np.array([min(one.layer for one in group) for group in found], dtype=np.int64)
        return cls("groups", first, none, none, found, called)

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> Groups:
        kept = np.arange(len(self))[chosen].tolist()
        columns = (self.layer[kept], self.index[kept], self.position[kept])
        # nothing is checked: a resample of the table names groups several times
        return Groups("groups", *columns, tuple(self.members[i] for i in kept), tuple(self.labels[i] for i in kept))

    @property
    def place(self) -> Place:
        """A group has no place of its own: its members have.

        Raises:
            UnitError: always.
        """
        raise UnitError("Groups of units are patched together, by vc.exact; take single units here.")

    @property
    def places(self) -> list[Place]:
        """All places that members are at."""
        return list(dict.fromkeys(one.place for group in self.members for one in group))

    @property
    def joint(self) -> bool:
        """A row moves several parts."""
        return True

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """What every group is made of, whatever it is called and in whatever order."""
        return [tuple(sorted(group, key=repr)) for group in self.members]

    @property
    def names(self) -> list[str]:
        """The groups' names, in order."""
        return list(self.labels)

    @property
    def named(self) -> tuple[str, ...]:
        """The spans that members are at, or look at, each once."""
        return tuple(dict.fromkeys(name for group in self.members for one in group for name in one.named))

    def earliest(self, start: int, length: int, spans: Mapping[str, Range]) -> np.ndarray:
        """The first position that each group changes in prompts of that length with these spans, at least `start`."""
        first = [min(one.span(length, spans)[0] for one in group) for group in self.members]
        return np.maximum(np.array(first), start)

    def within(self, start: int, length: int, where: Mapping[str, Range]) -> tuple[np.ndarray, np.ndarray]:
        """Of every group, in prompts of that length: whether it has all its positions, and one at or behind `start`.

        `where`: (first, end) of the spans that the prompts have.
        """
        spans = [[one.span(length, where) for one in group] for group in self.members]
        exists = [all(first >= 0 for first, _ in group) for group in spans]
        reaches = [any(last >= start for _, last in group) for group in spans]
        return np.array(exists), np.array(reaches)

    def table(self) -> pd.DataFrame:
        """One row per group: name, first layer, how many units, and which (of many some; `members` has all)."""
        import pandas as pd

        made = [" ".join(_some([one.name for one in group])) for group in self.members]
        sizes = [len(group) for group in self.members]
        return pd.DataFrame({"name": self.names, "layer": self.layer, "units": sizes, "members": made})

    def digest(self) -> str:
        """A hash of the table, for files that must belong together."""
        content = json.dumps([[one.to_dict() for one in group] for group in self.members])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_list(self) -> list[dict[str, Any]]:
        """Names and members, for a file's header."""
        pairs = zip(self.names, self.members, strict=True)
        return [{"name": name, "members": [one.to_dict() for one in group]} for name, group in pairs]

    def singles(self) -> Groups:
        """Every member as a group of its own, each once: what the sum of singles is made of."""
        return Groups.of([[one] for one in dict.fromkeys(one for group in self.members for one in group)])


def _called(group: Sequence[Member]) -> str:
    """What a group is called that was given no name: all it is made of, or the first and the last of many.

    Where its last member alone has positions it comes first, since at the end they would be read as those of all.
    """
    alone = len(group) > 1 and not group[-1].everywhere and all(one.everywhere for one in group[:-1])
    names = [one.name for one in ((group[-1], *group[:-1]) if alone else group)]
    return "+".join(names) if len(names) <= _SHOWN else f"{names[0]}+…+{names[-1]} ({len(names)} units)"


def _some(names: list[str]) -> list[str]:
    return names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "…", names[-1]]


def _require_group(name: str, group: Sequence[Member]) -> None:
    if not group:
        raise UnitError(f"The group {name!r} is empty. Name at least one unit in it.")
    for one, other in _overlaps(group):
        what = f"{one.name} twice" if one.name == other.name else f"{one.name} and {other.name}, which overlap"
        raise UnitError(f"The group {name!r} holds {what}. Name every activation once.")


def _overlaps(group: Sequence[Member]) -> Iterator[tuple[Member, Member]]:
    """Pairs that set the same activation; of many units of one kind, all told apart by their index, none is compared.

    Units of different layers never do, nor do those of different places, but for experts and their neurons.
    """
    sites: dict[tuple[str, int], list[Member]] = {}
    for one in group:
        place = "experts" if one.place == "expert_neurons" else one.place
        sites.setdefault((place, one.layer), []).append(one)
    for own in sites.values():
        plain = len({one.kind for one in own}) == 1 and min(one.index for one in own) >= 0
        if not plain or len({one.index for one in own}) < len(own):
            yield from ((one, two) for one, two in combinations(own, 2) if one.overlaps(two))


def is_grouped(units: Any) -> bool:
    """Whether `units` asks for groups: a dict, a list with tuples in it, or names with "+" or a range of positions.

    >>> is_grouped([("a9.h6", "m3")]), is_grouped(["m3@5-8"]), is_grouped(["a9.h6", "m3"])
    (True, True, False)
    """
    if isinstance(units, Mapping):
        return True
    names = [units] if isinstance(units, str) else units
    if isinstance(units, Units) or not (isinstance(units, str) or is_list(units)):
        return False
    return any(is_list(one) or (isinstance(one, str) and _reads_grouped(one)) for one in names)


def _reads_grouped(name: str) -> bool:
    where, comma, keys = name.partition("@")[2].partition(",")
    ranged = where != END and any(read_range(part) is not None and not part.isdigit() for part in (where, keys))
    at_span = comma and any(re.fullmatch(NAME, part) for part in (where, keys))
    return "->" not in name and (is_window(name) or "+" in name or ranged or bool(at_span) or where.startswith("-"))


def pieces(entry: Any, what: str) -> list[Piece]:
    """Name, positions (or span) and keys of every member that an entry of `units` names."""
    texts = [entry] if isinstance(entry, str) else list(entry) if is_list(entry) else None
    if texts is None or not all(isinstance(one, str) for one in texts):
        raise UnitError(f"{what}: a group is a name or a tuple of names, but this is {shown(entry)}.")
    said = [part for text in texts for part in _spread([_span(name) for name in text.split("+")])]
    found = [(name, queries, keys) for window, queries, keys in said for name in _layers(window, what)]
    for name, first, last in ((name, *span) for name, *spans in found for span in spans if isinstance(span, tuple)):
        if not is_range((first, last)):
            raise UnitError(
                f"{what}: positions {first}-{last} of {name} are no range: both count from the start, or both from the "
                "end (-3--1), and the smaller comes first."
            )
    return found


def is_window(entry: Any) -> bool:
    """Whether an entry of `units` is a window of layers alone, which then is its name.

    >>> is_window("m3-7@subject"), is_window("m3+m4")
    (True, False)
    """
    return isinstance(entry, str) and "+" not in entry and _WINDOW.fullmatch(entry.partition("@")[0]) is not None


def window(stem: str) -> list[str]:
    """The names of a window of layers; a name that is none, or of an empty one, alone.

    >>> window("m3-4"), window("m3")
    (['m3', 'm4'], ['m3'])
    """
    found = _WINDOW.fullmatch(stem)
    return _layers(stem, stem) if found is not None and int(found[2]) < int(found[3]) else [stem]


def _layers(stem: str, what: str) -> list[str]:
    """The names of a window of layers; a name that is none, alone."""
    if (window := _WINDOW.fullmatch(stem)) is None:
        return [stem]
    first, last = int(window[2]), int(window[3])
    if first >= last:
        raise UnitError(f"{what}: layers {first}-{last} of {stem} are no window: the smaller comes first.")
    return [f"{window[1]}{layer}{window[4]}" for layer in range(first, last + 1)]


def _span(name: str) -> Piece:
    name = name.strip()
    stem, _, where = name.partition("@")
    at, comma, looked_at = where.partition(",")
    queries, keys = _where(at), _where(looked_at)
    if queries is None or (comma and keys is None):
        return name, None, None  # at all positions, or no unit is called so
    return stem, queries, keys


def _where(text: str) -> Range | str | None:
    """A range of positions, or the name of a span; None for other text."""
    return read_range(text) or (text if re.fullmatch(NAME, text) else None)


def _spread(found: list[Piece]) -> list[Piece]:
    """The last name's positions, or its span, for all, where no other name has any."""
    *others, last = found
    alone = last[1] is not None and all(queries is None for _, queries, _ in others)
    return [(name, *last[1:]) for name, *_ in found] if alone else found
