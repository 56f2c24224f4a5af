"""The linear maps of a block by name, each as it runs: y = x W + b.

`q`, `k`, `v`, `o` of an attention; `gate`, `up`, `down` of an MLP. Without a gate the first map of an MLP is `up`.
Where a family keeps several maps in one module, a map is its own part of that module's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy.beside import NormedMLPs, TwoMLPs
from veracausa.anatomy.linear import LinearMap, linear_map, numbers_of
from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.anatomy.block import Block
    from veracausa.anatomy.decoder import Decoder

#: Maps of an attention that make queries, keys and values.
PROJECTIONS = ("q", "k", "v")
#: Map → the kind of units whose lack is the map's.
_LIKE = {"q": "queries", "k": "keys", "v": "values", "o": "attention"} | dict.fromkeys(
    ("gate", "up", "down"), "neurons"
)


@dataclass(frozen=True, eq=False)
class BlockMap:
    """A linear map of a block. `module`: that gives it, among others where a family fuses them."""

    block: Block
    name: str
    module: nn.Module

    def own(self, output: Float[Tensor, "*rows all"]) -> Float[Tensor, "*rows outputs"]:
        """The map's part of its module's output."""
        if self.name in PROJECTIONS:
            return self._projected(output)
        if self.name in ("up", "gate") and self.block.up_fused:
            return output.chunk(2, -1)[self.name == "up"]
        return output

    def put(self, output: Float[Tensor, "*rows all"], new: Float[Tensor, "*rows outputs"]) -> Tensor:
        """The module's output with another part of the map's own."""
        if self.name in PROJECTIONS:
            found, (kind, parts) = output.clone(), self._readers
            self.block.layout.put(kind, found, slice(None), new.unflatten(-1, (parts, -1)), parts, self.block.head_dim)
            return found
        if self.name in ("up", "gate") and self.block.up_fused:
            both = list(output.chunk(2, -1))
            both[self.name == "up"] = new
            return torch.cat(both, -1)
        return new

    @property
    def _readers(self) -> tuple[int, int]:
        """Which projection it is, and how many readers it has."""
        kind = PROJECTIONS.index(self.name)
        return kind, self.block.kv_heads if kind else self.block.heads

    def _projected(self, output: Tensor) -> Tensor:
        kind, parts = self._readers
        return self.block.layout.projected(kind, output, parts, self.block.head_dim).flatten(-2)

    @property
    def linear(self) -> LinearMap:
        """Its weight [inputs, outputs] and its bias, read off the module (see `linear`).

        Raises:
            ArchitectureError: it is no linear map.
        """
        into = self.name not in ("o", "down")
        inputs = self.block.width if into else numbers_of(self.module) // self.block.width
        found = linear_map(self.block.found, self.module, inputs, before=into)
        if found.off is not None:
            raise ArchitectureError(
                f"The map {self.name} of block {self.block.layer} ({type(self.module).__name__}) is not linear as it "
                f"runs (off by {found.off:.2g} of its output), so it has no weights that could be taken apart. Is "
                "there a hook or an adapter on it that does more than scale, mix or shift? Remove it."
            )
        bias = None if found.bias is None else self.own(found.bias)
        scale = self.block.down_scale if self.name == "down" else 1.0
        return replace(found, weight=self.own(found.weight) * scale, bias=None if bias is None else bias * scale)


def map_of(decoder: Decoder, layer: int, name: str) -> BlockMap:
    """A map of a block.

    Raises:
        ArchitectureError: the block has no such map that is one alone; says why.
    """
    block = decoder.blocks[layer]
    if why := decoder.lacks.get(_LIKE[name]) or _why_not(block, name):
        raise ArchitectureError(f"{type(decoder.hf).__name__} has no map {name!r} in block {layer} to be told: {why}")
    return at_map(block, name)


def at_map(block: Block, name: str) -> BlockMap:
    """A map that the block is known to have."""
    module = module_of(block, name)
    assert module is not None
    return BlockMap(block, name, module)


def module_of(block: Block, name: str) -> nn.Module | None:
    """The module of a map; None where a block has none."""
    if name in PROJECTIONS:
        kind = PROJECTIONS.index(name)
        return block.projections[kind] if kind < len(block.projections) else None
    if name == "o":
        return block.attention_out if block.mixing == "attention" else None
    if name == "down":
        return block.down if block.has_mlp else None
    return _into_mlp(block, name) if block.has_mlp and block.down is not None else None


def _into_mlp(block: Block, name: str) -> nn.Module | None:
    """The module of `up` or `gate`: a linear map of the MLP that is not the down projection."""
    others = [one for one in _linear_modules(block) if one is not block.down]
    if block.up is None:
        return others[0] if name == "up" and len(others) == 1 else None
    if block.up_fused or name == "up":
        return block.up
    gates = [one for one in others if one is not block.up]
    return gates[0] if len(gates) == 1 else None


def _linear_modules(block: Block) -> list[nn.Module]:
    """The linear maps of an MLP, those of adapters within one aside."""
    found: dict[str, nn.Module] = {}
    for number, root in enumerate(block.mlp_modules):
        for path, module in root.named_modules(prefix=str(number)):
            inside = any(path.startswith(f"{outer}.") for outer in found)
            if not inside and getattr(getattr(module, "weight", None), "ndim", 0) == 2:
                found[path] = module
    return list(found.values())


def _why_not(block: Block, name: str) -> str | None:
    """Why a block has no such map; None if it has."""
    if name in (*PROJECTIONS, "o"):
        if block.mixing != "attention":
            return "there is no attention in it."
        if name in PROJECTIONS and block.qkv == "latent":
            return "its queries, keys and values come of latent vectors. Ask for o, or for maps of the MLP."
        if module_of(block, name) is None:
            return "it reads the keys and values of an earlier block."
        if name in "kv" and block.keys_are_values:
            return "one map gives its keys and its values."
        if name in PROJECTIONS and block.given_scale != 1:
            return "what its attention reads is scaled behind the norm. Ask for o, or for maps of the MLP."
        size = block.heads * block.key_dim
        if name == "q" and block.qkv == "separate" and numbers_of(block.projections[0]) != block.width * size:
            return "its query projection gives more than queries."
        return None
    if not block.has_mlp or block.down is None or isinstance(block.mlp, TwoMLPs | NormedMLPs):
        return "its MLP is made of experts, or there is none."
    if name == "gate" and block.up is None:
        return "its MLP has no gate. Ask for up."
    return None if module_of(block, name) is not None else "its MLP has several maps that this could be."
