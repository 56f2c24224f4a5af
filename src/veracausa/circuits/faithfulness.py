"""Does a circuit do what the model does? Everything outside it carries the corrupted run's writes.

    f(C) = (mean M(C) − mean M(∅)) / (mean M(full) − mean M(∅))      a ratio of means over pairs; f > 1 is overshoot
    NDF  = 1 − min(|M(full) − M(C)| / |M(full) − M(∅)|, 1)           pair by pair, between 0 and 1
    KL   = KL(clean output distribution ‖ the circuit's), at the last position, pair by pair

M(full) is the bare model's clean run, M(∅) its corrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.circuits.evaluate import run_circuits
from veracausa.engine.cost import Cost
from veracausa.engine.measure import Measurement

if TYPE_CHECKING:
    from veracausa.circuits.circuit import Circuit
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What a circuit's run gave, pair by pair.

    `metric`: M(C); `kl`: KL from the clean distribution; `measured`: M of both bare runs.

    >>> found = vc.faithfulness(lm, task, circuit)
    >>> found.f, found.kl.mean(), found.ndf.mean()
    """

    edges: int
    share: float
    metric: Float[Tensor, " examples"]
    kl: Float[Tensor, " examples"]
    measured: Measurement
    cost: Cost

    @property
    def f(self) -> float:
        """Faithfulness: the share of the gap that the circuit restores, a ratio of means."""
        return float((self.metric - self.measured.corrupted).mean() / self.measured.gap.mean())

    @property
    def per_example(self) -> Float[Tensor, " examples"]:
        """(M(C) − M(∅)) / (M(full) − M(∅)) of each pair; wild where a pair is hardly separated."""
        return (self.metric - self.measured.corrupted) / self.measured.gap

    @property
    def ndf(self) -> Float[Tensor, " examples"]:
        """Normalised distance to the full model's metric, 1 = none."""
        distance = (self.measured.clean - self.metric).abs() / self.measured.gap.abs()
        return 1 - distance.clamp(max=1)

    def stderr(self, draws: int = 1000, seed: int = 0) -> float:
        """Bootstrap standard error of f over pairs; NaN for a single pair."""
        return ratio_stderr(self.metric - self.measured.corrupted, self.measured.gap, draws, seed)

    def describe(self) -> str:
        """The figures in three lines."""
        spread = np.nanquantile(self.per_example.numpy(), [0.1, 0.5, 0.9])
        n = len(self.metric)
        error = f" ± {self.stderr():.3f}" if n > 1 else ""
        return "\n".join(
            [
                f"circuit of {self.edges:,} edges ({self.share:.2%}) · {n} pair{'s' * (n > 1)}",
                f"faithfulness f = {self.f:.3f}{error}   per pair {spread[0]:.3f} … {spread[1]:.3f} … {spread[2]:.3f} "
                "(10%, median, 90%)",
                f"KL {self.kl.mean():.4f}   NDF {self.ndf.mean():.3f}   M {self.metric.mean():+.3f}, full "
                f"{self.measured.clean.mean():+.3f}, none {self.measured.corrupted.mean():+.3f}",
            ]
        )

    def __repr__(self) -> str:
        return self.describe()


def faithfulness(lm: Model, task: Task, circuit: Circuit, *, show_progress: bool = True) -> Faithfulness:
    """Run a circuit on a task, everything outside it replaced by the corrupted run.

    Args:
        lm: the model that the circuit belongs to.
        task: pairs; held-out ones, if the circuit was found on others of the same task.
        circuit: which edges are kept.
        show_progress: show a progress bar.

    Raises:
        CircuitError: a circuit of another model or graph.
        GapError, ContractError, NumericsError, OutOfMemoryError: see `run_circuits`.

    Cost: per pair at most about two bare forward passes on the positions that differ; small circuits less than one.

    >>> vc.faithfulness(lm, task, vc.select(scores, n=500))
    """
    circuit.require_for(lm)
    found = run_circuits(lm, task, [circuit.mask], show_progress=show_progress)
    return Faithfulness(
        len(circuit), len(circuit) / lm.graph.size, found.metric[0], found.kl[0], found.measured, found.cost
    )


def ratio_stderr(above: Tensor, below: Tensor, draws: int = 1000, seed: int = 0) -> float:
    """Bootstrap standard error of mean(above) / mean(below) over pairs; NaN for a single pair."""
    if len(above) < 2:
        return float("nan")
    which = torch.as_tensor(np.random.default_rng(seed).integers(len(above), size=(draws, len(above))))
    return float((above.double()[which].mean(1) / below.double()[which].mean(1)).std())
