"""Counterfactual search: exact effects of whole sites on a pool of pairs (`searches` says what is looked for)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from veracausa.counterfactuals.searches import Search
from veracausa.effects.exact import exact
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import TaskError, UnitError
from veracausa.tasks.draw import shuffled
from veracausa.tasks.pool import merged
from veracausa.units.every_unit import all_units
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class SearchWork(Composed):
    """What `search` is about to do: exact effects of the units' whole `sites` on all pairs of a pool.

    `names`: the units searched for; `searched`: which pairs may be chosen.
    """

    lm: Model
    task: Task
    names: tuple[str, ...]
    sites: Units
    searched: np.ndarray
    kind: ClassVar[str] = "exact"

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """The effects of the sites."""
        return {"exact": exact.work(self.lm, self.task, units=self.sites)}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Search:
        """Compute the effects on every pair."""
        return Search(self.parts()["exact"].run(show_progress, out), self.task, self.names, self.searched)


@gives(Search)
def search(
    lm: Model,
    pool: Task,
    *,
    units: str | Sequence[str] | Units,
    held_out: Task | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> SearchWork:
    """The pair of a pool that shows each unit best, by its effect and by how it stands out, checked on other prompts.

    Args:
        lm: the model.
        pool: pairs from `vc.counterfactuals.pool`.
        units: names of a few units of one kind, e.g. ["a16.h0"], at all positions; their whole sites are computed.
        held_out: another pool, made from other prompts, to check on (default: half of the pool's prompts).
        seed: of the choice of held-out prompts.
        out: a folder to keep finished pieces in; an interrupted call continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Search`, effects in units of the metric.

    Raises:
        TaskError: a task that is no pool; UnitError: edges or single positions; others as for `vc.exact`.

    >>> pool = vc.counterfactuals.pool(lm, vc.tasks.ioi(lm, n=8))
    >>> vc.counterfactuals.search(lm, pool, units=["a16.h0"])
    """
    whole, searched = _split(pool, held_out, seed)
    return SearchWork(lm, whole, *_sites(lm, whole, units), searched)


def _split(pool: Task, held_out: Task | None, seed: int) -> tuple[Task, np.ndarray]:
    """All pairs, and which of them may be chosen."""
    for one in (pool, held_out):
        if one is not None and not all({"pair", "how", "own"} <= set(info) for info in one.info):
            raise TaskError(f"{one.name!r} is no pool of counterfactuals. Make one: vc.counterfactuals.pool(lm, task).")
    if held_out is not None:
        return merged(pool, held_out), np.arange(len(pool) + len(held_out)) < len(pool)
    prompts = list(dict.fromkeys(int(info["pair"]) for info in pool.info))
    chosen = set(shuffled(prompts, "search", seed)[: (len(prompts) + 1) // 2])
    return pool, np.array([int(info["pair"]) in chosen for info in pool.info])


def _sites(lm: Model, task: Task, units: str | Sequence[str] | Units) -> tuple[tuple[str, ...], Units]:
    """The names searched for, and all units of their layers."""
    table = resolve_units(lm, units, max(task.lengths))
    if table.kind == "edges" or table.positional:
        raise UnitError("Counterfactuals are searched for whole units: give no edges and no single positions.")
    every = all_units(lm, table.kind)
    return tuple(table.names), every[np.isin(every.layer, table.layer)]
