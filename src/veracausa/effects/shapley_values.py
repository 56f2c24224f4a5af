"""Shapley values of the units of a site: the mean over all orders of what a unit adds when its turn comes.

    φ_u = mean over orders π of the site's units of  v(before u in π, and u) − v(before u in π)

v(S) is the effect of replacing the units S of one layer's site together (`coalitions`). First-in (E, v of u alone) and
last-in effects (F) are its two extremes; integrated gradients along the joint path are its Aumann–Shapley cousin. In
every order the differences add up to v(whole site): **efficiency** holds for each permutation, not only on average.

**Exact** where a site has at most `EXACT` units, or where all 2^k coalitions are no more than the permutations would
need: φ_u = Σ_S |S|! (k − |S| − 1)! / k! · (v(S, u) − v(S)). Else **sampled**: permutations in antithetic pairs (an
order and its reverse, so that a unit early in one is late in the other), drawn for each (seed, example, layer). The
standard error of a value is over the pairs. A coalition that several permutations meet is run once.
(Castro et al. 2009; Mitchell et al. 2022, 2104.12199.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation, AllUnits, Direction
from veracausa.cost import Cost
from veracausa.effects.asked import require_replaced
from veracausa.effects.coalitions import coalition_work
from veracausa.effects.draws import mean_of_draws
from veracausa.effects.exact import ExactWork
from veracausa.effects.instead import Instead, Noise
from veracausa.effects.replacements import require_joint
from veracausa.effects.site_effects import whole_sites
from veracausa.engine.work import gives
from veracausa.errors import MethodError
from veracausa.scores.completeness import Completeness
from veracausa.scores.scores import Scores
from veracausa.tasks.references import Reference, reference_set
from veracausa.units.coalitions import Coalitions, require_kind
from veracausa.units.dictionaries import in_parts
from veracausa.units.kinds import Kind
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Sites of at most this many units are computed exactly, by all their coalitions.
EXACT = 8
#: Entries of a table of coalitions that are run in one go; larger sites (neurons) go layer by layer.
_ENTRIES = 1 << 26


@dataclass(frozen=True, eq=False)
class ShapleyWork:
    """Shapley values of a table of units: a game for each layer that has some; see `shapley`."""

    lm: Model
    task: Task
    units: Units
    game: _Game
    ablation: Ablation | Instead
    direction: Direction
    reference: Task | None
    seed: int
    kind: ClassVar[str] = "exact"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.ablation != "counterfactual"

    @property
    def layers(self) -> np.ndarray:
        """Layers that have units."""
        return np.unique(self.units.layer)

    def parts(self) -> Iterator[tuple[list[int], list[np.ndarray], list[np.ndarray], ExactWork]]:
        """(layers, their orders, where their coalitions are, the work of all coalitions) of layers run together."""
        lm, task, game = self.lm, self.task, self.game
        for group in game.groups(self.layers, len(task)):
            orders = [game.orders(self.seed, len(task), layer) for layer in group]
            every, columns = game.table(self.units.kind, group, orders, len(task))
            work = coalition_work(lm, task, every, ablation=self.ablation, direction=self.direction,
                                  reference=self.reference, seed=self.seed)  # fmt: skip
            yield group, orders, columns, work

    def batches(self) -> int:
        """Buckets that are recorded."""
        return sum(work.batches() for *_, work in self.parts())

    def tokens(self) -> float:
        """Token-layers of all coalitions."""
        return sum(work.tokens() for *_, work in self.parts())

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Run all coalitions, and solve every layer's game."""
        task, table, layers = self.task, self.units, self.layers
        values, spread = torch.full((2, len(task), len(table)), float("nan"), dtype=self.lm.score_dtype)
        claimed, true = torch.zeros(2, len(layers), len(task), dtype=self.lm.score_dtype)
        cost, measured = Cost(), None
        for group, orders, columns, work in self.parts():
            measured, draws = work.by_draw(show_progress, out)
            cost = cost + measured.cost
            worth = torch.cat([torch.zeros(*draws.shape[:2], 1).to(draws), draws], 2)  # v(∅) = 0
            for layer, drawn, column in zip(group, orders, columns, strict=True):
                each, error, site = self.game.over_draws(worth, drawn, column)
                own, place = np.flatnonzero(table.layer == layer), int(np.searchsorted(layers, layer))
                parts = np.maximum(in_parts(self.lm, table).index[own], 0)
                values[:, own], spread[:, own] = each[:, parts], error[:, parts]
                claimed[place], true[place] = each.sum(1), site
        assert measured is not None  # a table has at least one layer
        every, settings = self.game.exact, dict(measured.settings)
        if isinstance(self.ablation, Noise):
            settings["noise_seed"] = self.ablation.seed
        note = "Shapley values: the mean over orders of a layer's units of what each adds, with the sign of E"
        return replace(
            measured,
            values=values,
            units=table,
            method="shapley",
            settings=settings | {"seed": self.seed, "permutations": "all" if every else self.game.permutations},
            cost=cost,
            completeness=Completeness(claimed, true),
            draw_stderr=spread,
            notes=(note, *measured.notes),
            verified="exact effects of all coalitions" if every else "exact effects of sampled coalitions",
        )


@gives(Scores)
def shapley(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    permutations: int = 16,
    ablation: Ablation | Instead = "counterfactual",
    direction: Direction = "noising",
    reference: Reference | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> ShapleyWork:
    """Shapley values of units within their sites (their layers), example by example.

    Args:
        lm, task, ablation, direction, reference, out, memory, show_progress: as for `vc.exact`; with "resample" a site
            has one donor, keyed by (seed, example, layer); your own tensors are needed of all units of the layer.
        units: a kind, names or a table, at all positions. The players are always all units of a layer.
        permutations: orders drawn for each example and layer, in pairs of an order and its reverse. Not used where the
            site is small enough for all coalitions (`settings["permutations"]` says "all").
        seed: of the orders (and of resampling).

    Returns:
        `Scores` of method "shapley" in units of the metric, with the sign of `vc.exact`; `draw_stderr` over pairs of
        permutations (0 where exact), and over draws of noise; `completeness`: Σ φ of a layer against the effect of
        patching its whole site.

    Cost: `permutations` times what `vc.exact` costs, less where orders meet the same coalitions (with 16 permutations
    of SmolLM2-135M's 9 heads a layer: 11 times); or 2^k − 1 rows a layer. With 2 permutations the 1,536 neurons of one
    layer are 3,071 rows an example: name neurons of few layers.

    Raises:
        MethodError: permutations not even, edges, units at single positions. Others as for `vc.exact`.

    >>> vc.effects.shapley(lm, task, units="heads", permutations=16).top(5)
    """
    lm, table = whole_sites(lm, task, units, "Shapley")
    require_joint(ablation)
    require_replaced(ablation, direction)
    game = _Game.of(lm, table.kind, permutations)
    return ShapleyWork(lm, task, table, game, ablation, direction, reference_set(lm, reference), seed)


@dataclass(frozen=True)
class _Game:
    """The game of one site: `players` of them, in `permutations` orders, or in all coalitions (`exact`)."""

    players: int
    permutations: int
    exact: bool

    @classmethod
    def of(cls, lm: Model, kind: str, permutations: int) -> _Game:
        if permutations < 2 or permutations % 2:
            raise MethodError(
                f"permutations={permutations}: permutations are drawn in pairs, an order and its reverse. Use an even "
                "number such as 16."
            )
        players = require_kind(lm, kind)
        every = players <= EXACT or (players < 32 and 2**players - 1 <= permutations * (players - 1) + 1)
        return cls(players, permutations, every)

    def groups(self, layers: np.ndarray, examples: int) -> Iterator[list[int]]:
        """Layers that are run together: as many as a table of coalitions should hold."""
        rows = 2**self.players if self.exact else examples * self.permutations * self.players
        size = max(1, _ENTRIES // (rows * self.players))
        for first in range(0, len(layers), size):
            yield layers[first : first + size].tolist()

    def orders(self, seed: int, examples: int, layer: int) -> Int[np.ndarray, "examples orders players"]:
        """Antithetic permutations of every example, an order at 2i and its reverse at 2i + 1; none where exact."""
        half = 0 if self.exact else self.permutations // 2
        drawn = np.empty((examples, 2 * half, self.players), dtype=np.int64)
        for example in range(examples):
            generator = np.random.default_rng([seed, example, layer])
            for pair in range(half):
                drawn[example, 2 * pair] = generator.permutation(self.players)
                drawn[example, 2 * pair + 1] = drawn[example, 2 * pair, ::-1]
        return drawn

    def table(
        self, kind: Kind, layers: list[int], orders: list[np.ndarray], examples: int
    ) -> tuple[Coalitions, list[np.ndarray]]:
        """All coalitions of some layers, each once, and where they are.

        Columns count from 1, 0 stands for the empty coalition. Exact: [2^k], the column of every bit mask. Sampled:
        [examples, orders, k + 1], the columns of what an order has gathered after so many units.
        """
        if self.exact:
            count = 2**self.players
            masks = (np.arange(1, count)[:, None] >> np.arange(self.players)) & 1
            weights = np.tile(masks.astype(bool), (len(layers), 1))
            columns = [np.concatenate([[0], np.arange(1, count) + i * (count - 1)]) for i in range(len(layers))]
            return Coalitions.of(kind, np.repeat(layers, count - 1), weights), columns
        rows: list[np.ndarray] = []
        asked: list[tuple[int, int]] = []
        layer_of: list[int] = []
        columns = []
        for layer, drawn in zip(layers, orders, strict=True):
            found: dict[bytes, int] = {}
            column = np.zeros((*drawn.shape[:2], self.players + 1), dtype=np.int64)
            for example, order in np.ndindex(*drawn.shape[:2]):
                inside = np.zeros(self.players, dtype=bool)
                for size, unit in enumerate(drawn[example, order], 1):
                    inside[unit] = True
                    key = inside.tobytes()
                    if key not in found:
                        found[key] = len(rows) + 1
                        rows.append(inside.copy())
                        layer_of.append(layer)
                    column[example, order, size] = found[key]
                    asked.append((example, found[key] - 1))
            columns.append(column)
        wanted = np.zeros((examples, len(rows)), dtype=bool)
        wanted[tuple(np.array(asked).T)] = True
        return Coalitions.of(kind, np.array(layer_of), np.stack(rows), wanted), columns

    def solve(
        self, worth: Float[Tensor, "examples columns"], orders: np.ndarray, columns: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """φ and its standard error over pairs [examples, players], and v(whole site) [examples]."""
        if self.exact:
            return self._enumerated(worth[:, torch.as_tensor(columns)])
        examples = torch.arange(len(worth))[:, None, None]
        gathered = worth[examples, torch.as_tensor(columns)]
        added = torch.zeros(orders.shape, dtype=worth.dtype)
        added.scatter_(2, torch.as_tensor(orders), gathered.diff(dim=2))
        pairs = added.unflatten(1, (-1, 2)).mean(2)
        mean, count = pairs.mean(1), pairs.shape[1]
        variance = (pairs - mean[:, None]).square().sum(1) / (count - 1)  # NaN for one pair
        return mean, (variance / count).sqrt(), gathered[:, 0, -1]

    def over_draws(
        self, worth: Float[Tensor, "draws examples columns"], orders: np.ndarray, columns: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the mean over draws of noise; its standard error is that over pairs and over draws together."""
        mean, error, site = self.solve(mean_of_draws(worth)[0], orders, columns)
        if len(worth) == 1:
            return mean, error, site
        _, spread = mean_of_draws(torch.stack([self.solve(each, orders, columns)[0] for each in worth]))
        assert spread is not None  # there are several
        return mean, (error.square() + spread.square()).sqrt(), site

    def _enumerated(self, worth: Float[Tensor, "examples masks"]) -> tuple[Tensor, Tensor, Tensor]:
        masks = np.arange(2**self.players)
        values = torch.empty(len(worth), self.players, dtype=worth.dtype)
        for unit in range(self.players):
            without = masks[(masks >> unit) & 1 == 0]
            share = [1 / (self.players * comb(self.players - 1, int(mask).bit_count())) for mask in without]
            added = worth[:, without | (1 << unit)] - worth[:, without]
            values[:, unit] = added @ torch.tensor(share, dtype=worth.dtype)
        return values, torch.zeros_like(values), worth[:, -1]
