"""Does a circuit do what the model does? Everything outside it carries the corrupted run's writes.

    f(C) = (mean M(C) − mean M(∅)) / (mean M(full) − mean M(∅))      a ratio of means over pairs; f > 1 is overshoot
    NDF  = 1 − min(|M(full) − M(C)| / |M(full) − M(∅)|, 1)           pair by pair, between 0 and 1; its mean is over
                                                                     pairs whose gap is not exactly 0
    KL   = KL(clean output distribution ‖ the circuit's), at the last position, pair by pair

M(full) is the bare model's clean run, M(∅) its corrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation
from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged, Outcomes, Ran
from veracausa.cost import Cost
from veracausa.effects.optimal_descent import Learning
from veracausa.engine.work import gives
from veracausa.statistics.gaps import cautions
from veracausa.statistics.means import mean_of_known
from veracausa.statistics.ratios import error_of, influence
from veracausa.storage.files import write_tensors
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.metrics import compares_answers
from veracausa.words import counted, sentence, share

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float

    from veracausa.circuits.circuit import Circuit
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Faithfulness(Ran):
    """What a circuit's run gave, pair by pair.

    `metric`: M(C); `kl`: KL from the clean distribution; `measured`: M of the bare clean run and of the run without
    edges (`corrupted`: the bare corrupted run where ablation is counterfactual). `settings`: the ablation, its
    reference set and seed.

    >>> found = vc.faithfulness(lm, task, circuit)
    >>> found.f, found.kl.mean(), found.ndf.nanmean()
    """

    edges: int
    share: float
    metric: Float[Tensor, " examples"]
    kl: Float[Tensor, " examples"]
    measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def f(self) -> float:
        """Faithfulness: the share of the gap that the circuit restores, a ratio of means."""
        return float((self.metric - self.measured.corrupted).mean() / self.measured.gap.mean())

    @property
    def per_example(self) -> Float[Tensor, " examples"]:
        """(M(C) − M(∅)) / (M(full) − M(∅)) of each pair; wild where it is hardly separated, NaN where not at all."""
        return self._of_gap(self.metric - self.measured.corrupted, self.measured.gap)

    @property
    def ndf(self) -> Float[Tensor, " examples"]:
        """Normalised distance to the full model's metric, 1 = none; NaN for a pair whose gap is exactly 0."""
        return 1 - self._of_gap((self.measured.clean - self.metric).abs(), self.measured.gap.abs()).clamp(max=1)

    @staticmethod
    def _of_gap(part: Tensor, gap: Tensor) -> Tensor:
        """A share of each pair's own gap, which is not defined where there is none."""
        return torch.where(gap == 0, float("nan"), part / gap)

    def stderr(self) -> float:
        """Standard error of f over pairs, to first order (`statistics.ratios`).

        NaN where it is not known: a single pair, or a mean gap that is not told apart from 0.
        """
        return error_of(self.influence())

    def influence(self) -> Float[Tensor, " examples"]:
        """What each pair adds to n · (f − its true value), to first order; areas of f have the areas of these."""
        return influence(self.metric - self.measured.corrupted, self.measured.gap)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What must be told with f: see `statistics.gaps.cautions`."""
        compares = compares_answers(self.task["metric"])
        return cautions(self.measured.clean, self.measured.corrupted, compares=compares)

    def table(self) -> pd.DataFrame:
        """One row per pair: M of the circuit and of both bare runs, f, KL, NDF."""
        import pandas as pd

        return pd.DataFrame(
            {
                "pair": range(len(self.metric)),
                "metric": self.metric.numpy(),
                "full": self.measured.clean.numpy(),
                "none": self.measured.corrupted.numpy(),
                "f": self.per_example.numpy(),
                "KL": self.kl.numpy(),
                "NDF": self.ndf.numpy(),
            }
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """How much of the gap the circuit restores, and what to be told with it."""
        over = "; over 1 is overshoot: what works against the behaviour was left out" if self.f > 1 else ""
        restored = (
            f"The circuit of {self.edges:,} edges ({self.share:.2%}) restores {share(self.f, self.stderr())} of the "
            f"gap under {self.ablation} ablation ({counted(len(self.metric), 'pair')}){over}."
        )
        distance = f"Its prediction is {self.kl.mean():.4f} nats of KL from the model's."
        return (restored, distance, *map(sentence, self.cautions))

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        return write_tensors(path, FORMAT, *pack_runs((self,)))

    def describe(self) -> str:
        """The figures in three lines, and notes."""
        spread = np.nanquantile(self.per_example.numpy(), [0.1, 0.5, 0.9])
        n = len(self.metric)
        found = self.stderr()
        error = f" ± {found:.3f}" if found == found else ""
        return "\n".join(
            [
                f"circuit of {self.edges:,} edges ({self.share:.2%}) · {n} pair{'s' * (n > 1)} · "
                f"{self.ablation} ablation",
                f"faithfulness f = {self.f:.3f}{error}   per pair {spread[0]:.3f} … {spread[1]:.3f} … {spread[2]:.3f} "
                "(10%, median, 90%)",
                f"KL {self.kl.mean():.4f}   NDF {mean_of_known(self.ndf):.3f}   M {self.metric.mean():+.3f}, full "
                f"{self.measured.clean.mean():+.3f}, none {self.measured.corrupted.mean():+.3f}",
                *(f"caution {caution}" for caution in self.cautions),
                *(f"note    {note}" for note in self.notes),
            ]
        )

    def __repr__(self) -> str:
        return self.describe()


@gives(Faithfulness)
def faithfulness(
    lm: Model,
    task: Task,
    circuit: Circuit,
    *,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    seed: int = 0,
    learning: Learning | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> Judged[Faithfulness]:
    """Run a circuit on a task, every edge outside it ablated.

    Args:
        lm: the model that the circuit belongs to.
        task: pairs; held-out ones, if the circuit was found on others of the same task.
        circuit: which edges are kept.
        ablation: what ablated edges carry: "counterfactual" (the corrupted run), "resample" (another prompt's run),
            "zero", "mean" or "optimal" (constants learned for this circuit); see `circuits.runs.ablations`.
        reference: the set that means, other prompts and optimal constants come from; default: the task itself.
        seed: of resampling and of learning.
        learning: steps and rate of "optimal".
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        CircuitError: a circuit of another model or graph.
        GapError, ContractError, MethodError, NumericsError, OutOfMemoryError: see `run_circuits`.

    Cost: per pair at most about two bare forward passes (counterfactual and resample: on the positions that differ);
    small circuits less than one.

    >>> vc.faithfulness(lm, task, vc.select(scores, n=500), ablation="mean")
    """
    circuit.require_for(lm)
    how: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed, "learning": learning}
    runs = CircuitRuns.of(lm, task, [circuit.mask], **how)
    size = lm.graph.size
    what = f"the run of a circuit of {len(circuit):,} edges"
    return Judged(runs, lambda found: faithfulness_of(found, 0, len(circuit), size), what)


def faithfulness_of(found: Outcomes, number: int, edges: int, size: int) -> Faithfulness:
    """One circuit of a run, of `edges` out of `size`."""
    rest = found.measured, found.cost, found.model, found.task, found.settings, found.notes
    return Faithfulness(edges, edges / size, found.metric[number], found.kl[number], *rest)


FORMAT = "veracausa-faithfulness-2"


def pack_runs(found: tuple[Faithfulness, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of what circuits gave in the same runs: all but edges, metric and KL are the same in all."""
    one = found[0]
    header = {
        "edges": [each.edges for each in found],
        "share": [each.share for each in found],
        "notes": list(one.notes),
        **one.about,
    }
    tensors = {
        "metric": torch.stack([each.metric for each in found]),
        "kl": torch.stack([each.kl for each in found]),
        **one.measured.ends,
    }
    return header, tensors
