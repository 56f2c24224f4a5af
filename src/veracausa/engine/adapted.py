"""What LoRA adapters add to their maps' outputs, recorded: at what the maps B give, behind the scale.

A layer's contributions side by side are the site "adapters". A run that keeps its graph also has "adapted": zeros that
were added to them, whose gradient is that of the contributions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.adapters import Adapted, AdaptedMap, adapted_of
from veracausa.errors import ContractError

if TYPE_CHECKING:
    from veracausa.anatomy import Block


def keep_adapters(block: Block, stream: list[Tensor], sites: dict[str, list[Tensor]]) -> list[Any]:
    """Hooks that record a block's contributions; of a block that has none, nothing at every position.

    `stream`: what was recorded of the residual stream so far, that before this block last.
    """
    kept = _Kept(adapted_of(block), stream)
    behind = block.module.register_forward_hook(lambda *_: kept.give(sites))
    return [*(handle for one in enumerate(kept.found.maps) for handle in kept.watch(*one)), behind]


class _Kept:
    """The contributions of one block in one run, map by map, and the zeros that were added to them."""

    def __init__(self, found: Adapted, stream: list[Tensor]) -> None:
        self.found, self.stream = found, stream
        self.parts: dict[int, list[Tensor]] = {}
        self.zeros: list[Tensor] = []

    def watch(self, number: int, one: AdaptedMap) -> list[Any]:
        """Hooks on the maps B of one adapted map."""
        found = self.found

        def added(scale: float, first: bool) -> Callable[[Any, Any, Tensor], Tensor]:
            def kept(_: Any, __: Any, output: Tensor) -> Tensor:
                shape = self.stream[-1].shape[:2]
                if output.numel() != shape.numel() * one.width:
                    raise ContractError(
                        f"The adapter on {one.name} of block {found.layer} is not run once at every position, so what "
                        "it adds cannot be told and nothing is returned."
                    )
                self.parts.setdefault(number, []).append(scale * output.detach().reshape(*shape, one.width))
                if not (first and torch.is_grad_enabled()):
                    return output
                if not self.zeros:
                    self.zeros.append(output.new_zeros(*shape, found.width, requires_grad=True))
                return output + self.zeros[0][..., found.slices[number]].reshape(output.shape) / scale

            return kept

        return [part.register_forward_hook(added(s, not i)) for i, (part, s) in enumerate(one.adding)]

    def give(self, sites: dict[str, list[Tensor]]) -> None:
        """Write down what was kept, at the end of the block."""
        none = self.stream[-1].new_zeros(*self.stream[-1].shape[:2], 0)
        for number, one in enumerate(self.found.maps):
            if len(self.parts.get(number, ())) != len(one.adding):
                raise ContractError(
                    f"The adapter on {one.name} of block {self.found.layer} did not run once in this block, so what it "
                    "adds cannot be told and nothing is returned."
                )
        sums = [torch.stack(parts).sum(0) if len(parts) > 1 else parts[0] for _, parts in sorted(self.parts.items())]
        sites["adapters"].append(torch.cat(sums, -1) if sums else none)
        sites["adapted"].append(self.zeros[0] if self.zeros else none)
