"""What readers see of writers' changes, Σ_u m_vu δ_u, by one product for all writers before a group of readers.

Changes come one after the other, and each reader sees all that came before. Left to autograd, every part of them would
be a product of its own, its result added to what is as large as all readers' inputs (a fifth of the seconds of a run of
SmolLM2-135M with its gradient), and so backwards. Here changes stand in one tensor and so do their gradients:

    seen_v = m_v · δ        ∂/∂m_v = ĝ_v · δ        ∂/∂δ += m_vᵀ ĝ_v

Memory bounds both: a block's readers are few, and all writers before them are gone through, in ∂/∂δ to be written, too.
So ĝ of the readers of some blocks wait and are taken together; a writer whose gradient is asked for meanwhile takes its
own from those that wait.

`token` is a number without a value that each part takes and gives: autograd asks for a part's gradient only when those
of all that came after it are in. A graph of these is gone through once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from veracausa.anatomy import Decoder

if TYPE_CHECKING:
    from jaxtyping import Float


#: From so many readers on their gradients are taken: a block or two. More take memory, and no less time (64, 128).
_WAITING = 32


@dataclass(frozen=True, eq=False)
class _Back:
    """Gradients ĝ of what `count` readers saw of the first so many writers; `own`: their rows in the mask."""

    gradient: Float[Tensor, "readers rows positions width"]
    first: int
    count: int
    writers: int

    @property
    def own(self) -> slice:
        """Their rows in the mask."""
        return slice(self.first, self.first + self.count)


@dataclass(eq=False)
class _Kept:
    """Weights [*rows, readers, writers], changes [writers, rows, positions, width], and the gradients of both.

    `waiting`: gradients at readers that are not in `of_changes` and `of_mask` yet. `asked`: writers from there on have
    been given their gradients.
    """

    decoder: Decoder
    mask: Tensor
    changes: Tensor | None = None
    of_changes: Tensor | None = None
    of_mask: Tensor | None = None
    waiting: list[_Back] = field(default_factory=list)
    asked: int = 1 << 62

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
        return _times(self.weights(first, count, writers), self.changes[:writers])

    def take(self, back: _Back) -> None:
        """Gradients of what some readers saw; they may wait."""
        self.waiting.append(back)
        if sum(one.count for one in self.waiting) >= _WAITING:
            self.settle()

    def of_writers(self, own: slice) -> Float[Tensor, "some rows positions width"] | None:
        """The gradient of some writers' changes, when all readers behind them have been taken."""
        self.asked = own.start
        found = None if self.of_changes is None else self.of_changes[own]
        for one in self.waiting:
            weights = self.weights(one.first, one.count, one.writers)[..., own]
            part = _times(weights.transpose(-1, -2), one.gradient)
            found = part if found is None else found + part
        return found

    def settle(self) -> None:
        """Take all gradients that wait, in one product for writers and one for weights."""
        if not self.waiting:
            return
        assert self.changes is not None
        waiting, self.waiting = self.waiting, []
        gradient = torch.cat([one.gradient for one in waiting])
        self._settle_changes(waiting, gradient)
        if self.mask.requires_grad:
            self._settle_mask(waiting, gradient)

    def _settle_changes(self, waiting: list[_Back], gradient: Tensor) -> None:
        """∂/∂δ of the writers that have not been given theirs."""
        assert self.changes is not None
        most = min(self.asked, max(one.writers for one in waiting))
        weights = gradient.new_zeros(*self.mask.shape[:-2], len(gradient), most)
        for one, rows in zip(waiting, _rows(waiting), strict=True):
            upto = min(most, one.writers)
            weights[..., rows, :upto] = self.weights(one.first, one.count, upto)
        if self.of_changes is None:
            self.of_changes = torch.zeros_like(self.changes)
        into = self.of_changes[:most]
        if weights.ndim == 2:
            into.flatten(1).addmm_(weights.T, gradient.flatten(1))
        else:
            back = gradient.flatten(2).transpose(0, 1)
            into.flatten(2).transpose(0, 1).baddbmm_(weights.transpose(1, 2), back)

    def _settle_mask(self, waiting: list[_Back], gradient: Tensor) -> None:
        """∂/∂m of all readers that wait."""
        assert self.changes is not None
        changes = self.changes[: max(one.writers for one in waiting)]
        if self.mask.ndim == 2:
            found = gradient.flatten(1) @ changes.flatten(1).T
        else:
            found = gradient.flatten(2).transpose(0, 1) @ changes.flatten(2).permute(1, 2, 0)
        if self.of_mask is None:
            self.of_mask = torch.zeros_like(self.mask)
        for one, rows in zip(waiting, _rows(waiting), strict=True):
            part, times = found[..., rows, : one.writers], self.times(one.first, one.writers)
            self.of_mask[..., one.own, : one.writers] = part if times is None else part * times


def _rows(waiting: list[_Back]) -> list[slice]:
    """Where the readers of each are among those of all."""
    ends = list(accumulate(one.count for one in waiting))
    return [slice(end - one.count, end) for end, one in zip(ends, waiting, strict=True)]


def _times(weights: Tensor, x: Float[Tensor, "some rows positions width"]) -> Tensor:
    """Weights [*rows, others, some] times x."""
    if weights.ndim == 2:
        return (weights @ x.flatten(1)).unflatten(1, x.shape[1:])
    return (weights @ x.flatten(2).transpose(0, 1)).unflatten(2, x.shape[2:]).movedim(0, 1)


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
        kept.settle()
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
        own = kept.of_writers(ctx.own)
        found = None if own is None else own.to(ctx.dtype)
        if not ctx.needs_input_grad[1]:  # nothing before has a gradient
            kept.of_changes, kept.waiting = None, []
        return found if ctx.needs_input_grad[0] else None, token, None, None


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, kept: _Kept, first: int, count: int, writers: int) -> Tensor:
        ctx.kept, ctx.asked, ctx.token = kept, (first, count, writers), (token.dtype, token.device)
        return kept.seen(first, count, writers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        ctx.kept.take(_Back(gradient, *ctx.asked))
        dtype, device = ctx.token
        return torch.zeros((), dtype=dtype, device=device), None, None, None, None
