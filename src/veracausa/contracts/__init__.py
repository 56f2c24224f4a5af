"""Contracts: what must hold of every model that numbers are given for; `lm.check()` tests them."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.contracts.checks import check as check
    from veracausa.model import Check as Check

#: Public name → where it lives.
_HOMES = {
    "Check": "veracausa.model",
    "check": "veracausa.contracts.checks",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)
