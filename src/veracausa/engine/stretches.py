"""Stretches of positions: what is local to a position is made of a few positions at a time.

What all writers add at a position, and the gradients there at all readers, take far more than the run that they are
told from (a head's write is as wide as the stream, its value is not). Both are told position by position, and scores
are sums over positions, so that only a stretch of them need stand in memory: as many as fit into a share of what is
free, all of them where they do. Sums over stretches are those over all positions to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from veracausa.engine.tape import BY_OURS, State, Tape

#: Share of the free memory that what is told of one stretch may take.
SHARE = 0.1


@dataclass(frozen=True)
class Stretch:
    """Positions `first` … `behind` − 1 of runs of `of` positions.

    >>> Stretch(0, 2, 6).cut(torch.zeros(1, 6, 8)).shape
    torch.Size([1, 2, 8])
    """

    first: int
    behind: int
    of: int

    def __len__(self) -> int:
        return self.behind - self.first

    @property
    def whole(self) -> bool:
        """Whether it is all of the run."""
        return len(self) == self.of

    def cut(self, x: Tensor, dim: int = 1) -> Tensor:
        """Its part of a tensor that holds the run's positions, or the last of them (perhaps none of the stretch)."""
        if self.whole or x.ndim <= dim:  # what was not run has no positions
            return x
        lacking = self.of - x.shape[dim]
        first, behind = max(0, self.first - lacking), max(0, self.behind - lacking)
        return x.narrow(dim, first, behind - first)

    def last(self, positions: int) -> int:
        """How many of a run's last so many positions are in it; they are its own last ones."""
        return max(0, self.behind - max(self.first, self.of - positions))

    def tape(self, tape: Tape) -> Tape:
        """A tape with what both runs hold there, without keys and values."""
        return tape if self.whole else replace(tape, clean=self.state(tape.clean), corrupted=self.state(tape.corrupted))

    def state(self, state: State) -> State:
        """What a run holds there of its stream and sites, but for those that attention itself is given."""
        return state if self.whole else _changed(state, self.cut, [one for one in state.sites if one not in BY_OURS])


def stretches(positions: int, token: int, free: int) -> list[Stretch]:
    """All positions of runs in stretches that fit; `token`: bytes that one position takes, `free`: what can be had."""
    return cut_into(positions, at_once(positions, token, free))


def cut_into(positions: int, size: int) -> list[Stretch]:
    """All positions of runs, `size` at a time.

    >>> len(cut_into(10, 4))
    3
    """
    return [Stretch(first, min(first + size, positions), positions) for first in range(0, positions, size)]


def at_once(positions: int, token: int, free: int) -> int:
    """Positions of a stretch, at least one."""
    return max(1, min(positions, int(SHARE * free / max(1, token))))


def rows_of(state: State, rows: slice, copied: bool = False) -> State:
    """The stream and the sites of some rows of a run; `copied`: so that the whole run can be let go of."""
    return _changed(state, lambda x: x[rows].clone() if copied else x[rows], [*state.sites])


def joined(first: State, second: State) -> State:
    """Rows of two runs of the same positions, one after the other."""

    def both(one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        return [torch.cat(rows) for rows in zip(one, other, strict=True)]

    sites = {site: both(own, second.sites[site]) for site, own in first.sites.items()}
    return replace(second, residual=both(first.residual, second.residual), middle=both(first.middle, second.middle),
                   sites=sites, coded={})  # fmt: skip


def _changed(state: State, change: Callable[[Tensor], Tensor], sites: Collection[str]) -> State:
    """A run's stream and some sites, every tensor changed."""
    kept = {site: [*map(change, state.sites[site])] for site in sites}
    return State(
        [*map(change, state.residual)], [*map(change, state.middle)], kept, experts=state.experts, codes=state.codes
    )
