"""Members of groups: one unit with its positions, or the span that it is at; of a pattern also with keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from veracausa.errors import UnitError
from veracausa.units.kinds import KINDS, Kind, inside_of
from veracausa.units.spans import Range, is_range, meet, shown_range, within

if TYPE_CHECKING:
    from veracausa.engine.patches import Place


@dataclass(frozen=True)
class Member:
    """One unit of a group, at positions `first` … `last`; below 0 they count from each prompt's end. None: all.

    `keys`: of a pattern, the first and the last key whose cells are meant, counted in the same way. None: whole rows.
    `at`, `keys_at`: the name of a span, in the place of positions, and of keys.
    """

    kind: Kind
    layer: int
    index: int
    first: int | None = None
    last: int | None = None
    keys: Range | None = None
    at: str | None = None
    keys_at: str | None = None

    @property
    def place(self) -> Place:
        """Where in a block its activation is."""
        return cast("Place", KINDS[self.kind].place)

    @property
    def name(self) -> str:
        """Its name with its positions and its keys."""
        stem = KINDS[self.kind].called(self.layer, self.index)
        if self.everywhere:
            return stem
        queries = self.at or shown_range((self.first or 0, self.last or 0))
        keys = self.keys_at or (self.keys and shown_range(self.keys))
        return f"{stem}@{queries},{keys}" if keys else f"{stem}@{queries}"

    @property
    def everywhere(self) -> bool:
        """Whether it is at all positions."""
        return self.first is None and self.at is None

    @property
    def celled(self) -> bool:
        """Whether it is cells of a pattern, not whole rows."""
        return self.keys is not None or self.keys_at is not None

    @property
    def named(self) -> list[str]:
        """The spans that it is at, or looks at."""
        return [name for name in (self.at, self.keys_at) if name is not None]

    def span(self, length: int, spans: Mapping[str, Range]) -> tuple[int, int]:
        """First and last position in a prompt of that length; the first is below 0 where the prompt has no such.

        `spans`: (first, end) of those that the prompt has. A prompt that lacks a key has no such cell either.
        """
        first, last = 0, length - 1
        if self.at is not None:
            first, last = _named(self.at, spans)
        elif self.first is not None and self.last is not None:
            first, last = within((self.first, self.last), length)
        return (first, last) if self.looked_at(length, spans).start >= 0 else (-1, last)

    def looked_at(self, length: int, spans: Mapping[str, Range]) -> slice:
        """The keys in a prompt of that length; the first is below 0 where the prompt has no such."""
        first, last = 0, length - 1
        if self.keys_at is not None:
            first, last = _named(self.keys_at, spans)
        elif self.keys is not None:
            first, last = within(self.keys, length)
        return slice(first, last + 1)

    @property
    def hidden(self) -> bool:
        """Whether all its keys come after its queries, whatever a prompt's length."""
        if self.keys is None or self.last is None:
            return False
        return (self.keys[0] < 0) == (self.last < 0) and self.keys[0] > self.last

    def to_dict(self) -> dict[str, Any]:
        """What a file says of it: keys, and spans, only where it has some."""
        return {name: value for name, value in asdict(self).items() if name not in ("keys", "at", "keys_at") or value}

    def shares_activation(self, other: Member) -> bool:
        """Whether both set the same activation, where their positions are the same."""
        same = (self.place, self.layer) == (other.place, other.layer)
        if {self.kind, other.kind} == {"experts", "expert_neurons"} and self.layer == other.layer:
            return self._expert == other._expert
        if self.kind != other.kind and min(self.index, other.index) >= 0:
            return same  # a mixer's head and a channel, which may be one of its own
        return same and (self.index < 0 or other.index < 0 or self.index == other.index)

    @property
    def _expert(self) -> int:
        """The expert that it is, or is in."""
        return int(inside_of(self.index)[0]) if KINDS[self.kind].inside else self.index

    def overlaps(self, other: Member) -> bool:
        """Whether both set the same activation somewhere, in prompts of some length; at spans, wherever these are."""
        queries = ((self.first, self.last), self.at, (other.first, other.last), other.at)
        keys = (self.keys, self.keys_at, other.keys, other.keys_at)
        return self.shares_activation(other) and _overlap(*queries) and _overlap(*keys)

    def meets(self, other: Member, length: int, spans: Mapping[str, Range]) -> bool:
        """Whether their positions and keys meet in a prompt of that length with these spans."""
        (first, last), (start, end) = (one.span(length, spans) for one in (self, other))
        keys, others = (one.looked_at(length, spans) for one in (self, other))
        if min(first, start) < 0:
            return False
        return first <= end and start <= last and keys.start < others.stop and others.start < keys.stop


def _named(name: str, spans: Mapping[str, Range]) -> Range:
    """First and last position of a span; the first is below 0 where there is none."""
    first, end = spans.get(name, (-1, 0))
    return first, end - 1


def _overlap(one: Any, at: str | None, other: Any, there: str | None) -> bool:
    """Whether two ranges (None: all), or the spans in their places, meet wherever the spans are."""
    everywhere = [span in (None, (None, None)) and name is None for span, name in ((one, at), (other, there))]
    if any(everywhere):
        return True
    return at == there if at is not None or there is not None else meet(one, other)


def require_member(one: Member) -> None:
    """Raise UnitError unless positions and keys of a member say something together."""
    ends = (one.first, one.last)
    if one.kind not in KINDS or (None in ends) != (ends == (None, None)) or (one.first or 0) > (one.last or 0):
        raise UnitError(f"{one} is no unit at positions that follow each other.")
    if (one.at is not None and one.first is not None) or (one.keys_at is not None and one.keys is not None):
        raise UnitError(f"{one} is at a span and at positions; it is at one of them.")
    if not one.celled:
        return
    if one.everywhere:
        raise UnitError(f"{one} has keys, but not the queries that look at them.")
    if one.kind != "patterns":
        raise UnitError(
            f"{one.name!r} names a key, which only cells of patterns have: a9.h6<pattern>@12,5. Give every unit of the "
            "group its own positions."
        )
    if one.keys is not None and not is_range(one.keys):
        raise UnitError(f"{one.name!r} names no keys that follow each other.")
