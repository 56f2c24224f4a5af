"""Coalitions: several parts of one layer's site patched together, each all the way or a share of it.

    v(S) = M(run with every unit of S replaced) − M(run),   S a set of units of one site

A coalition is a row of `rows.Rows` like a single unit, which is the coalition of that unit alone. Last-in effects, site
effects, Shapley values and joint paths are made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from veracausa.attribution.exact import exact
from veracausa.attribution.units import KINDS, Kind, Units, per_layer
from veracausa.errors import MethodError, UnitError

if TYPE_CHECKING:
    from veracausa.attribution.scores import Scores
    from veracausa.model import Model
    from veracausa.tasks.task import Task


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

    def wanted(self, examples: int) -> np.ndarray:
        """Which effects are asked for, [examples, coalitions]."""
        return super().wanted(examples) if self.asked is None else self.asked

    def digest(self) -> str:
        """A hash of the table, for files that must belong together."""
        parts = hashlib.sha256(super().digest().encode())
        for column in (self.weights, self.wanted(1) if self.asked is None else self.asked):
            parts.update(np.ascontiguousarray(column, dtype=np.float64).tobytes())
        return parts.hexdigest()[:16]


def coalition_scores(
    lm: Model,
    task: Task,
    table: Coalitions,
    *,
    ablation: str,
    direction: str,
    reference: Task | None,
    seed: int,
    out: str | Path | None,
    show_progress: bool,
) -> Scores:
    """v(S) of coalitions of units of one site each, as scores: in units of the metric, with the sign of `vc.exact`.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        table: the coalitions (`Coalitions.of(kind, layers, weights)`): the layer of each, and the share of the way to
            its replacement that each part goes: 0 stays, 1 is replaced, any other number is a point on (or beyond) the
            straight path. All 1: the whole site.
        ablation, direction, reference, seed, out, show_progress: as for `vc.exact`. With "resample" the whole site of
            an example has one donor, keyed by (seed, example, layer).

    Raises:
        UnitError: a layer or a number of parts that the model does not have. Others as for `vc.exact`.

    >>> whole_site = Coalitions.of("heads", [20], np.ones((1, lm.heads)))
    """
    require_joint(ablation)
    parts = require_kind(lm, table.kind)
    if table.weights.shape != (len(table), parts):
        raise UnitError(
            f"weights of {len(table)} coalitions of {table.kind} must be {len(table)} × {parts}: a layer of {lm.name} "
            f"has {parts} of them. These are {' × '.join(map(str, table.weights.shape))}."
        )
    return exact(lm, task, units=table, ablation=ablation, direction=direction, reference=reference, seed=seed, out=out,
                 show_progress=show_progress)  # fmt: skip


def require_joint(ablation: str) -> None:
    """MethodError for optimal constants, which are learned for one unit at a time."""
    if ablation == "optimal":
        raise MethodError(
            "ablation='optimal' is the best constant for one unit while all others stay; for several units together, "
            "or with later units held, it is not defined. Use counterfactual, zero, mean or resample."
        )


def require_kind(lm: Model, kind: str) -> int:
    """Parts of the site of a kind in one layer; UnitError if there is no such kind."""
    if kind not in KINDS:
        raise UnitError(f"{kind!r} is not a kind of unit with a site. Known: {', '.join(KINDS)}.")
    return max(1, per_layer(lm, kind))
