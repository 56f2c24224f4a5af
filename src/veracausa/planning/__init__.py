"""What a call will cost, before it is made: token-layers, passes, seconds at this machine's speed, memory."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.planning.price import Price as Price

#: Public name → where it lives.
_HOMES = {
    "Price": "veracausa.planning.price",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)
