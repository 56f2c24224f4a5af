"""Parts are ranked: once, or anew in rounds, each with what went before cut out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.arguments import shown
from veracausa.choices import CutAblation, CutRanking
from veracausa.cost import Cost, Step
from veracausa.effects.exact import exact
from veracausa.engine.measure import measured_runs
from veracausa.engine.work import Staged, gives
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute
from veracausa.progress import progress
from veracausa.pruning.cutting import Constants, constants_of, cut_of, cut_out, require_cuttable
from veracausa.pruning.measures import measured, require_seen
from veracausa.pruning.names import ABLATIONS, RANKINGS
from veracausa.pruning.part_ranking import PartRanking, ordered, strengths
from veracausa.pruning.parts import Parts
from veracausa.scores.scores import task_header
from veracausa.suggestions import not_known
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class RankWork(Staged):
    """What `rank` is about to do."""

    lm: Model
    tasks: tuple[Task, ...]
    parts: Parts
    how: str
    share: float
    rounds: int
    ablation: str
    seed: int
    alone: bool = field(default=True, init=False)

    @property
    def task(self) -> Task:
        """The first task."""
        return self.tasks[0]

    @property
    def kind(self) -> str:
        """The rate it runs at."""
        return "exact" if self.how.startswith("exact") else "gradients"

    @property
    def what(self) -> str:
        """In words."""
        return f"a ranking of {len(self.parts):,} parts by {self.how}"

    def steps(self) -> list[Step]:
        """What each task is forecast to cost, all rounds together."""
        return [self._step(task) for task in self.tasks]

    def _step(self, task: Task) -> Step:
        whole = float(sum(task.lengths) * self.lm.layers)
        tokens = whole * {"fgp": 2, "wanda": 1}.get(self.how, 0)
        made, _, other = self.how.partition("-")
        if made in ("exact", "atp"):
            for kind in self.parts.kinds:
                if self.how == "exact-zero" and kind == "layers":  # each is cut out, one by one
                    tokens += self.lm.layers * measured_runs(self.lm, task)
                    continue
                known = {"kv_groups": "heads", "layers": "mlps"}.get(kind, kind)
                work: Any = (
                    exact.work(self.lm, task, units=known, ablation=other)  # type: ignore[arg-type]
                    if made == "exact"
                    else attribute.work(self.lm, task, units=known, method="atp", baseline=other)  # type: ignore[arg-type]
                )
                tokens += work.tokens()
        total = tokens * self.rounds
        return Step(f"{self.how} on {task.name}", self.kind, total, total / whole)

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> PartRanking:
        """Rank, and where there are rounds, cut and rank again."""
        lm, parts, cost = self.lm, self.parts, Cost(full=sum(self.task.lengths) * self.lm.layers)
        origin, began = lm.header(), time.monotonic()
        constants: Constants = {}
        if self.rounds > 1 and self.ablation == "mean":
            constants = constants_of(lm, parts, [one for task in self.tasks for one in task.clean], cost)
        gone, first = np.zeros(len(parts), dtype=bool), list[int]()
        with progress(f"ranking {len(parts):,} parts by {self.how}", self.rounds, show_progress) as tick:
            for step in range(self.rounds):
                with cut_out(lm, cut_of(lm, parts, gone), constants):
                    values = self._values(cost, out)
                order = self._order(values, gone)
                until = self.share * (step + 1) / self.rounds if step + 1 < self.rounds else 1.0
                fits = np.cumsum(parts.parameters[[*first, *order]]) <= until * parts.total * (1 + 1e-12)
                first += order[: int(fits.sum()) - len(first)].tolist()
                gone[first] = True
                tick(1)
        cost.seconds = time.monotonic() - began
        settings = {"seed": self.seed, "rounds": self.rounds, "ablation": self.ablation, "share": self.share}
        headers = tuple(task_header(task) for task in self.tasks)
        return PartRanking(self.how, parts, values, np.array(first), headers, settings, origin, cost)

    def _values(self, cost: Cost, out: str | Path | None) -> Float[np.ndarray, "tasks parts"]:
        one: dict[str, Any] = {"seed": self.seed, "cost": cost, "show": False, "out": out}
        return np.stack([measured(self.lm, task, self.parts, self.how, **one) for task in self.tasks])

    def _order(self, values: np.ndarray, gone: np.ndarray) -> Int[np.ndarray, " left"]:
        """The parts that are left, the first to go first."""
        left = np.flatnonzero(~gone)
        found: np.ndarray = left[ordered(strengths(values[:, left], self.parts.parameters[left], self.how))]
        return found


@gives(PartRanking)
def rank(
    lm: Model,
    task: Task | Sequence[Task],
    *,
    how: CutRanking = "fgp",
    units: str = "neurons",
    share: float = 0.5,
    rounds: int = 1,
    ablation: CutAblation = "zero",
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> RankWork:
    """In which order parts of a model would be cut out, by what they are worth to a task, or to any of several.

    Args:
        lm: the model.
        task: the pairs that parts are ranked on, or several tasks: a part that any of them needs stays.
        how: what a part is worth: "fgp", "exact-mean", "exact-zero", "atp-mean", "atp-zero", "wanda", "magnitude" or
            "random"; see `pruning.measures`.
        units: "heads", "kv_groups", "neurons", "mlps", "attention", "layers"; or one of attention and one of MLPs
            together, "heads+neurons", compared by worth per parameter.
        share: of the parts' parameters that the rounds reach; of one round nothing depends on it.
        rounds: rank anew so often, each time with what went before cut out.
        ablation: what stands for a cut part in later rounds, "zero" or "mean".
        seed: of "random".
        out: a folder for finished pieces of exact effects: an interrupted call goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free).
        show_progress: show a progress bar.

    Raises:
        UnitError, MethodError: see each message. ArchitectureError: the parts cannot be cut out of these weights.

    Source: FGP's rule of classes, on decoders; Wanda 2306.11695; AtP 2310.10348.

    >>> vc.pruning.rank(lm, [ioi, years], how="fgp", units="neurons").cut(0.2)
    """
    tasks = tasks_of(task)
    if how not in RANKINGS:
        raise MethodError(not_known("ranking", how, RANKINGS))
    require_numbers(share, rounds, ablation)
    parts = Parts.of(lm, units)
    require_cuttable(lm, parts)
    require_seen(lm, parts, how)
    return RankWork(lm, tasks, parts, how, share, rounds, ablation, seed)


def tasks_of(task: Task | Sequence[Task]) -> tuple[Task, ...]:
    """One task or several.

    Raises:
        MethodError: there is none, or something else among them.
    """
    found = (task,) if isinstance(task, Task) else tuple(task)
    if not found or not all(isinstance(one, Task) for one in found):
        raise MethodError(f"Give a task, or a list of tasks; this is {shown(task)}.")
    return found


def require_numbers(share: float, rounds: int, ablation: str) -> None:
    """MethodError for a share, rounds or an ablation that mean nothing."""
    if not 0 < share < 1 or rounds < 1:
        raise MethodError(f"share={share}, rounds={rounds}: cut a share between 0 and 1, in at least one round.")
    if ablation not in ABLATIONS:
        raise MethodError(not_known("ablation of what is cut", ablation, ABLATIONS))
