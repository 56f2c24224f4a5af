"""Receipts: an estimate checked against exact effects of a sample."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.receipts.receipts import Ceiling as Ceiling
    from veracausa.receipts.stages import Stage as Stage
    from veracausa.receipts.stages import Until as Until

#: Public name → where it lives.
_HOMES = {
    "Ceiling": "veracausa.receipts.receipts",
    "Stage": "veracausa.receipts.stages",
    "Until": "veracausa.receipts.stages",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)
