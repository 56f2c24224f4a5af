"""Which part of its site's change a unit makes: that of its own position, and of its own key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float


def own_part(
    delta: Float[Tensor, "rows positions *site"], units: Units, start: int, parts: int
) -> Float[Tensor, "rows positions *site"]:
    """Changes of one unit a row, zero but at that unit's own position; of a cell of a pattern but at its own key, too.

    `start`: the first position that rows hold. `parts`: how many heads the pattern of a cell is of.
    """
    if not units.positional:
        return delta
    row, own = torch.arange(len(units)), torch.as_tensor(units.position - start)
    one = torch.zeros_like(delta)
    if units.cells is None:
        one[row, own] = delta[row, own]
        return one
    key, head = torch.as_tensor(units.cells), torch.as_tensor(units.index)
    at = row, own, head, key
    one.unflatten(-1, (parts, -1))[at] = delta.unflatten(-1, (parts, -1))[at]
    return one
