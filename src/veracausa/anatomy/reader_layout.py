"""How a projection's output holds the queries, keys or values of the heads: alone, or several in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy.anatomy import Layout

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ReaderLayout:
    """Where in the outputs of the query (0), key (1) and value (2) projections each reader's numbers stand.

    `qkv`: see `Anatomy.qkv`. `heads`, `kv_heads`: of the attention.

        >>> ReaderLayout("separate", 4, 2).projected(1, output, parts=2, head_dim=8)    # [..., 16] → [..., 2, 8]
    """

    qkv: Layout
    heads: int
    kv_heads: int

    def projected(self, kind: int, output: Tensor, parts: int, head_dim: int) -> Float[Tensor, "*rows parts numbers"]:
        """A projection's output (or a gradient of it), split into what its readers give: see `ReaderLayout`.

        `parts`: how many readers of that kind there are, heads, or one that gives all. It may be a copy; `put` writes
        into an output.
        """
        if self.qkv in ("separate", "latent"):
            return output.unflatten(-1, (parts, -1))
        if self.qkv == "fused-thirds":
            before = (0, self.heads, self.heads + self.kv_heads)[kind] * head_dim
            return output[..., before : before + parts * head_dim].unflatten(-1, (parts, head_dim))
        if self.qkv == "fused-in-fours":
            return self._fours(output, head_dim)[..., (0, 2, 1)[kind], :, :].flatten(-3, -2)
        groups = output.unflatten(-1, (self.kv_heads, self._in_group, head_dim))
        queries = self._in_group - 2
        if kind:
            return groups[..., queries + kind - 1, :]
        return groups[..., 0, :] if queries == 1 else groups[..., :queries, :].flatten(-3, -2)

    def put(
        self, kind: int, output: Tensor, chosen: Int[Tensor, " chosen"] | slice, new: Tensor, parts: int, head_dim: int
    ) -> None:
        """Write the chosen readers' part of a projection's output, [..., chosen, numbers], in place.

        `parts`: see `projected`.
        """
        if self.qkv == "fused-in-fours":
            at = torch.arange(parts, device=output.device)[chosen]
            self._fours(output, head_dim)[..., at // (parts // 4), (0, 2, 1)[kind], at % (parts // 4), :] = new
            return
        if self.qkv != "fused-per-group" or kind or self._in_group == 3:
            self.projected(kind, output, parts, head_dim)[..., chosen, :] = new
            return
        groups = output.unflatten(-1, (self.kv_heads, self._in_group, head_dim))
        at = torch.arange(parts, device=output.device)[chosen]
        groups[..., at // (self._in_group - 2), at % (self._in_group - 2), :] = new

    def _fours(self, output: Tensor, head_dim: int) -> Float[Tensor, "*rows four kinds quarter head_dim"]:
        """A "fused-in-fours" output: queries, values and keys of a quarter of the heads, four times."""
        return output.unflatten(-1, (4, 3, self.heads // 4, head_dim))

    @property
    def _in_group(self) -> int:
        """Heads' widths that a key/value head's group takes in a "fused-per-group" output: queries, a key, a value."""
        return self.heads // self.kv_heads + 2

    def fused(self, parts: Sequence[Float[Tensor, "*rows parts numbers"]]) -> list[Tensor]:
        """The inverse of `projected`: outputs of the three projections (one and the same if a family fuses them)."""
        if self.qkv in ("separate", "latent"):
            flat = [part.flatten(-2) for part in parts]
            return flat if len(flat) == 3 else [flat[0], flat[1], flat[1]]
        if self.qkv == "fused-thirds":
            return [torch.cat(list(parts), -2).flatten(-2)] * 3
        if self.qkv == "fused-in-fours":
            query, key, value = (part.unflatten(-2, (4, -1)) for part in parts)
            return [torch.stack([query, value, key], -3).flatten(-4)] * 3
        grouped = [part.unflatten(-2, (self.kv_heads, -1)) for part in parts]
        return [torch.cat(grouped, -2).flatten(-3)] * 3
