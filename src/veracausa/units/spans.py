"""Ranges of positions as names say them: "7", "5-8", "-3--1", "end"; below 0 they count from each prompt's end."""

from __future__ import annotations

import re

#: First and last position of a range.
Range = tuple[int, int]

_SPAN = re.compile(r"(-?[0-9]{1,9})-(-?[0-9]{1,9})")
_POINT = re.compile(r"-?[0-9]{1,9}")
_END = "end"


def read_range(text: str) -> Range | None:
    """First and last of a range; None for other text.

    >>> read_range("5-8"), read_range("end"), read_range("-3--1")
    ((5, 8), (-1, -1), (-3, -1))
    """
    text = "-1" if text == _END else text
    if match := _SPAN.fullmatch(text):
        return int(match[1]), int(match[2])
    return (int(text), int(text)) if _POINT.fullmatch(text) else None


def shown_range(span: Range) -> str:
    """A range as `read_range` reads it.

    >>> shown_range((5, 8)), shown_range((-1, -1))
    ('5-8', '-1')
    """
    first, last = span
    return str(first) if first == last else f"{first}-{last}"


def is_range(span: Range) -> bool:
    """Whether both ends count from the same side, the smaller first."""
    return (span[0] < 0) == (span[1] < 0) and span[0] <= span[1]


def within(span: Range, length: int) -> Range:
    """A range counted from the start of a prompt; its first is below 0 where the prompt has no such."""
    first, last = (at + length if at < 0 else at for at in span)
    return (first, last) if last < length else (-1, last)


def meet(one: Range, other: Range) -> bool:
    """Whether two ranges share a position in prompts of some length, as one from the start and one from the end do."""
    return (one[0] < 0) != (other[0] < 0) or not (one[1] < other[0] or other[1] < one[0])
