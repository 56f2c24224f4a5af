"""Coalitions: several parts of one site as one unit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.errors import UnitError
from veracausa.units.kinds import KINDS, Kind, indexed
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class Coalitions(Units):
    """A table of coalitions of units of one kind, in the place of single units.

    `weights`: [coalitions, parts]: the share of the way to its replacement that every part of the layer's site goes:
    a head, a neuron, a query, or the whole site of kinds with one unit a layer (1 column). `asked`: [examples,
    coalitions], which effects are wanted (None: all); the others stay NaN and cost nothing.
    """

    weights: np.ndarray
    asked: np.ndarray | None = None

    @classmethod
    def of(cls, kind: Kind, layers: np.ndarray, weights: np.ndarray, asked: np.ndarray | None = None) -> Coalitions:
        """Coalitions by their layers and weights, at all positions."""
        layers = np.asarray(layers)
        none = np.full(len(layers), -1)
        return cls(kind, layers, none, none, np.asarray(weights), asked)

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> Coalitions:
        asked = None if self.asked is None else self.asked[:, chosen]
        return Coalitions.of(self.kind, self.layer[chosen], self.weights[chosen], asked)

    @property
    def joint(self) -> bool:
        """Rows move several parts."""
        return True

    @property
    def names(self) -> list[str]:
        """What is moved, for messages: "3 heads of layer 9"."""
        counts = (self.weights != 0).sum(1)
        return [f"{n} {self.kind} of layer {layer}" for n, layer in zip(counts, self.layer, strict=True)]

    def shares(self, chosen: np.ndarray, parts: int) -> np.ndarray:
        """How far each part of the site goes in the chosen coalitions, [chosen, parts]."""
        return np.asarray(self.weights[chosen])

    def players(self) -> Units:
        """The units that any coalition moves, each once and whole."""
        row, part = np.nonzero(self.weights)
        index = part if indexed(self.kind) else np.full_like(part, -1)
        layer, index = np.unique(np.stack([self.layer[row], index]), axis=1)
        return Units(self.kind, layer, index, np.full(len(layer), -1))

    def wanted(self, examples: int) -> np.ndarray:
        """Which effects are asked for, [examples, coalitions]."""
        return super().wanted(examples) if self.asked is None else self.asked

    def digest(self) -> str:
        """A hash of the table, for files that must belong together."""
        parts = hashlib.sha256(super().digest().encode())
        for column in (self.weights, self.wanted(1) if self.asked is None else self.asked):
            parts.update(np.ascontiguousarray(column, dtype=np.float64).tobytes())
        return parts.hexdigest()[:16]


def require_kind(lm: Model, kind: str) -> int:
    """Parts of the site of a kind in one layer; UnitError if there is no such kind."""
    known = [name for name, one in KINDS.items() if not one.inside]
    if kind not in known and not kind.startswith("components."):
        raise UnitError(f"{kind!r} is not a kind of unit with a site. Known: {', '.join(known)}.")
    return max(1, per_layer(lm, kind))
