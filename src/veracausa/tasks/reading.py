"""Where the metric of a task is read: a position, several, all of them, or a text's own tokens as its answers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from veracausa.arguments import is_list, shown
from veracausa.choices import Over
from veracausa.errors import TaskError
from veracausa.suggestions import did_you_mean
from veracausa.tasks.aligned import counterpart
from veracausa.tasks.checked_pairs import Ids
from veracausa.tasks.metrics import metric as metric_of
from veracausa.tasks.own_metrics import is_function
from veracausa.tasks.pairs import Encoded

#: A position of every prompt, one or several of each, or by a name of `NAMED` or of a span.
Read = int | str | Sequence[int | Sequence[int]]
#: Names for positions.
NAMED = {"all": "every position", "text": "every token of the clean prompt is the answer to what stands before it"}


def lacking(metric: str, read: Any, paired: bool) -> set[str]:
    """What of a pair need not be given.

    >>> lacking("entropy", -1, paired=False)
    {'corrupted', 'correct', 'incorrect'}
    """
    known = None if is_function(metric) else metric_of(metric)
    found = set() if known and known.needs_incorrect else {"incorrect"}
    if known is None or not known.answered or (isinstance(read, str) and read == "text"):
        found.add("correct")
    return found if paired else found | {"corrupted"}


def read_at(
    read: Any, over: Over | None, encoded: Sequence[Encoded], metric: str
) -> tuple[list[Encoded], dict[str, Any]]:
    """The pairs, and how their task is read: its `read`, `over` and `continued`, where these are not the usual ones.

    Raises:
        TaskError: no position or name of positions, another number of entries than pairs, or several ways at once.
    """
    how: dict[str, Any] = {} if over is None else {"over": over}
    usual = not is_list(read) and not isinstance(read, str) and _position(read) == -1
    if usual:
        return list(encoded), how
    if any(one.continued for one in encoded):
        raise TaskError(
            f"vc.task: read={shown(read)}, but an answer has several tokens, which are read where they are predicted. "
            "Leave read= out, or give answers of one token."
        )
    if isinstance(read, str) and read == "text":
        places = tuple(tuple(range(len(one.clean) - 1)) for one in encoded)
        return _text(encoded, metric), how | {"read": places} | _forced(metric)
    return list(encoded), how | {"read": _positions(read, encoded)}


def _text(encoded: Sequence[Encoded], metric: str) -> list[Encoded]:
    """Pairs whose answers are the clean prompt's own tokens, from the second on."""
    for one in encoded:
        if one.pair.correct:
            raise TaskError('vc.task: read="text" takes the prompts\' own tokens as answers; leave correct= out.')
        if len(one.clean) < 2:
            raise TaskError(f'vc.task: read="text" needs two tokens at least, but {shown(one.texts[0])} is one.')
    if not _forced(metric):
        return list(encoded)
    if metric != "logprob":
        raise TaskError(f'vc.task: read="text" is read by metric="logprob" (minus the mean loss), not by {metric!r}.')
    return [replace(one, correct=one.clean[1:]) for one in encoded]


def _forced(metric: str) -> dict[str, Any]:
    """Of a text only those metrics take its tokens that read answers."""
    return {} if is_function(metric) or not metric_of(metric).answered else {"continued": True}


def _positions(read: Any, encoded: Sequence[Encoded]) -> Ids:
    """The positions of each pair."""
    if isinstance(read, str) and read == "all":
        return tuple(tuple(range(len(one.clean))) for one in encoded)
    if isinstance(read, str):
        return _spans(read, encoded)
    entries = list(read) if is_list(read) else [read] * len(encoded)
    if len(entries) != len(encoded):
        raise TaskError(
            f"vc.task: read= has {len(entries)} entries, but there are {len(encoded)} prompts; give one position for "
            "all, or one entry a prompt: a position, or a list of them."
        )
    return tuple(tuple(_position(at) for at in entry) if is_list(entry) else (_position(entry),) for entry in entries)


def _spans(name: str, encoded: Sequence[Encoded]) -> Ids:
    """The positions of a span, which every pair must have at one place in both prompts.

    Where these have different lengths it must be equally long in both.
    """
    known = dict.fromkeys(span for one in encoded for span in one.spans)
    if name not in known:
        names = [*NAMED, *known]
        raise TaskError(
            f"vc.task: read={shown(name)} is no position: give whole numbers, or {' or '.join(map(repr, names))}."
            f"{did_you_mean(name, names)}"
        )
    for number, one in enumerate(encoded):
        if wrong := _not_read(name, one):
            raise TaskError(
                f"vc.task: read={shown(name)}, but in pair {number} that span {wrong}, so M would be read at two "
                "places. Leave such pairs out, or give the positions."
            )
    return tuple(tuple(range(*one.spans[name].clean)) for one in encoded)


def _not_read(name: str, one: Encoded) -> str:
    """Why a pair cannot be read at a span; nothing where it can."""
    if (span := one.spans.get(name)) is None:
        return "is not there"
    if len(one.clean) == len(one.corrupted):
        return "stands elsewhere in the corrupted prompt" if span.moved else ""
    there = [counterpart(at, one.clean, one.corrupted, one.spans) for at in range(*span.clean)]
    return "" if there == [*range(*span.corrupted)] else "is not equally long in both prompts"


def _position(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TaskError(f"vc.task: read= holds {shown(value)}, which is no position: give whole numbers.") from None
