"""Structured parts of a model that can be cut out whole, and how many parameters each of them is.

    heads      a3.h2     a query head: its rows of the query projection, its columns of the output projection; where
                         every head has keys and values of its own, those, too
    kv_groups  a3.kv1    a key/value head with all query heads that share it
    neurons    m3.n40    a neuron: its rows of the MLP's input projections, its column of the down projection
    mlps       m3        an MLP
    attention  a3        an attention layer
    layers     l3        both, and their norms: the block passes the stream on as it is

Parts of one kind for attention and one for MLPs can be cut together ("heads+neurons").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from veracausa.anatomy.block import Block
from veracausa.anatomy.linear import numbers_of
from veracausa.errors import ArchitectureError, UnitError
from veracausa.pruning.names import KINDS
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class Parts:
    """A table of parts. `kinds`: which there are; of every part its `kind` (a place in `kinds`), its `layer`, its
    `index` in the layer (−1: it is alone) and its `parameters`. `whole`: parameters of the whole model.

    >>> Parts.of(lm, "heads+neurons")
    """

    kinds: tuple[str, ...]
    kind: Int[np.ndarray, " parts"]
    layer: Int[np.ndarray, " parts"]
    index: Int[np.ndarray, " parts"]
    parameters: Int[np.ndarray, " parts"]
    whole: int

    @classmethod
    def of(cls, lm: Model, units: str) -> Parts:
        """All parts of a model of one kind, or of two, "heads+neurons".

        Raises:
            UnitError: no such kind, or kinds that overlap. ArchitectureError: the model has none.
        """
        kinds = kinds_of(units)
        rows: list[tuple[int, int, int, int]] = []
        for at, kind in enumerate(kinds):
            for block in lm.decoder.blocks:
                each = _each(block, kind)
                alone = kind in ("mlps", "attention", "layers")
                rows += [(at, block.layer, -1 if alone else i, size) for i, size in enumerate(each)]
        if not rows:
            raise ArchitectureError(f"{lm.name} has no {' or '.join(kinds)} that could be cut out.")
        kind, layer, index, sizes = np.array(rows, dtype=np.int64).T
        return cls(kinds, kind, layer, index, sizes, sum(one.numel() for one in lm.hf.parameters()))

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def names(self) -> list[str]:
        """What every part is called."""
        rows = zip(self.kind.tolist(), self.layer.tolist(), self.index.tolist(), strict=True)
        return [KINDS[self.kinds[kind]][1].format(layer=layer, index=index) for kind, layer, index in rows]

    @property
    def total(self) -> int:
        """Parameters of all parts together: what sizes are shares of."""
        return int(self.parameters.sum())

    def saved(self, cut: Bool[np.ndarray, " parts"]) -> int:
        """Parameters of the parts that are cut."""
        return int(self.parameters[cut].sum())

    def of_kind(self, kind: str) -> Bool[np.ndarray, " parts"]:
        """Which parts are of a kind."""
        if kind not in self.kinds:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(self.kind == self.kinds.index(kind))

    def digest(self) -> str:
        """A hash of the table."""
        body = json.dumps([self.kinds, *(one.tolist() for one in (self.kind, self.layer, self.index))])
        return hashlib.sha256(body.encode()).hexdigest()[:16]


def kinds_of(units: str) -> tuple[str, ...]:
    """ "heads+neurons" → its kinds, checked.

    Raises:
        UnitError: see `Parts.of`.
    """
    kinds = tuple(one.strip() for one in units.split("+"))
    for one in kinds:
        if one not in KINDS:
            raise UnitError(not_known("kind of parts to cut", one, KINDS))
    places = [KINDS[one][0] for one in kinds]
    if len({*places}) < len(places) or ("layer" in places and len(places) > 1):
        raise UnitError(
            f"units={units!r} names parts that overlap: take one of heads, kv_groups and attention, beside it one of "
            "neurons and mlps if you like; or layers alone."
        )
    return kinds


def _each(block: Block, kind: str) -> list[int]:
    """Parameters of each part of a kind in a block; none where it has none."""
    if kind == "layers":
        _require_attention(block)
        return [_numbers(block.module)]
    if KINDS[kind][0] == "mlp":
        return _of_mlp(block, kind)
    if block.mixing != "attention":
        return []
    _require_attention(block)
    if kind == "attention":
        return [_numbers(block.attention)]
    count, own = (block.heads, "heads") if kind == "heads" else (block.kv_heads, "groups")
    readers = [_projected(block, number, own) for number in range(3)]
    numbers = sum(readers) + block.heads * block.head_dim * block.width
    return [numbers // count] * count


def _of_mlp(block: Block, kind: str) -> list[int]:
    if not block.has_mlp:
        return []
    whole = sum(_numbers(module) for module in block.mlp_modules)
    if kind == "mlps":
        return [whole]
    down = block.mlp_out  # refuses experts
    count, bias = neurons_of(block), getattr(down, "bias", None)
    return [(whole - (0 if bias is None else bias.numel())) // count] * count


def neurons_of(block: Block) -> int:
    """How many neurons a block's MLP has."""
    return numbers_of(block.mlp_out) // block.width


def _projected(block: Block, kind: int, own: str) -> int:
    """Numbers of the query (0), key (1) or value (2) projection that go with heads, or with groups."""
    if kind and own == "heads" and block.kv_heads < block.heads:
        return 0
    parts, size = (block.heads if kind == 0 else block.kv_heads), block.head_dim if kind == 2 else block.key_dim
    bias = getattr(block.projections[kind], "bias", None)
    return parts * size * (block.width + (bias is not None))


def _require_attention(block: Block) -> None:
    """ArchitectureError where heads are not told apart by weights of their own."""
    if block.mixing == "mixer" or block.beside is not None or block.reads_keys or block.qkv == "latent":
        raise ArchitectureError(
            f"Block {block.layer} has a mixer, latent keys, or keys of another block, so its parts share weights that "
            "belong to none of them. Cut neurons or mlps here."
        )


def _numbers(module: nn.Module) -> int:
    """Parameters of a module, each once."""
    return sum(one.numel() for one in module.parameters())


def as_units(parts: Parts, group: int) -> dict[str, Any]:
    """Part → the units that `vc.exact` replaces for it; `group`: query heads that share a key/value head."""
    found: dict[str, Any] = {}
    for name, kind, layer, index in zip(parts.names, parts.kind, parts.layer, parts.index, strict=True):
        if parts.kinds[kind] == "kv_groups":
            found[name] = [f"a{layer}.h{head}" for head in range(index * group, (index + 1) * group)]
        elif parts.kinds[kind] == "layers":
            found[name] = [f"a{layer}", f"m{layer}"]
        else:
            found[name] = [name]
    return found


def in_order(names: Sequence[str], found: Sequence[str], values: Any) -> np.ndarray:
    """Values by the order of `names`, given them by that of `found`."""
    place = {name: i for i, name in enumerate(found)}
    return np.asarray(values)[[place[name] for name in names]]
