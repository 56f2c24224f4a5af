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

from veracausa.attribution.optimal import Learning
from veracausa.circuits.evaluate import Outcomes, run_circuits
from veracausa.engine.cost import Cost
from veracausa.engine.measure import Measurement

if TYPE_CHECKING:
    from veracausa.circuits.circuit import Circuit
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What a circuit's run gave, pair by pair.

    `metric`: M(C); `kl`: KL from the clean distribution; `measured`: M of the bare clean run and of the run without
    edges (`corrupted`: the bare corrupted run where ablation is counterfactual).

    >>> found = vc.faithfulness(lm, task, circuit)
    >>> found.f, found.kl.mean(), found.ndf.mean()
    """

    edges: int
    share: float
    metric: Float[Tensor, " examples"]
    kl: Float[Tensor, " examples"]
    measured: Measurement
    cost: Cost
    ablation: str = "counterfactual"
    notes: tuple[str, ...] = ()

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

    def redrawn(self, draws: int, seed: int) -> Float[np.ndarray, " draws"]:
        """f over bootstrap draws of the pairs."""
        found = redrawn_ratios(self.metric - self.measured.corrupted, self.measured.gap, draws, seed)
        return np.asarray(found.numpy())

    def describe(self) -> str:
        """The figures in three lines, and notes."""
        spread = np.nanquantile(self.per_example.numpy(), [0.1, 0.5, 0.9])
        n = len(self.metric)
        error = f" ± {self.stderr():.3f}" if n > 1 else ""
        return "\n".join(
            [
                f"circuit of {self.edges:,} edges ({self.share:.2%}) · {n} pair{'s' * (n > 1)} · "
                f"{self.ablation} ablation",
                f"faithfulness f = {self.f:.3f}{error}   per pair {spread[0]:.3f} … {spread[1]:.3f} … {spread[2]:.3f} "
                "(10%, median, 90%)",
                f"KL {self.kl.mean():.4f}   NDF {self.ndf.mean():.3f}   M {self.metric.mean():+.3f}, full "
                f"{self.measured.clean.mean():+.3f}, none {self.measured.corrupted.mean():+.3f}",
                *(f"note    {note}" for note in self.notes),
            ]
        )

    def __repr__(self) -> str:
        return self.describe()


def faithfulness(
    lm: Model,
    task: Task,
    circuit: Circuit,
    *,
    ablation: str = "counterfactual",
    reference: Task | None = None,
    seed: int = 0,
    learning: Learning | None = None,
    show_progress: bool = True,
) -> Faithfulness:
    """Run a circuit on a task, every edge outside it ablated.

    Args:
        lm: the model that the circuit belongs to.
        task: pairs; held-out ones, if the circuit was found on others of the same task.
        circuit: which edges are kept.
        ablation: what ablated edges carry: "counterfactual" (the corrupted run), "resample" (another prompt's run),
            "zero", "mean" or "optimal" (constants learned for this circuit); see `circuits.ablations`.
        reference: the set that means, other prompts and optimal constants come from; default: the task itself.
        seed: of resampling and of learning.
        learning: steps and rate of "optimal".
        show_progress: show a progress bar.

    Raises:
        CircuitError: a circuit of another model or graph.
        GapError, ContractError, MethodError, NumericsError, OutOfMemoryError: see `run_circuits`.

    Cost: per pair at most about two bare forward passes (counterfactual and resample: on the positions that differ);
    small circuits less than one.

    >>> vc.faithfulness(lm, task, vc.select(scores, n=500), ablation="mean")
    """
    circuit.require_for(lm)
    found = run_circuits(
        lm,
        task,
        [circuit.mask],
        ablation=ablation,
        reference=reference,
        seed=seed,
        learning=learning,
        show_progress=show_progress,
    )
    return faithfulness_of(found, 0, len(circuit), lm.graph.size)


def faithfulness_of(found: Outcomes, number: int, edges: int, size: int) -> Faithfulness:
    """One circuit of a run, of `edges` out of `size`."""
    share, metric, kl = edges / size, found.metric[number], found.kl[number]
    return Faithfulness(edges, share, metric, kl, found.measured, found.cost, found.ablation, found.notes)


def ratio_stderr(above: Tensor, below: Tensor, draws: int = 1000, seed: int = 0) -> float:
    """Bootstrap standard error of mean(above) / mean(below) over pairs; NaN for a single pair."""
    return float(redrawn_ratios(above, below, draws, seed).std()) if len(above) > 1 else float("nan")


def redrawn_ratios(above: Tensor, below: Tensor, draws: int, seed: int) -> Float[Tensor, " draws"]:
    """mean(above) / mean(below) over bootstrap draws of the pairs; the same pairs for the same draws and seed."""
    which = torch.as_tensor(np.random.default_rng(seed).integers(len(above), size=(draws, len(above))))
    return above.double()[which].mean(1) / below.double()[which].mean(1)
