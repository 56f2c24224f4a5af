"""All runs of a training, one for each seed: kept after every step, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from veracausa.estimates.learned.descent import Descent, Gated, told

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.session import Session
    from veracausa.estimates.learned.training import Training
    from veracausa.model import Model
    from veracausa.progress import Tick


@dataclass(frozen=True, eq=False)
class Trained:
    """What every run found, [seeds, units], and its losses; `runs`: those of the first, with all learned along."""

    training: Training
    found: Float[Tensor, "seeds units"]
    losses: list[list[float]]
    runs: Gated

    @property
    def values(self) -> Float[Tensor, " units"]:
        """The mean over the runs."""
        return self.found.mean(0)

    @property
    def stderr(self) -> Float[Tensor, " units"] | None:
        """The values' standard error over the runs; None of a single one."""
        seeds = len(self.found)
        return self.found.std(0) / seeds**0.5 if seeds > 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """How far they are trained: losses, open share, and how much runs of other seeds agree."""
        learner, values = self.training.learner, self.values
        let = "share of a unit's change that is let through" if learner.gates == "noise" else None
        kind = "ranks of units" if learner.ranks else let or "probability that a unit's gate is open"
        share = "" if learner.ranks else f"; expected share kept {float(values.mean()):.3g}"
        wanted = f", wanted {self.training.wanted:.3g}" if share and learner.hold != "price" else ""
        said = f"{kind}{share}{wanted}; {told(self.losses[0], learner.loss)}"
        if len(self.found) > 1:
            return f"{said}; one mask for all pairs, so no error over them is known", self._agreement()
        return (
            f"{said}; one mask for all pairs and one seed, so no error is known (seeds=3 tells how far they differ)",
        )

    def _agreement(self) -> str:
        """Of runs that differ in their seeds."""
        order = np.stack([rankdata(row.double().numpy()) for row in self.found])
        count = self.training.count
        kept = [{*self.training.likeliest(row).tolist()} for row in self.found]
        ends = [row.sort(descending=True).values[count - 1 : count + 1] for row in self.found]
        tied = ", equal scores at the cut as they stand" if any(len(one.unique()) < len(one) for one in ends) else ""
        among = [(i, j) for i in range(len(kept)) for j in range(i)]
        same = np.mean([len(kept[i] & kept[j]) / len(kept[i] | kept[j]) for i, j in among])
        with np.errstate(invalid="ignore", divide="ignore"):
            agree = np.corrcoef(order)
        rho = np.mean([agree[i, j] for i, j in among])
        said = "none, since all scores of one are equal" if np.isnan(rho) else f"{rho:.2f}"
        return (
            f"{len(kept)} seeds: mean Spearman between two {said}, mean Jaccard of their {count:,} "
            f"highest {same:.2f}{tied}"
        )


def train(
    call: Session,
    made: Callable[[], Gated],
    training: Training,
    lm: Model,
    sizes: Sequence[int],
    tick: Tick,
    writers: Int[Tensor, " units"] | None = None,
) -> Trained:
    """Run every seed, from where kept pieces of `call` stand; `made`: runs with nothing learned along yet."""
    found, losses, first = [], [], made()
    for row, seed in enumerate(training.runs):
        runs = made() if row else first
        descent = Descent(runs, training, seed, training.initial(lm), writers)
        planned = training.schedule(sizes, seed)
        if call.pieces is not None and call.done[row].all():
            descent.unpack(call.values[row])
        for groups in planned[: len(descent.losses)]:
            tick(sum(map(runs.tokens, groups)) * training.learner.slopes)

        def keep(row: int = row, descent: Descent = descent) -> None:
            if call.pieces is not None:
                call.put(row, descent.pack())

        descent.run(planned, tick, keep)
        found.append(descent.values())
        losses.append(descent.losses)
    return Trained(training, torch.stack(found), losses, first)


def numbers(training: Training, beside: int = 0) -> tuple[int, int]:
    """The shape of what is kept of all runs; `beside`: how many numbers are learned beside the units' scores."""
    learner = training.learner
    return training.seeds, 3 + learner.steps + 3 * (len(training.table) + beside)
