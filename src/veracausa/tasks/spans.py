"""Spans: names for what stands somewhere in both prompts of a pair, such as a subject.

A span is a run of tokens, from the first one to before `end`, in the clean and in the corrupted prompt. Pairs of a task
may have it at other places, and some may lack it. "end" is the last position of every prompt, and needs no span.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from veracausa.arguments import is_list, kind_and_value, shown
from veracausa.errors import PromptError, TaskError

#: What a span may be called: a letter, then letters, digits, underscores and hyphens.
NAME = r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
#: The last position of every prompt, by its name.
END = "end"
#: Names that mean something else behind an "@".
_TAKEN = {
    END: "the last position of every prompt, which has that name already",
    "positions": "every single position, in 'heads@positions'",
    "spans": "all named spans, in 'heads@spans'",
}
#: (first token, end), the end not included.
Range = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Where something stands in both prompts of a pair: (first token, end), counted from 0, the end not included.

    >>> Span((3, 5), (3, 5)).moved
    False
    """

    clean: Range
    corrupted: Range

    @property
    def moved(self) -> bool:
        """Whether it stands at other positions in the corrupted prompt than in the clean one."""
        return self.clean != self.corrupted

    @property
    def alike(self) -> bool:
        """Whether it is as many tokens in both prompts, so that they correspond one by one."""
        return self.clean[1] - self.clean[0] == self.corrupted[1] - self.corrupted[0]

    def of(self, clean: bool) -> Range:
        """Its range in the clean prompt, or in the corrupted one."""
        return self.clean if clean else self.corrupted


def require_name(name: Any, where: str) -> str:
    """A span's name; TaskError for one that no unit could be named by."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise TaskError(
            f"{where}: {shown(name)} is no name for a span; a name is a letter (a to z), then letters, digits, "
            "'_' and '-': 'subject', 'S2'"
        )
    if name in _TAKEN:
        raise TaskError(f"{where}: a span cannot be called {name!r}: that is {_TAKEN[name]}")
    return name


def spans_of(values: Any, where: str) -> dict[str, Span]:
    """The spans of one pair, of whatever form they are given in; TaskError for something else.

    A range (first, end), or range(first, end), holds for both prompts; two of them for the clean and the corrupted one.

    >>> spans_of({"subject": (3, 5), "verb": [(6, 7), (7, 8)]}, "pair 0")["verb"]
    Span(clean=(6, 7), corrupted=(7, 8))
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise TaskError(f"{where}: spans are name → range of tokens, but this is {kind_and_value(values)}")
    found = {}
    for name, value in values.items():
        require_name(name, where)
        found[name] = value if isinstance(value, Span) else _span(value, f"{where}: the span {name!r}")
    return found


def _span(value: Any, what: str) -> Span:
    both = [value, value] if (one := _range(value)) else list(value) if is_list(value) else []
    clean, corrupted = (_range(each) for each in both) if len(both) == 2 else (None, None)
    if one is None and (clean is None or corrupted is None):
        raise TaskError(
            f"{what} is a range of tokens (first, end) for both prompts, or two of them, but this is "
            f"{kind_and_value(value)}; words are looked for by vc.task(lm, …, spans={{…}})"
        )
    return Span(clean or (0, 0), corrupted or (0, 0))


def _range(value: Any) -> Range | None:
    """Two whole numbers, or None."""
    if isinstance(value, range):
        return (value.start, value.stop) if value.step == 1 else None
    if not is_list(value) or len(ends := list(value)) != 2:
        return None
    if any(isinstance(one, bool) or not hasattr(one, "__index__") for one in ends):
        return None
    return int(ends[0]), int(ends[1])


def require_spans(spans: Mapping[str, Span], lengths: tuple[int, int], where: str) -> None:
    """PromptError for an empty span, one beyond its prompt, and two that share a token.

    `lengths`: tokens of the clean and of the corrupted prompt. Spans may come in another order in each.
    """
    for name, span in spans.items():
        for prompt, length in zip(("clean", "corrupted"), lengths, strict=True):
            first, end = span.of(prompt == "clean")
            if first >= end:
                raise PromptError(
                    f"{where}: the span {name!r} is empty in the {prompt} prompt ({first} to before {end}); leave it "
                    "out of this pair"
                )
            if not 0 <= first < end <= length:
                raise PromptError(
                    f"{where}: the span {name!r} is tokens {first} to {end - 1} of the {prompt} prompt, which has "
                    f"{length}, counted from 0"
                )
    for one, other in combinations(spans, 2):
        for prompt in ("clean", "corrupted"):
            a, b = spans[one].of(prompt == "clean"), spans[other].of(prompt == "clean")
            if a[0] < b[1] and b[0] < a[1]:
                raise PromptError(
                    f"{where}: the spans {one!r} and {other!r} overlap in the {prompt} prompt (tokens {a[0]} to "
                    f"{a[1] - 1} and {b[0]} to {b[1] - 1}); a token belongs to one span. Make two tasks, or name "
                    "positions."
                )


def plain(spans: Mapping[str, Span]) -> dict[str, list[Range]]:
    """The spans of a pair as a file holds them."""
    return {name: [span.clean, span.corrupted] for name, span in spans.items()}


def names_of(spans: Iterable[Mapping[str, Span]]) -> tuple[str, ...]:
    """The names of all pairs' spans, in the order in which they first come."""
    return tuple(dict.fromkeys(name for each in spans for name in each))
