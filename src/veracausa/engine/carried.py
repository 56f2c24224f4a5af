"""What a mixer carries from one position on to the next: the state of its scan, and the taps of its convolution.

Both live inside functions of the models' own code, where there is no module to hook, and neither is needed as a tensor.
A mixer that reads another run's stream up to position p, and its own from there on, carries that run's state and taps
away from p. A convolution is told from the scan behind it by what it gives:

    state@p   the mixer reads the other stream up to p; behind p its convolution gives what it gives in its own run
    taps@p    the mixer reads its own stream; behind p its convolution is given the other run's inputs up to p

So the code that runs is the family's own, in its own precision, whatever its state looks like. Replaced by zero, the
state is the one that a prompt begins with (the mixer reads nothing up to p), and the taps are zeros.

A row costs its block's mixer once more than the row of a channel: its own run comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from veracausa.anatomy import Block
from veracausa.engine.tape import slice_call
from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from jaxtyping import Float

#: What is carried: kinds of places, whose units are at one position each.
Carried = Literal["state", "taps"]


class _Convolutions(TorchFunctionMode):
    """Every convolution of a run passes through `change(number, inputs, outputs, run)`; `run` runs it on other inputs.

    `number` counts the convolutions, since some mixers have several.
    """

    def __init__(self, change: Callable[[int, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]) -> None:
        super().__init__()
        self.change, self.seen = change, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is not torch.conv1d:
            return func(*args, **named)
        given, others = (args[0], args[1:]) if args else (named.pop("input"), ())

        def run(inputs: Tensor) -> Tensor:
            found: Tensor = func(inputs, *others, **named)
            return found

        self.seen += 1
        return self.change(self.seen - 1, given, run(given), run)


@dataclass
class _Kept:
    """What the convolutions of one run are given and give, [rows, channels, positions (and some padding)]."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def watch(self, _: int, inputs: Tensor, outputs: Tensor, __: Any) -> Tensor:
        """Write them down."""
        self.inputs.append(inputs)
        self.outputs.append(outputs)
        return outputs


def carrying(
    block: Block,
    own: Float[Tensor, "rows positions width"],
    other: Float[Tensor, "rows positions width"] | None,
    call: Mapping[str, Any],
    position: int,
    what: Carried,
) -> Float[Tensor, "rows later width"]:
    """What a block's mixer writes behind `position`, where it carries there what a mixer that read `other` carries.

    `own`, `other`: streams from the prompt's beginning on, `other` None for zero; `call`: as `Block.attend` takes it.

    Raises:
        ArchitectureError: no convolution is seen, as where a fused kernel stands in its place.

    >>> carrying(block, tape.clean.residual[4], tape.corrupted.residual[4], tape.call(block), 7, "state")
    """
    given = dict(call)
    if what == "state":
        kept = _of(block, own, given)
        return _with_state(block, own, other, given, position, kept)
    return _with_taps(block, own, None if other is None else _of(block, other, given), given, position)


def _of(block: Block, stream: Tensor, call: dict[str, Any]) -> _Kept:
    """The convolutions of a run of the block's mixer on a stream."""
    kept = _Kept()
    with _Convolutions(kept.watch) as mode:
        block.attended(stream, call)
    _require_seen(block, mode.seen)
    return kept


def _with_state(
    block: Block, own: Tensor, other: Tensor | None, call: dict[str, Any], position: int, kept: _Kept
) -> Tensor:
    later, positions = position + 1, own.shape[1]
    before = 0 if other is None else later  # of positions that the mixer reads in the place of its own
    stream = own[:, later:] if other is None else torch.cat([other[:, :later].to(own.dtype), own[:, later:]], 1)

    def unchanged(number: int, _: Tensor, outputs: Tensor, __: Any) -> Tensor:
        mine, own_outputs = outputs.clone(), kept.outputs[number]
        mine[..., before : before + positions - later] = own_outputs[..., later:positions]
        return mine

    run = _Convolutions(unchanged)
    return _written(block, stream, slice_call(call, later) if other is None else call, run)[:, before:]


def _with_taps(block: Block, own: Tensor, others: _Kept | None, call: dict[str, Any], position: int) -> Tensor:
    later, positions = position + 1, own.shape[1]

    def changed(number: int, inputs: Tensor, outputs: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        early = torch.zeros_like(inputs) if others is None else others.inputs[number]
        with_others = run(torch.cat([early[..., :later], inputs[..., later:]], -1))
        mine = outputs.clone()
        mine[..., later:positions] = with_others[..., later:positions]
        return mine

    run = _Convolutions(changed)
    written = _written(block, own, call, run)[:, later:]
    _require_seen(block, run.seen)
    return written


def _written(block: Block, stream: Tensor, call: dict[str, Any], run: AbstractContextManager[Any]) -> Tensor:
    with run:
        attended = block.attended(stream, call)
    return block.attention_write(attended)


def _require_seen(block: Block, seen: int) -> None:
    if not seen:
        raise ArchitectureError(
            f"The mixer of block {block.layer} ({type(block.attention).__name__}) runs no convolution that can be "
            "told, as where a kernel of its own does all in one: so neither its state nor its taps can be replaced. "
            "Take whole mixers, channels or gates, or load the model where its plain path runs (on a CPU)."
        )
