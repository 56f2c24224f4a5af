"""What differs in how two scores were made: read from their headers, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from veracausa.engine.identity import difference
from veracausa.scores.headers import estimand
from veracausa.scores.scores import Scores

#: Settings that other rows say, or that say nothing of their own.
_SAID = frozenset({"direction", "ablation", "baseline", "unit", "per_example", "constants", "seed"})
#: How far means of two gaps may lie apart, as a share, and count as the same: rounding in half precision.
_SAME = 1e-3


def mismatches(one: Scores, other: Scores) -> list[tuple[str, str, str]]:
    """(what, in the first, in the second) of all that differs, what matters most first; [] where nothing does.

    >>> mismatches(vc.exact(lm, task), vc.attribute(lm, task, method="atp"))
    [('Method', 'exact', 'atp'), …]
    """
    rows: list[tuple[str, str, str]] = [(what, told(one), told(other)) for what, told in _HEADER]
    rows[2:2] = _identities(one, other)
    rows += [(what.capitalize(), mine, theirs) for what, (mine, theirs) in _estimands(one, other)]
    rows += [(f"Setting {name}", _plain(mine), _plain(theirs)) for name, (mine, theirs) in _settings(one, other)]
    return [*(row for row in rows if row[1] != row[2]), *_gaps(one, other)]


def _identities(one: Scores, other: Scores) -> list[tuple[str, str, str]]:
    """In what the models themselves differ, whatever they are called."""
    parts = difference(one.model["identity"], other.model["identity"])
    return [(f"The model’s {parts}", one.model["identity"], other.model["identity"])] if parts else []


def _gaps(one: Scores, other: Scores) -> list[tuple[str, str, str]]:
    """Mean gaps that differ: shares of them have other units behind them."""
    first, second = (float(scores.gap.double().mean()) for scores in (one, other))
    if not np.isfinite([first, second]).all() or abs(first - second) <= _SAME * max(abs(first), abs(second)):
        return []
    return [("Mean gap", f"{first:+.3f}", f"{second:+.3f}")]


def _estimands(one: Scores, other: Scores) -> list[tuple[str, tuple[str, str]]]:
    first, second = estimand(one), estimand(other)
    told = {what: (first.get(what, "none"), second.get(what, "none")) for what in first | second}
    return [(what, both) for what, both in told.items() if what not in ("tasks", "directions")]


def _settings(one: Scores, other: Scores) -> list[tuple[str, tuple[Any, Any]]]:
    names = [name for name in one.settings | other.settings if name not in _SAID and not name.endswith("_digest")]
    if {one.method, other.method} == {"exact"} or one.method != other.method:
        names = [name for name in names if name in one.settings and name in other.settings]
    return [(name, (one.settings.get(name), other.settings.get(name))) for name in names]


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _prompts(scores: Scores) -> str:
    """The task in words, with the beginning of its hash: descriptions of two may be alike."""
    return f"{scores.task['description'].rstrip('.')} ({scores.task['digest'][:8]})"


_HEADER: tuple[tuple[str, Callable[[Scores], str]], ...] = (
    ("Model", lambda scores: scores.model["source"]),
    ("Precision", lambda scores: str(scores.model.get("dtype", "not said"))),
    ("Pairs", _prompts),
    ("Metric", lambda scores: str(scores.task["metric"])),
    ("Number of pairs", lambda scores: str(scores.n)),
    ("Method", lambda scores: scores.method),
    ("Direction", lambda scores: scores.direction),
    ("Signs", lambda scores: "signed" if scores.signed else "magnitudes only"),
    ("Values", lambda scores: scores.unit),
)
