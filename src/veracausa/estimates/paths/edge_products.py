"""Products of what writers add with gradients at readers, and which of them are a table's edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class EdgeProducts:
    """Of one bucket, whose runs begin at position `start`.

    Readers come in groups (a block's attention or mixer, its MLP, the logits), which are named by their first reader;
    `first`: the writer that changes begin with. `passing`: see `Decoder.passing`.
    """

    table: Edges
    start: int
    passing: Float[np.ndarray, "places writers"] | None = None

    def of(
        self,
        reader: int,
        changes: Float[Tensor, "rows writers positions width"],
        gradient: Float[Tensor, "readers rows positions width"],
        first: int = 0,
    ) -> Float[Tensor, "rows writers readers *positions"]:
        """Change · gradient of the writers before a group of readers; by position if the table has them."""
        changes = changes[:, : self.seen(reader) - first].to(gradient.dtype)
        if self.table.positional:
            found = torch.einsum("bwsd,rbsd->bwrs", changes, gradient)
        else:
            found = changes.flatten(2) @ gradient.transpose(0, 1).flatten(2).transpose(1, 2)
        if self.passing is None:
            return found
        times = self.passing[self.table.graph.reader_layer[reader], first : first + found.shape[1]]
        return found * torch.as_tensor(times).to(found).reshape(-1, *[1] * (found.ndim - 2))

    def listed(
        self, reader: int, products: Tensor, first: int = 0, begin: int = 0
    ) -> tuple[Int[Tensor, " edges"], Float[Tensor, "rows edges"]]:
        """(their indices in the table, scores) of the table's edges among products.

        `begin`: the position, counted from the runs' first one, that products by position begin with.
        """
        table, listed = self.table, self.into[reader]
        listed = listed[(table.writer[listed] >= first) & (table.writer[listed] < first + products.shape[1])]
        if table.positional:
            position = table.position[listed] - self.start - begin
            here = (position >= 0) & (position < products.shape[3])
            listed, position = listed[here], torch.as_tensor(position[here], device=products.device)
        writer = torch.as_tensor(table.writer[listed] - first, device=products.device)
        which = torch.as_tensor(table.reader[listed] - reader, device=products.device)
        chosen = torch.as_tensor(listed, device=products.device)
        if not table.positional:
            return chosen, products[:, writer, which]
        return chosen, products[:, writer, which, position]

    @cached_property
    def into(self) -> dict[int, np.ndarray]:
        """First reader of a group → the table's edges into it."""
        graph = self.table.graph
        first, starts = graph.reader_group[self.table.reader], np.unique(graph.reader_group).tolist()
        order = np.argsort(first, kind="stable")
        cuts = np.searchsorted(first[order], starts), np.searchsorted(first[order], starts, side="right")
        return {start: order[a:b] for start, a, b in zip(starts, *cuts, strict=True)}

    def seen(self, reader: int) -> int:
        """Writers before a group of readers: the first so many of the graph."""
        graph = self.table.graph
        return int((graph.writer_order <= graph.reader_order[reader]).sum())
