"""A model of no known family: which of the anatomies that it may have its contracts hold with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veracausa.anatomy import proposals
from veracausa.contracts.checks import Check, check
from veracausa.errors import ArchitectureError
from veracausa.loading.load import bound

if TYPE_CHECKING:
    from veracausa.loading.resolve import Loaded


def proposed(loaded: Loaded) -> tuple[dict[str, Any], list[Check]]:
    """The anatomy with which most contracts hold, and their outcomes; none where the model cannot be bound at all.

    Raises:
        ArchitectureError: no anatomy can be proposed, or none fits; says why.

    >>> own, outcomes = proposed(resolve("./my-model"))
    """
    best: tuple[dict[str, Any], list[Check]] | None = None
    for own in proposals(loaded.hf):
        try:
            lm = bound(loaded, own)
        except ArchitectureError as error:
            why = error
            continue
        found = check(lm, strict=False)
        if best is None or _holding(found) > _holding(best[1]):
            best = own, found
        if _holding(found) == len(found):
            break
    if best is None:
        raise why
    return best


def _holding(outcomes: list[Check]) -> int:
    return sum(one.ok for one in outcomes)
