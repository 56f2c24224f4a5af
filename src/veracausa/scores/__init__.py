"""Scores: numbers per unit and pair, their files, and how two sets of them agree; not how they came about."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.scores.agreement import Agreement as Agreement
    from veracausa.scores.comparison import Compared as Compared
    from veracausa.scores.comparison import Comparison as Comparison
    from veracausa.scores.completeness import Completeness as Completeness
    from veracausa.scores.differing import difference as difference
    from veracausa.scores.stable import Stability as Stability
    from veracausa.scores.top_units import stability as stability

#: Public name → where it lives.
_HOMES = {
    "Agreement": "veracausa.scores.agreement",
    "Compared": "veracausa.scores.comparison",
    "Comparison": "veracausa.scores.comparison",
    "Completeness": "veracausa.scores.completeness",
    "Stability": "veracausa.scores.stable",
    "difference": "veracausa.scores.differing",
    "stability": "veracausa.scores.top_units",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)
