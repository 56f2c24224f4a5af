"""Circuits ablated on tasks, every one on every one (`quality.specificity` says what of)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from veracausa.choices import Ablation, CircuitParts
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.specificity import Specificity
from veracausa.circuits.quality.units_across_tasks import UnitSpecificityWork, of_units, unit_specificity
from veracausa.circuits.random_circuits import profiled
from veracausa.circuits.ranked import Ranked
from veracausa.circuits.runs.run_circuits import CircuitRuns, Outcomes
from veracausa.cost import Cost
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.work import Composed, gives
from veracausa.errors import CircuitError, MethodError, TaskError
from veracausa.scores.scores import Scores, task_header
from veracausa.storage.files import make_folder

if TYPE_CHECKING:
    from jaxtyping import Bool

    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class SpecificityWork(Composed):
    """What `specificity` is about to do: the same circuits taken out of the model on every task.

    `masks`: of every circuit itself and of its random ones; all but these edges are kept.
    """

    lm: Model
    tasks: dict[str, Task]
    circuits: tuple[str, ...]
    masks: tuple[tuple[Bool[np.ndarray, "readers writers"], ...], ...]
    how: dict[str, Any]
    asked: dict[str, Any]
    kind: ClassVar[str] = "circuits"

    @property
    def task(self) -> Task:
        """The first of them."""
        return next(iter(self.tasks.values()))

    @property
    def what(self) -> str:
        """In words."""
        return f"{len(self.circuits):,} circuits ablated on {len(self.tasks):,} tasks"

    def parts(self, given: Collection[str] = ()) -> dict[str, CircuitRuns]:
        """The runs on each task."""
        whole = all_edges_mask(self.lm.graph)
        left = [whole & ~mask for own in self.masks for mask in own]
        return {
            name: CircuitRuns.of(self.lm, task, left, **self.how)
            for name, task in self.tasks.items()
            if name not in given
        }

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Specificity:
        """Run all circuits on every task; `out`: a folder to keep finished buckets in."""
        if out is not None:
            make_folder(out)
        found: dict[str, Outcomes] = {}
        for name, part in self.parts().items():
            found[name] = part.run(show_progress, out)
        first = next(iter(found.values()))
        count = len(self.circuits)
        return Specificity(
            self.circuits,
            tuple(int(own[0].sum()) for own in self.masks),
            {name: task_header(task) for name, task in self.tasks.items()},
            tuple(one.metric.unflatten(0, (count, -1)).contiguous() for one in found.values()),
            tuple(one.measured for one in found.values()),
            sum((one.cost for one in found.values()), start=Cost()),
            first.model,
            {**first.settings, **self.asked},
            tuple(dict.fromkeys(note for one in found.values() for note in one.notes)),
        )


@gives(Specificity)
def specificity(
    lm: Model,
    tasks: Mapping[str, Task],
    circuits: Mapping[str, Circuit | Scores],
    *,
    n: int | None = None,
    draws: int = 3,
    ablation: Ablation = "counterfactual",
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> SpecificityWork | UnitSpecificityWork:
    """What ablating each circuit takes from each task: is a circuit of one task the circuit of all of them?

    Args:
        lm: the model.
        tasks: a name for each task → its pairs; held-out ones, if a circuit was found on others. They need not have
            anything in common: each has its own lengths, metric and gap.
        circuits: a name for each → a circuit, or a ranking of edges or nodes, of which the `n` strongest by |score| are
            taken (nodes with all their edges out). One that bears a task's name is that task's own. Or rankings of
            other units, all of them: neurons, features, components of weights, …; these are replaced together as by
            `vc.exact`, and random sets have as many others from each layer (`quality.units_across_tasks`).
        n: how many parts of a ranking are taken.
        draws: random circuits for each, with as many edges from each layer to each other one (nodes: of each layer).
        ablation: what the circuit's edges carry: "counterfactual", "resample", "zero" or "mean", see `vc.faithfulness`.
        seed: of random circuits and of resampling.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `Specificity`; damage is 1 − f of the circuit of all other edges (`vc.faithfulness`).

    Raises:
        TaskError, CircuitError: no tasks or circuits, or a circuit of another model. MethodError: a ranking without
        `n`, or n out of range. UnitError: scores of other parts. Others as for `vc.faithfulness`.

    Cost: on every task (1 + draws) runs of the whole graph for each circuit, on pairs that are recorded once.

    >>> vc.circuits.specificity(lm, {"ioi": ioi, "greater-than": years}, {"ioi": circuit}).damage
    """
    if not tasks:
        raise TaskError("There is no task to ablate circuits on: give {'ioi': task, …}.")
    if not circuits:
        raise CircuitError("There is no circuit to ablate: give {'ioi': circuit, …}.")
    if draws < 0:
        raise MethodError(f"draws={draws}: at least 0 are needed.")
    if any(isinstance(one, Scores) and of_units(one) for one in circuits.values()):
        return unit_specificity(lm, tasks, circuits, n=n, draws=draws, ablation=ablation, seed=seed)
    masks = []
    for number, (name, one) in enumerate(circuits.items()):
        own, parts = _mask(lm, name, one, n)
        drawn = [np.random.default_rng([seed, number, draw]) for draw in range(draws)]
        masks.append((own, *(profiled(lm.graph, own, generator, parts) for generator in drawn)))
    how: dict[str, Any] = {"ablation": ablation, "seed": seed}
    if ablation == "optimal":
        raise MethodError(
            "ablation='optimal' learns constants for every circuit and every random one. Take 'counterfactual', "
            "'resample', 'zero' or 'mean'."
        )
    asked = {"draws": draws, "seed": seed, "n": n}
    return SpecificityWork(lm, dict(tasks), tuple(map(str, circuits)), tuple(masks), how, asked)


def _mask(
    lm: Model, name: str, one: Circuit | Scores, n: int | None
) -> tuple[Bool[np.ndarray, "readers writers"], CircuitParts]:
    """The edges that ablating a circuit, or the strongest of a ranking, ablates."""
    if isinstance(one, Circuit):
        mask = one.require_for(lm).mask
        if not mask.any():
            raise CircuitError(f"{name!r} has no edges, so there is nothing in it to ablate.")
        return mask, "edges"
    ranked = Ranked.of(lm, one, "abs_mean")
    if n is None or not 1 <= n <= len(ranked):
        raise MethodError(f"n={n}: {name!r} is a ranking; say how many of its {len(ranked):,} {ranked.parts} are taken")
    return ranked.strongest(n), ranked.parts
