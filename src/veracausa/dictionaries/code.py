"""A dictionary at work in a call: the parts of a site's activations, side by side.

    y = Σ_i a_i W_i + b + ε (+ W_skip x)

The site of a code is [a of the chosen features | what the features that were not chosen write | ε | W_skip x], one
number a feature and as many as y is wide for each of the others, so that a change of the site adds up to the change of
y whatever is chosen. With a norm in the encoder b is scaled token by token and moves with ε.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import ERROR, EVERY, SKIP
from veracausa.errors import MethodError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

#: Numbers that all features of some tokens may take at once.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class Code:
    """A dictionary, the features of it that a call is about, and what is done to y before (`posted`: a post-norm).

    `chosen`: places of features in the dictionary, sorted (None: all). `digest`: of the dictionary as it was given.
    """

    dictionary: Dictionary
    chosen: Int[np.ndarray, " chosen"] | None = None
    posted: Callable[[Tensor], Tensor] | None = None
    digest: str = ""

    def of(self, index: Int[np.ndarray, " units"]) -> Code:
        """The same for the features among these numbers alone."""
        return replace(self, chosen=np.flatnonzero(np.isin(self.dictionary.indices, index)))

    @cached_property
    def _columns(self) -> Tensor | None:
        return None if self.chosen is None else torch.as_tensor(self.chosen, device=self.dictionary.weight.device)

    @cached_property
    def _indices(self) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
        """The indices of the chosen features in tables of units, in order, and which feature each is."""
        own = self.dictionary.indices if self.chosen is None else self.dictionary.indices[self.chosen]
        order = np.argsort(own)
        return own[order], order

    @property
    def told(self) -> list[int]:
        """The indices of all units that it tells apart: the chosen features, the error, the skip."""
        beside = [ERROR] if self.dictionary.skip is None else [ERROR, SKIP]
        return [*self._indices[0].tolist(), *beside]

    @cached_property
    def weight(self) -> Float[Tensor, "chosen width"]:
        """What each chosen feature writes."""
        weight = self.dictionary.weight
        return weight if self._columns is None else weight[self._columns]

    def onward(self, layer: int) -> Float[Tensor, "chosen width"]:
        """What each chosen feature of a cross-layer transcoder writes to a later layer."""
        chosen = np.arange(self.dictionary.size) if self.chosen is None else self.chosen
        return self.dictionary.rows(torch.as_tensor(chosen, device=self.weight.device), layer)

    def row(self, number: int, layer: int) -> Float[Tensor, " width"]:
        """What one of the chosen features of a cross-layer transcoder writes to a later layer."""
        feature = number if self.chosen is None else int(self.chosen[number])
        return self.dictionary.rows(torch.tensor([feature], device=self.weight.device), layer)[0]

    @property
    def features(self) -> int:
        """How many features were chosen."""
        return len(self.weight)

    @property
    def widths(self) -> list[int]:
        """How many numbers of the site each part has: features, the rest of them, the error, the skip."""
        more = 1 + (self.dictionary.skip is not None) + (self.chosen is not None)
        return [1] * self.features + [self.weight.shape[1]] * more

    @property
    def width(self) -> int:
        """Numbers of the site at one position."""
        return sum(self.widths)

    def tells(self, index: int) -> bool:
        """Whether a unit is told apart from others: one of the chosen features, the error, or the skip."""
        known = bool(np.isin(index, self._indices[0])) or (index == EVERY and bool(self.dictionary.map))
        return known or index == ERROR or (index == SKIP and self.dictionary.skip is not None)

    def parts(self, index: Int[np.ndarray, " units"]) -> Int[np.ndarray, " units"]:
        """Which part of the site each unit is; all components together come behind the last."""
        own, order = self._indices
        at = np.minimum(np.searchsorted(own, index), len(own) - 1)
        found = np.where(index == ERROR, self._error, order[at] if len(own) else index)
        return np.where(index == EVERY, len(self.widths), np.where(index == SKIP, self._error + 1, found))

    @property
    def _error(self) -> int:
        """Which part the error is."""
        return self.features + (self.chosen is not None)

    @property
    def _every(self) -> slice:
        """Which of the site's numbers are of features, chosen or not."""
        return slice(0, sum(self.widths[: self._error]))

    def numbers(self, index: int) -> slice:
        """Which of the site's numbers one unit is."""
        if index not in self._found:
            self._found[index] = self._numbers(index)
        return self._found[index]

    @cached_property
    def _found(self) -> dict[int, slice]:
        """Of the units that were asked for: sets of thousands of features ask for each many times."""
        return {}

    def _numbers(self, index: int) -> slice:
        part = int(self.parts(np.array([index]))[0])
        if part == len(self.widths):
            return self._every
        return slice(part, part + 1) if part < self.features else self._vector(part)

    def _vector(self, part: int) -> slice:
        """Which of the site's numbers a part that is as wide as y is."""
        width = self.weight.shape[1]
        first = self.features + (part - self.features) * width
        return slice(first, first + width)

    def spread(self, share: Float[Tensor, "rows parts"]) -> Float[Tensor, "rows site"]:
        """Shares of parts as shares of the site's numbers; parts that none is given for have 0."""
        widths = torch.tensor(self.widths, device=share.device)
        share = share[:, : len(widths)]  # of another layer's dictionary there may be more
        lacking = share.new_zeros(len(share), len(widths) - share.shape[1])
        return torch.cat([share, lacking], 1).repeat_interleave(widths, 1)

    def site(
        self,
        x: Float[Tensor, "examples positions read"],
        y: Float[Tensor, "examples positions width"],
        posted: bool = True,
        before: Float[Tensor, "examples positions width"] | None = None,
    ) -> Float[Tensor, "examples positions site"]:
        """The site of activations that the dictionary reads and explains.

        `posted`: they are in front of the post-norm behind which it reads, if it reads behind one. `before`: what
        features of earlier layers write there, which is none of its parts.
        """
        kind = self.dictionary.weight.dtype
        if posted and self.posted is not None:
            y = self.posted(y)
            x = x if self.dictionary.transcodes else y
        x, y = x.to(kind), y.to(kind)
        y = y if before is None else y - before
        step = max(1, _AT_ONCE // self.dictionary.size)
        rows = zip(x.flatten(0, 1).split(step), y.flatten(0, 1).split(step), strict=True)
        return torch.cat([self._site(*each) for each in rows]).unflatten(0, x.shape[:2])

    def _site(self, x: Float[Tensor, "rows read"], y: Float[Tensor, "rows width"]) -> Float[Tensor, "rows site"]:
        dictionary = self.dictionary
        every = dictionary.encode(x)
        written = every @ dictionary.weight
        error = y - written
        if dictionary.encoder.norm == "none":
            error = error - dictionary.bias
        found = [every if self._columns is None else every[:, self._columns]]
        if self._columns is not None:
            found.append(written - found[0] @ self.weight)
        skip = None if dictionary.skip is None else x @ dictionary.skip
        found += [error] if skip is None else [error - skip, skip]
        return torch.cat(found, 1)

    def by_part(self, products: Float[Tensor, "*rows site"]) -> Float[Tensor, "*rows parts"]:
        """Numbers of the site, added up part by part; behind the last part all features together."""
        n, width = self.features, self.weight.shape[1]
        vectors = products[..., n:].unflatten(-1, (-1, width)).sum(-1)
        return torch.cat([products[..., :n], vectors, products[..., self._every].sum(-1, keepdim=True)], -1)

    def taken(self, index: Int[np.ndarray, " units"], like: Tensor) -> Float[Tensor, "units site"]:
        """1 where a number of the site is a unit's, else 0."""
        found = like.new_zeros(len(index), self.width)
        for row, one in enumerate(index.tolist()):
            found[row, self.numbers(one)] = 1
        return found

    def moved(
        self,
        new: tuple[Float[Tensor, "examples positions site"], Int[Tensor, " rows"]],
        old: tuple[Float[Tensor, "examples positions site"], Int[Tensor, " rows"]],
        parts: Int[np.ndarray, " rows"],
    ) -> Float[Tensor, "rows positions width"]:
        """`change` of rows that each move one part of the site: a multiple of what it writes, or a vector.

        `new`, `old`: sites, and which of them is each row's: no row has a site of its own.
        """
        n, width, device = self.features, self.weight.shape[1], self.weight.device
        found = new[0].new_zeros(len(parts), new[0].shape[1], width)
        kind = np.maximum(parts, n - 1)  # all features at once, then the vectors one by one
        for block in np.unique(kind).tolist():
            rows = torch.as_tensor(np.flatnonzero(kind == block), device=device)
            if block < n:
                at = torch.as_tensor(parts, device=device)[rows]
                values = [site[which[rows], :, at] for site, which in (new, old)]
                found[rows] = (values[0] - values[1])[..., None] * self.weight[at][:, None]
            elif block == len(self.widths):
                values = [site[which[rows]][:, :, self._every] for site, which in (new, old)]
                found[rows] = self.change(values[0] - values[1])
            else:
                values = [site[which[rows]][:, :, self._vector(block)] for site, which in (new, old)]
                found[rows] = values[0] - values[1]
        return found

    def still(
        self, new: Float[Tensor, "examples positions site"], old: Float[Tensor, "examples positions site"]
    ) -> Bool[Tensor, "examples positions parts"]:
        """Where features are the same in both; of the error and what else is a vector it is not asked."""
        same = new[..., : self.features] == old[..., : self.features]
        beside = same.new_zeros(*same.shape[:2], 1 + len(self.widths) - self.features)
        return torch.cat([same, beside], -1)

    def narrowed(self, slope: Float[Tensor, "*rows whole"]) -> Float[Tensor, "*rows site"]:
        """The gradient of this site's numbers, for one of a site that tells all features apart.

        What is not told apart here gets that of y, as the error does.
        """
        if self._columns is None:
            return slope
        beside = slope[..., self.dictionary.size :]
        return torch.cat([slope[..., self._columns], beside[..., : self.weight.shape[1]], beside], -1)

    def explained(self, site: Float[Tensor, "*rows site"]) -> Float[Tensor, "*rows width"]:
        """y of a site: the sum of its parts (and b, where that does not move with the error)."""
        y = self.change(site)
        return y + self.dictionary.bias if self.dictionary.encoder.norm == "none" else y

    def change(self, delta: Float[Tensor, "*rows site"]) -> Float[Tensor, "*rows width"]:
        """The change of y for a change of the site."""
        n = self.features
        return delta[..., :n] @ self.weight + delta[..., n:].unflatten(-1, (-1, self.weight.shape[1])).sum(-2)

    def pulled(
        self, gradient: Float[Tensor, "*rows width"], later: Mapping[int, Tensor] | None = None
    ) -> Float[Tensor, "*rows site"]:
        """The gradient of the site's numbers for one of y; `later`: layer → that of what features write there, too.

        Raises:
            MethodError: features write to later layers, whose gradients are not given.
        """
        dictionary = self.dictionary
        if dictionary.onward is not None and later is None:
            raise MethodError(f"Gradients of {dictionary!r} are not known: its features write to several layers.")
        gradient = gradient.to(self.weight.dtype)
        features = gradient @ self.weight.T
        for layer, behind in (later or {}).items():
            features = features + behind.to(self.weight.dtype) @ self.onward(layer).T
        more = len(self.widths) - self.features
        return torch.cat([features, *[gradient] * more], -1)
