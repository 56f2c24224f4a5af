"""What is trained: gates on the units of a table, which pairs in which order, and what headers say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from veracausa.errors import MethodError, UnitError
from veracausa.estimates.learned.learner import LEARNERS, Learner
from veracausa.scores.headers import start_settings

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.scores.scores import Scores


class Table(Protocol):
    """What gates are put on: units, edges, or weights."""

    @property
    def kind(self) -> str:
        """What they are."""
        ...

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """A hash of what they are."""
        ...


@dataclass(frozen=True, eq=False)
class Training:
    """How gates on the units of a table are trained: `count` of them are to be kept, `start` ranks them beforehand.

    At least `batch` pairs a step; `seed`: of all draws, of the first of `seeds` runs; each next one has the next.
    """

    table: Table
    learner: Learner
    count: int
    batch: int
    start: Scores | None
    seed: int
    seeds: int = 1

    @classmethod
    def of(
        cls,
        table: Table,
        learner: Learner,
        keep: float | int,
        batch: int,
        start: Scores | None,
        seed: int,
        seeds: int = 1,
    ) -> Training:
        """Check the options.

        Raises:
            MethodError: one is out of range. UnitError: `start` is about other units.
        """
        for name, value in (("batch", batch), ("seeds", seeds)):
            if value < 1:
                raise MethodError(f"{name}={value}: it must be positive.")
        count = require_keep(table, keep)
        if start is not None and start.units.digest() != table.digest():
            raise UnitError(
                f"start= has scores of {_told(start.units)}, but the mask is over {_told(table)}. "
                "Pass scores of the same units."
            )
        return cls(table, learner, count, batch, start, seed, seeds)

    @property
    def wanted(self) -> float:
        """The share of the units that is to be kept."""
        return self.count / len(self.table)

    @property
    def runs(self) -> tuple[int, ...]:
        """The seed of every run."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def schedule(self, sizes: Sequence[int], seed: int | None = None) -> list[list[int]]:
        """Groups of every step, given their sizes: at least `batch` pairs (or all), each once before any twice."""
        order = np.random.default_rng([self.seed if seed is None else seed]).permutation
        waiting: list[int] = []
        planned: list[list[int]] = []
        for _ in range(self.learner.steps):
            chosen: list[int] = []
            while sum(sizes[group] for group in chosen) < min(self.batch, sum(sizes)):
                if not waiting:
                    waiting = order(len(sizes)).tolist()
                chosen.append(waiting.pop())
            planned.append(chosen)
        return planned

    def passes(self, sizes: Sequence[int]) -> list[int]:
        """How often each group is run, forward and backward, in all steps of all runs."""
        visits = [group for seed in self.runs for step in self.schedule(sizes, seed) for group in step]
        return [self.learner.slopes * count for count in np.bincount(visits, minlength=len(sizes)).tolist()]

    def initial(self, lm: Model) -> Float[Tensor, " units"]:
        """Scores at the start: one value for all units, or spread by the rank of |mean score|."""
        made = torch.full((len(self.table),), self.learner.begin, dtype=lm.score_dtype, device=lm.device)
        if self.start is None:
            return made
        rank = torch.empty(len(self.table), dtype=torch.float64)
        rank[self.start.ranking()] = torch.arange(len(self.table), 0, -1, dtype=torch.float64)
        return made + self.learner.spread * torch.special.ndtri((rank - 0.5) / len(self.table)).to(made)

    def likeliest(self, values: Tensor) -> Int[Tensor, " kept"]:
        """The units that are kept in the end, the highest first."""
        return torch.argsort(values, descending=True, stable=True)[: self.count]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What headers say of one mask for all pairs; of the learner, what its preset (or the default) does not."""
        learner = self.learner
        preset = next((name for name, one in LEARNERS.items() if _parts(one) == _parts(learner)), None)
        own = {} if preset else {f"learner_{name}": value for name, value in _parts(learner).items()}
        return {
            "direction": "noising",
            "ablation": learner.ablation,
            "learner": preset or "composed",
            **own,
            "loss": learner.loss,
            "keep": self.count,
            **({"smallest": learner.smallest} if learner.hold == "budget" and learner.sizes != "fixed" else {}),
            "steps": learner.steps,
            "lr": learner.lr,
            "batch": self.batch,
            "draws": "pair" if learner.each else "step",
            **start_settings(self.start),
            "seed": self.seed,
            "seeds": self.seeds,
            "unit": "rank" if learner.ranks else "probability",
            "per_example": False,
        }


def _parts(learner: Learner) -> dict[str, Any]:
    """A learner's parts, but for what headers say of every one."""
    said = ("loss", "steps", "lr", "smallest", "ablation", "each")
    return {name: value for name, value in asdict(learner).items() if name not in said}


def require_keep(table: Table, keep: float | int, name: str = "keep") -> int:
    """How many units are to be kept; MethodError unless some, but not all, are."""
    count = max(1, round(keep * len(table))) if isinstance(keep, float) and 0 < keep < 1 else keep
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count < len(table):
        raise MethodError(
            f"{name}={keep!r}: give a share between 0 and 1 such as 0.1, or a whole number from 1 to {len(table) - 1} "
            f"(of {len(table)} {table.kind}; if all are kept there is nothing to find out)."
        )
    return count


def _told(table: Table) -> str:
    return f"{len(table):,} {table.kind}"
