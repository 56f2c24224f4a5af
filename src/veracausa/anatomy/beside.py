"""Two MLPs of a block that read the same and whose outputs add up: experts, and one that every token goes through.

Together they are the block's MLP. No module gives their sum, so while a model is borrowed hooks let the second give it:

    first(x) → 0,   second(x) → first(x) + second(x),   where x is what the first is given

The block adds both, so its stream stays what it is; whoever changes the input of the first or the output of the second
changes that of both together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Unflattened(nn.Module):
    """An MLP that gives rows and positions as one dimension, with both. It is no module of the model."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Any:
        """The MLP's output, in the shape of its input."""
        return _shaped(self.mlp(x), x)


class TwoMLPs(nn.Module):
    """Both MLPs of a block, the one that runs first in front. It is no module of the model."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        output: Tensor = self.first(x) + self.second(x)
        return output


@dataclass(frozen=True)
class Beside:
    """Experts beside an MLP with norms of their own, as paths from the block on (Gemma 4).

    With x the stream behind the attention and `mlp_norm` the norm that the MLP reads behind,

        MLP(x) = behind_mlp(mlp(mlp_norm(x))) + behind(experts(before(x), router(x)))

    `behind` runs last; a post-norm of the sum may follow.
    """

    router: str
    before: str
    experts: str
    behind: str
    behind_mlp: str


class NormedMLPs(nn.Module):
    """An MLP and the experts `Beside` it. It is no module of the model.

    It is called behind the block's norm, and reads the stream off what that norm was given last.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, mlp: nn.Module, names: Beside) -> None:
        super().__init__()
        self.norm, self.mlp = norm, mlp
        self.router, self.before, self.experts, self.behind, self.behind_mlp = (
            block.get_submodule(name)
            for name in (names.router, names.before, names.experts, names.behind, names.behind_mlp)
        )
        self.stream: list[Tensor] = []  # let go of behind the experts: a recorded run's would keep its whole graph

    def forward(self, normed: Tensor) -> Tensor:
        """The sum of both, in front of a post-norm."""
        stream = self.stream.pop()
        dense = self.behind_mlp(self.mlp(normed))
        tokens = stream.reshape(-1, stream.shape[-1])
        _, weights, choice = self.router(tokens)
        routed = self.experts(self.before(tokens), choice, weights)
        output: Tensor = dense + self.behind(routed.reshape(stream.shape))
        return output

    def reading(self, seen: Callable[[Tensor], Tensor]) -> list[Any]:
        """Hooks by which router and experts read `seen(stream)`, asked once a run, in the place of the stream."""
        given: list[Tensor] = []

        def first(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            given[:] = [seen(args[0])]
            return (given[0], *args[1:])

        return [
            self.router.register_forward_pre_hook(first),
            self.before.register_forward_pre_hook(lambda *_: (given.pop(),)),
        ]


def joining(mlps: Iterable[nn.Module]) -> list[Any]:
    """Hooks that let the second of two MLPs, or the norm behind it, give the sum of both; see `Unflattened`, too."""
    found: list[Any] = []
    for both in mlps:
        if isinstance(both, TwoMLPs):
            found += _joined(both.first, both.second, same=True)
        if isinstance(both, Unflattened):
            found.append(both.mlp.register_forward_hook(lambda _, args, output: _shaped(output, args[0])))
        if isinstance(both, NormedMLPs):
            found += [*_remembering(both), *_joined(both.behind_mlp, both.behind, same=False)]
    return found


def _shaped(output: Any, x: Tensor) -> Any:
    """What an MLP gives, its first part in the shape of its input."""
    return (output[0].view_as(x), *output[1:]) if isinstance(output, tuple) else output.view_as(x)


def _remembering(both: NormedMLPs) -> list[Any]:
    """Hooks that hold the stream that the norm before the MLP is given until the MLP has run."""
    return [
        both.norm.register_forward_pre_hook(lambda _, args: both.stream.__setitem__(slice(None), [args[0]])),
        both.behind.register_forward_hook(lambda *_: both.stream.clear()),
    ]


def _joined(first: nn.Module, second: nn.Module, same: bool) -> list[Any]:
    """`same`: both are given the same."""
    given: list[Tensor] = []
    found: list[Tensor] = []

    def keep(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given[:], found[:] = [args[0]] if same else [], [output]
        return torch.zeros_like(output)

    def give(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given.pop(),) if given else args

    def add(_: Any, __: Any, output: Tensor) -> Tensor:
        return found.pop() + output if found else output

    return [
        first.register_forward_hook(keep),
        second.register_forward_pre_hook(give),
        second.register_forward_hook(add),
    ]
