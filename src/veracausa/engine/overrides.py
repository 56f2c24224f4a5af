"""Activations that running rows take in the place of their own: several parts of one row, in several blocks.

A row with one patch joins the stream behind it (`patches.join`). A row with several runs from the first on, and takes
the values of the others when it gets there, whatever the earlier ones have made of its own: as hooks on a whole run do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy import Block
from veracausa.engine.guard import changing, hooks
from veracausa.engine.tape import IN_ATTENTION

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Override:
    """What some rows take at a place of one layer.

    `rows`: which rows of the sweep. `taken`: where they take other values, part by part of the place (heads,
    neurons, or the whole). `values()`: these values, asked for when the sweep gets there. `added`: they are added to
    their own.
    """

    place: str
    rows: Int[Tensor, " rows"]
    taken: Bool[Tensor, "rows positions parts"]
    values: Callable[[], Float[Tensor, "rows positions site"]]
    added: bool = False

    def of(self, own: Float[Tensor, "all positions site"]) -> Tensor:
        """The activations of all rows, those of these rows replaced; `own` may hold the last positions only."""
        positions = own.shape[1]
        new = self.values()[:, -positions:].to(own.dtype)
        taken = self.taken[:, -positions:].repeat_interleave(own.shape[-1] // self.taken.shape[-1], -1)
        out = own.clone()
        here = own[self.rows]
        out[self.rows] = torch.where(taken, here + new if self.added else new, here)
        return out

    def of_heads(self, own: Float[Tensor, "all heads positions _"]) -> Tensor:
        """The same for queries, keys, values or patterns as the attention function has them."""
        flat = self.of(own.transpose(1, 2).flatten(2))
        return flat.unflatten(-1, (own.shape[1], own.shape[3])).transpose(1, 2)


@contextmanager
def overriding(block: Block, found: Sequence[Override]) -> Iterator[dict[str, Any]]:
    """A block whose rows take other values at these places; gives what its attention is called with beside."""

    def input_of(part: torch.nn.Module, one: Override) -> Any:
        return part.register_forward_pre_hook(lambda _, args: (one.of(args[0]), *args[1:]))

    handles: list[Any] = []
    inside = {one.place: one for one in found if one.place in IN_ATTENTION}
    for one in found:
        if one.place == "z":
            handles.append(input_of(block.attention_out, one))
        elif one.place == "neurons":
            handles.append(input_of(block.mlp_out, one))
        elif one.place == "mlp":
            handles.append(changing(block.mlp_end, one.of))

    def change(*parts: Tensor) -> tuple[Tensor, ...]:
        named = zip(IN_ATTENTION, parts, strict=True)
        return tuple(inside[site].of_heads(own) if site in inside else own for site, own in named)

    patterns = [one for one in found if one.place == "pattern"]
    with hooks(*handles):
        yield ({"change": change} if inside else {}) | ({"look": patterns[0].of_heads} if patterns else {})
