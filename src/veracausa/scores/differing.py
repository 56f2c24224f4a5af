"""The difference of two scores: effects on M₁ − M₂, such as of one continuation rather than another.

An effect is a difference of the metric between two runs, so that of a difference of metrics is the difference of the
effects, pair by pair: exactly for effects, and for estimates whose path is the same whatever the metric.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from veracausa.engine.identity import difference as other_model
from veracausa.errors import MethodError
from veracausa.scores.headers import replacement_of
from veracausa.scores.scores import NOT_VERIFIED, Scores

#: Paths that depend on what the model says, and so on the metric or on where it is read.
_OWN_PATH = ("geodesic", "gradpath", "gradpath-complete")


def difference(one: Scores, other: Scores) -> Scores:
    """Effects on M of `one` minus M of `other`: of the same units and pairs, by the same method, under two metrics.

    For two continuations: a task for each, of the same prompts, correct=" New York" and correct=" Los Angeles", with
    metric="logprob"; the difference is about log p(y₁ | x) − log p(y₂ | x).

    Returns:
        `Scores` [pairs, units] in units of the metrics, with the sign of both; its cost is what both took.

    Raises:
        MethodError: other units, pairs, models, methods, directions or replacements; magnitudes, which have no
            difference; estimates along a path that the metric bends.

    >>> vc.scores.difference(vc.exact(lm, first), vc.exact(lm, second)).top(5)
    """
    _require_alike(one, other)
    digest = hashlib.sha256(f"{one.task['digest']} minus {other.task['digest']}".encode()).hexdigest()
    named = {key: f"{one.task[key]} − {other.task[key]}" for key in ("name", "metric")}
    told = {"description": f"{one.task['description']} minus {other.task['description']}", "digest": digest}
    verified = one.verified if one.verified == other.verified else NOT_VERIFIED
    return replace(
        one,
        values=one.values - other.values,
        clean=one.clean - other.clean,
        corrupted=one.corrupted - other.corrupted,
        task={**one.task, **named, **told},
        cost=one.cost + other.cost,
        completeness=None,
        draw_stderr=None,
        verified=verified,
        notes=(*dict.fromkeys((*one.notes, *other.notes)), "the difference of two effects, each of a run of its own"),
    )


def _require_alike(one: Scores, other: Scores) -> None:
    """MethodError unless both differ in nothing but the metric."""
    for what, mine, theirs in _compared(one, other):
        if mine != theirs:
            raise MethodError(
                f"The scores have different {what} ({mine} and {theirs}), so their difference means nothing. Compute "
                "both of the same pairs and units, in the same way."
            )
    if (part := other_model(one.model["identity"], other.model["identity"])) is not None and part:
        raise MethodError(f"The scores have different models (other {part}), so their difference is about nothing.")
    if not one.signed:
        raise MethodError(f"Scores of {one.method} are magnitudes, which have no difference.")
    if (path := one.settings.get("path")) in _OWN_PATH:
        raise MethodError(
            f"The path {path!r} is another for another metric, so the difference of its scores is no estimate of the "
            "difference. Use path='point', 'inputs', 'layer' or 'unit'."
        )
    if not np.array_equal(one.units.keys, other.units.keys):
        raise MethodError("The scores have different units, or the same in another order. Ask for the same units.")


def _compared(one: Scores, other: Scores) -> list[tuple[str, Any, Any]]:
    return [
        ("kinds of units", one.units.kind, other.units.kind),
        ("numbers of pairs", one.n, other.n),
        ("methods", one.method, other.method),
        ("directions", one.direction, other.direction),
        ("replacements", replacement_of(one), replacement_of(other)),
        ("units of their values", one.unit, other.unit),
    ]
