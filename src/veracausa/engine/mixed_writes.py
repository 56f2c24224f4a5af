"""What readers see of writers' changes, Σ_u m_vu δ_u, by one product for all writers before a group of readers.

Changes come one after the other, and each reader sees all that came before. Left to autograd, every part of them would
be a product of its own, its result added to what is as large as all readers' inputs (a fifth of the seconds of a run of
SmolLM2-135M with its gradient), and so backwards. Here changes stand in one tensor and so do their gradients:

    seen_v = m_v · δ        ∂/∂m_v = ĝ_v · δ        ∂/∂δ += m_vᵀ ĝ_v

`token` is a number without a value that each part takes and gives: autograd asks for a part's gradient only when those
of all that came after it are in. A graph of these is gone through once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from veracausa.anatomy import Decoder

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(eq=False)
class _Kept:
    """Weights [*rows, readers, writers], changes [writers, rows, positions, width], and the gradients of both."""

    decoder: Decoder
    mask: Tensor
    changes: Tensor | None = None
    of_changes: Tensor | None = None
    of_mask: Tensor | None = None

    def weights(self, first: int, count: int, writers: int) -> Float[Tensor, "*rows readers writers"]:
        """Of `count` readers from the `first` on, for the first so many writers, as the stream arrives there."""
        assert self.changes is not None
        own = self.mask.detach()[..., first : first + count, :writers].to(self.changes.dtype)
        times = self.times(first, writers)
        return own if times is None else own * times

    def times(self, first: int, writers: int) -> Float[Tensor, " writers"] | None:
        """What the stream is multiplied by between writers and a reader: see `Decoder.passing`."""
        passing, graph = self.decoder.passing, self.decoder.graph
        if passing is None:
            return None
        return torch.as_tensor(passing[int(graph.reader_layer[first]), :writers]).to(self.changes)

    def seen(self, first: int, count: int, writers: int) -> Float[Tensor, "readers rows positions width"]:
        """Σ_u m_vu δ_u."""
        assert self.changes is not None
        weights, changes = self.weights(first, count, writers), self.changes[:writers]
        if weights.ndim == 2:
            return (weights @ changes.flatten(1)).unflatten(1, changes.shape[1:])
        own = weights @ changes.flatten(2).transpose(0, 1)
        return own.unflatten(2, changes.shape[2:]).movedim(0, 1)

    def take(self, gradient: Tensor, first: int, count: int, writers: int, mask_too: bool) -> None:
        """Add the gradients of what `count` readers saw."""
        assert self.changes is not None
        weights, changes = self.weights(first, count, writers), self.changes[:writers]
        if self.of_changes is None:
            self.of_changes = torch.zeros_like(self.changes)
        into = self.of_changes[:writers]
        if weights.ndim == 2:
            back = gradient.flatten(1)
            into.flatten(1).addmm_(weights.T, back)
            found = back @ changes.flatten(1).T if mask_too else None
        else:
            back = gradient.flatten(2).transpose(0, 1)
            into.flatten(2).transpose(0, 1).baddbmm_(weights.transpose(1, 2), back)
            found = back @ changes.flatten(2).permute(1, 2, 0) if mask_too else None
        if found is not None:
            if self.of_mask is None:
                self.of_mask = torch.zeros_like(self.mask)
            times = self.times(first, writers)
            self.of_mask[..., first : first + count, :writers] = found if times is None else found * times


class MixedWrites:
    """Changes of writers, as they come in the graph's order, and what readers see of them.

    `mask`: weights of all edges, [readers, writers], or each row's own, [rows, readers, writers].
    """

    def __init__(self, decoder: Decoder, mask: Float[Tensor, "*rows readers writers"]) -> None:
        self._kept = _Kept(decoder, mask)
        self._token: Tensor = _Begin.apply(mask, self._kept)
        self._writers = 0

    def put(self, changes: Float[Tensor, "writers rows positions width"]) -> None:
        """The next writers' changes."""
        if self._kept.changes is None:
            self._kept.changes = changes.new_empty(self._kept.decoder.graph.writers, *changes.shape[1:])
        self._token = _Put.apply(changes, self._token, self._kept, self._writers)
        self._writers += len(changes)

    def seen(self, first: int, count: int) -> Float[Tensor, "readers rows positions width"]:
        """What `count` readers of one place see of the writers before them, from the `first` on."""
        found: Tensor = _Seen.apply(self._token, self._kept, first, count, self._writers)
        return found


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mask: Tensor, kept: _Kept) -> Tensor:
        ctx.kept = kept
        return mask.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        kept: _Kept = ctx.kept
        found = torch.zeros_like(kept.mask) if kept.of_mask is None else kept.of_mask
        kept.of_mask = kept.of_changes = None
        return found, None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, changes: Tensor, token: Tensor, kept: _Kept, first: int) -> Tensor:
        assert kept.changes is not None
        ctx.kept, ctx.own = kept, slice(first, first + len(changes))
        ctx.dtype = changes.dtype
        kept.changes[ctx.own] = changes
        return token.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        kept: _Kept = ctx.kept
        found = None if kept.of_changes is None else kept.of_changes[ctx.own].to(ctx.dtype)
        if not ctx.needs_input_grad[1]:  # nothing before has a gradient
            kept.of_changes = None
        return found if ctx.needs_input_grad[0] else None, token, None, None


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, kept: _Kept, first: int, count: int, writers: int) -> Tensor:
        ctx.kept, ctx.asked, ctx.token = kept, (first, count, writers), (token.dtype, token.device)
        ctx.mask_too = kept.mask.requires_grad
        return kept.seen(first, count, writers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        ctx.kept.take(gradient, *ctx.asked, ctx.mask_too)
        dtype, device = ctx.token
        return torch.zeros((), dtype=dtype, device=device), None, None, None, None
