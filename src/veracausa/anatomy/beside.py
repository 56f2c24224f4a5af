"""Two MLPs of a block that read the same and whose outputs add up: experts, and one that every token goes through.

Together they are the block's MLP. No module gives their sum, so while a model is borrowed hooks let the second give it:

    first(x) → 0,   second(x) → first(x) + second(x),   where x is what the first is given

The block adds both, so its stream stays what it is; whoever changes the input of the first or the output of the second
changes that of both together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from veracausa.anatomy.block import Block


class TwoMLPs(nn.Module):
    """Both MLPs of a block, the one that runs first in front. It is no module of the model."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        output: Tensor = self.first(x) + self.second(x)
        return output


def joining(blocks: Iterable[Block]) -> list[Any]:
    """Hooks that let the second MLP of every such block give the sum of both."""
    return [handle for block in blocks if isinstance(block.mlp, TwoMLPs) for handle in _joined(block.mlp)]


def _joined(both: TwoMLPs) -> list[Any]:
    given: list[Tensor] = []
    found: list[Tensor] = []

    def keep(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given[:], found[:] = [args[0]], [output]
        return torch.zeros_like(output)

    def give(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given.pop(),) if given else args

    def add(_: Any, __: Any, output: Tensor) -> Tensor:
        return found.pop() + output if found else output

    return [
        both.first.register_forward_hook(keep),
        both.second.register_forward_pre_hook(give),
        both.second.register_forward_hook(add),
    ]
