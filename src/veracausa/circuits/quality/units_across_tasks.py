"""Sets of units replaced on tasks, every one on every one: is what a behaviour rests on used by that behaviour alone?

    damage(c, t) = −E_t(set c) / gap_t          E: all of the set replaced at once, by runs of the model (`vc.exact`)

The same matrix as of circuits (`quality.specificity`), where M(∅) is the bare corrupted run. Random sets have as many
units of each layer as the set itself, drawn from the other units of its ranking.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from veracausa.choices import Ablation
from veracausa.circuits.quality.specificity import Specificity
from veracausa.cost import Cost
from veracausa.effects.exact import exact
from veracausa.effects.removing import members_of
from veracausa.engine.work import Composed, Work
from veracausa.errors import MethodError, UnitError
from veracausa.scores.about import require_about
from veracausa.scores.scores import Scores, task_header
from veracausa.tasks.measurement import Measurement
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: Kinds that are nodes of the graph, and are taken out by all their edges (`circuits.ranked`).
_NODES = ("heads", "mlps", "mixers", "mixer_heads")


def of_units(scores: Scores) -> bool:
    """Whether scores are of other parts than edges and nodes of the graph."""
    return not isinstance(scores.units, Edges) and scores.units.kind not in _NODES


@dataclass(frozen=True, eq=False)
class UnitSpecificityWork(Composed):
    """Exact effects of the same sets on every task; see the module.

    `sets`: a set and its random ones, one after another; `sizes`: of each set; `of`: the kind of units.
    """

    lm: Model
    tasks: dict[str, Task]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    sets: Groups
    of: str
    how: dict[str, Any]
    asked: dict[str, Any]
    kind: ClassVar[str] = "exact"

    @property
    def task(self) -> Task:
        """The first of them."""
        return next(iter(self.tasks.values()))

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """The effects on each task."""
        return {
            name: exact.work(self.lm, task, units=self.sets, **self.how)
            for name, task in self.tasks.items()
            if name not in given
        }

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Specificity:
        """Run all sets on every task."""
        found: dict[str, Scores] = {name: work.run(show_progress, out) for name, work in self.parts().items()}
        first, count = next(iter(found.values())), len(self.names)
        metrics = [(one.clean[:, None] + one.values).T.unflatten(0, (count, -1)) for one in found.values()]
        return Specificity(
            self.names,
            self.sizes,
            {name: task_header(task) for name, task in self.tasks.items()},
            tuple(one.contiguous() for one in metrics),
            tuple(Measurement(one.clean, one.corrupted) for one in found.values()),
            sum((one.cost for one in found.values()), start=Cost()),
            first.model,
            {**first.settings, **self.asked, "of": self.of},
            tuple(dict.fromkeys(note for one in found.values() for note in one.notes)),
        )


def unit_specificity(
    lm: Model,
    tasks: Mapping[str, Task],
    rankings: Mapping[str, Any],
    *,
    n: int | None,
    draws: int,
    ablation: Ablation,
    seed: int,
) -> UnitSpecificityWork:
    """The work of `vc.circuits.specificity` for rankings of units.

    Raises:
        MethodError: circuits beside rankings of units, n out of range, not enough other units for random sets, or
            learned constants. UnitError: units of several kinds.
    """
    if ablation == "optimal":
        raise MethodError("ablation='optimal' learns constants for every set. Take 'zero', 'mean' or 'counterfactual'.")
    groups, labels, sizes = [], [], []
    kinds = {one.units.kind if isinstance(one, Scores) else "circuits" for one in rankings.values()}
    if len(kinds) > 1:
        raise UnitError(f"These are {', '.join(sorted(kinds))}; a matrix of damage is of parts of one kind. Ask apart.")
    for number, (name, one) in enumerate(rankings.items()):
        require_about(lm, one)
        members = next(iter([members_of(one.units, task) for task in tasks.values()]))
        chosen = _strongest(name, one, n)
        drawn = [_others(name, one, chosen, np.random.default_rng([seed, number, draw])) for draw in range(draws)]
        for draw, own in enumerate((chosen, *drawn)):
            groups.append([part for unit in own for part in members[unit]])
            labels.append(f"{name} {draw}" if draw else name)
        sizes.append(len(chosen))
    how: dict[str, Any] = {"ablation": ablation, "seed": seed}
    asked = {"draws": draws, "seed": seed, "n": n}
    names = tuple(map(str, rankings))
    return UnitSpecificityWork(lm, dict(tasks), names, tuple(sizes), Groups.of(groups, labels), kinds.pop(), how, asked)


def _strongest(name: str, scores: Scores, n: int | None) -> Int[np.ndarray, " n"]:
    if n is None or not 1 <= n <= len(scores):
        raise MethodError(f"n={n}: {name!r} is a ranking; say how many of its {len(scores):,} units are taken")
    return np.array(scores.ranking()[:n])


def _others(
    name: str, scores: Scores, chosen: Int[np.ndarray, " n"], generator: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """As many units of each layer as the set has, drawn from those that are not in it."""
    layers, found = scores.units.layer, []
    for layer, count in zip(*np.unique(layers[chosen], return_counts=True), strict=True):
        pool = np.setdiff1d(np.flatnonzero(layers == layer), chosen)
        if len(pool) < count:
            raise MethodError(
                f"{name!r} takes {count:,} units of layer {layer}, and the ranking has {len(pool):,} others there, too "
                "few for random sets of the same profile. Take fewer (n=), or draws=0."
            )
        found.append(generator.choice(pool, count, replace=False))
    return np.concatenate(found)
