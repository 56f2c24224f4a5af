"""What every path works on: a recorded bucket of pairs, and where its scores are added up.

A path hands `Sums` gradients, row by row; contracting them with activation differences is done here, in the site's own
space, once for all paths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veracausa.effects.replacements import Replacement
from veracausa.engine.bucket import Bucket
from veracausa.engine.patches import Place, activation, value_change, where
from veracausa.engine.rule import Rule
from veracausa.engine.tape import State
from veracausa.progress import Tick
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from veracausa.estimates.method import Method


class EdgeWalks(Protocol):
    """How scores of edges are added up along a path: an `EdgeSums`."""

    def walk_point(self, bucket: PathBucket, sums: Sums, tick: Tick) -> None:
        """One backward pass through the patched run."""

    def walk_points(self, bucket: PathBucket, points: Any, sums: Sums, tick: Tick) -> None:
        """All points of a path over the input."""


@dataclass(frozen=True, eq=False)
class PathBucket(Bucket):
    """A recorded bucket, the run of it that is patched (`base`), and what its units move towards (`other`, `source`).

    `rule`: the backward rule of the gradients. `qk_exact`, `graddrop`: whether those of AtP* are asked for. `edges`:
    how scores of edges are added up, if units are edges.
    """

    base: State
    other: State
    units: Units
    source: Replacement
    method: Method
    rule: Rule
    qk_exact: bool
    graddrop: bool
    noising: bool
    edges: EdgeWalks | None = None
    _differences: dict[int, Tensor] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Where the units' activations are."""
        return self.units.place

    @property
    def gradient_place(self) -> Place:
        """Where gradients are taken: the heads' values if the pattern is recomputed exactly, else the units' place."""
        return "z" if self.qk_exact else self.place

    @property
    def layers(self) -> list[int]:
        """Layers that have units; of edges, the places of the stream (or sites) where sums are compared."""
        if self.edges is not None:
            return list(range(1 + self.lm.layers * (2 if self.method.path == "layer" else 1)))
        return sorted(set(self.units.layer.tolist()))

    def own(self, layer: int) -> Float[Tensor, "examples positions site"]:
        """The patched run's activations at the site of a layer."""
        return activation(self.base, self.place, layer).detach()

    def difference(self, layer: int) -> Float[Tensor, "examples positions site"]:
        """Δ of every unit of the site: replacement − own value."""
        if layer not in self._differences:
            with torch.no_grad():
                new = self.source.rows(self.tape, self.place, layer, self.every, None)
                self._differences[layer] = new - self.own(layer)
        return self._differences[layer]

    def of_layer(self, layer: int) -> np.ndarray:
        """Indices of the units of a layer in the table."""
        return np.flatnonzero(self.units.layer == layer)

    def scores(
        self, layer: int, gradient: Float[Tensor, "rows positions site"], example: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows units"]:
        """Δ · gradient of every unit of a layer, one row per gradient."""
        if self.qk_exact:
            return self._through_pattern(layer, gradient, example)
        return self.contract(layer, self.difference(layer)[example] * gradient)

    def contract(self, layer: int, products: Float[Tensor, "rows positions site"]) -> Float[Tensor, "rows units"]:
        """Sum products over each unit's part of the site, and over positions (or take the unit's own position)."""
        units = self.units[self.of_layer(layer)]
        products = products.to(self.lm.score_dtype)
        if units.kind == "neurons":
            per_position = products[..., units.index]
        elif parts := per_layer(self.lm, units.kind):
            per_position = products.unflatten(-1, (parts, -1)).sum(-1)[..., units.index]
        else:
            per_position = products.sum(-1, keepdim=True).expand(-1, -1, len(units))
        if not units.positional:
            return per_position.sum(1)
        scores = products.new_zeros(len(products), len(units))
        here = (units.position >= self.tape.start) & (units.position < self.tape.length)
        scores[:, here] = per_position[:, units.position[here] - self.tape.start, np.flatnonzero(here)]
        scores[:, units.position >= self.tape.length] = float("nan")
        return scores

    def _through_pattern(self, layer: int, gradient: Tensor, example: Tensor) -> Tensor:
        """(A_patched − A) v · ∂M/∂z: the attention pattern recomputed with the patched queries or keys (AtP*)."""
        at = where(self.lm.decoder, self.place, layer)
        delta = self.difference(layer)
        if self.place == "queries" or not self.units.positional:  # a query changes its own position's pattern only
            with torch.no_grad():
                change = value_change(self.lm.decoder, self.base, at, self.every, 0, delta)
            return self.contract(layer, change[example] * gradient)
        units = self.units[self.of_layer(layer)]
        scores = torch.full((len(gradient), len(units)), float("nan"), dtype=self.lm.score_dtype, device=delta.device)
        scores[:, units.position < self.tape.start] = 0
        for position in range(self.positions):  # a key at one position changes the pattern of all later ones
            chosen = np.flatnonzero(units.position == position + self.tape.start)
            if len(chosen):
                one = torch.zeros_like(delta)
                one[:, position] = delta[:, position]
                with torch.no_grad():
                    change = value_change(self.lm.decoder, self.base, at, self.every, 0, one)
                by_group = (change[example] * gradient).unflatten(-1, (self.lm.kv_heads, -1)).sum((1, 3))
                scores[:, chosen] = by_group[:, units.index[chosen]].to(scores)
        return scores


@dataclass(eq=False)
class Sums:
    """What a path adds up for one bucket.

    `values`: scores [examples, units]. `squares`: sums of squares over draws, for their standard error. `claimed`,
    `true`: both sides of the completeness equation [layers, examples]. `dropped`: |scores| with one layer's gradient
    dropped, summed over layers (graddrop).
    """

    values: Float[Tensor, "examples units"]
    claimed: Float[Tensor, "layers examples"]
    true: Float[Tensor, "layers examples"]
    squares: Float[Tensor, "examples units"] | None = None
    complete: bool = False

    @classmethod
    def empty(cls, bucket: PathBucket) -> Sums:
        """Zeros of a bucket's sizes, on its device."""
        like = {"dtype": bucket.lm.score_dtype, "device": bucket.lm.device}
        sizes = (len(bucket.tape.examples), len(bucket.units))
        return cls(torch.zeros(sizes, **like), *torch.zeros(2, len(bucket.layers), sizes[0], **like))  # type: ignore[call-overload]

    def add(self, bucket: PathBucket, layer: int, scores: Tensor, example: Tensor) -> None:
        """Add rows of scores of one layer's units to their examples."""
        chosen = torch.as_tensor(bucket.of_layer(layer), device=scores.device)
        rows = torch.zeros(len(self.values), len(chosen), dtype=scores.dtype, device=scores.device)
        self.values[:, chosen] += rows.index_add_(0, example, scores)
