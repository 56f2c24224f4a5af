"""What a block gets beside the stream (in Gemma 4's small models): an input of its own, keys and values of another.

Behind its MLP such a block adds, with x the stream there and i its own input at that position,

    norm(out(act(gate(x)) · i))

and scales the sum. i is made of the prompt's tokens and embeddings ahead of all blocks, so it belongs to a run, as its
prompt does: a patch of the stream leaves it as it is. The last blocks may have queries alone, and read the keys and
values of the last block of their kind that has some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class OwnInput:
    """Where a family keeps it: paths from the block on, and of the backbone's parts that make the inputs.

    `table`: the backbone's method that gives the tokens' part; `of_embeddings`: the linear map that gives the other.
    """

    gate: str
    activation: str
    out: str
    norm: str
    table: str
    of_embeddings: str


@dataclass(frozen=True)
class SharedKeys:
    """Paths from the block on: whether it reads another's keys and values, and the name under which it finds them."""

    reads: str
    named: str


class OwnInputs(nn.Module):
    """What a block adds for its own input. It is no module of the model."""

    def __init__(self, block: nn.Module, names: OwnInput) -> None:
        super().__init__()
        self.gate, self.activation, self.out, self.norm = (
            block.get_submodule(name) for name in (names.gate, names.activation, names.out, names.norm)
        )

    def forward(
        self, stream: Float[Tensor, "rows positions width"], given: Float[Tensor, "rows positions own"]
    ) -> Float[Tensor, "rows positions width"]:
        """Its write, for the stream behind the MLP and the block's own input there."""
        found: Tensor = self.norm(self.out(self.activation(self.gate(stream)) * given))
        return found


@contextmanager
def from_tokens(backbone: Any, names: OwnInput | None, ids: Tensor | None) -> Iterator[dict[str, Any]]:
    """Arguments by which a backbone that is given embeddings takes its blocks' inputs from tokens; within, no gradient
    comes to the embeddings by these inputs."""
    if names is None or ids is None:
        yield {}
        return
    handle = backbone.get_submodule(names.of_embeddings).register_forward_pre_hook(
        lambda _, args: (args[0].detach(), *args[1:])
    )
    try:
        with torch.no_grad():
            given = getattr(backbone, names.table)(ids, None)
        yield {"per_layer_inputs": given}
    finally:
        handle.remove()


def sources(blocks: Sequence[Any]) -> list[int]:
    """For each `Block` the one whose keys and values it reads: its own, or the last of the same name that has some."""
    found, last = [], dict[str | None, int]()
    for block in blocks:
        if not block.reads_keys:
            last[block.keys_named] = block.layer
        found.append(last[block.keys_named] if block.reads_keys else block.layer)
    return found
