"""What ablation puts in the place of edges that a circuit does not keep: c_u for every writer u.

* counterfactual: u's write in the corrupted run of the same pair; no edges = the bare model's corrupted run;
* resample: u's write in the run of one other prompt of the reference set, of the same length, drawn for every (seed,
  pair); all writers take it from the same prompt, so no edges = the bare model's run on that prompt;
* zero: nothing. Output biases of attention are constants of the stream and stay, an MLP's own goes with it;
* mean: the mean of its writes over the reference set, position by position where all prompts of set and task have one
  length, else over all positions of all prompts;
* optimal: one vector a writer, learned for this very circuit (`circuits.runs.optimal_constants`).

Under the last three nothing is settled: a head whose inputs are all ablated still makes something of the stream of
constants, and a kept edge out of it carries the difference. Their scale begins at the circuit without any edge, in
place of the corrupted run. The reference set is, unless another task is given, the task's own prompts, both of a pair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.runs.optimal_constants import learned_constants, planned_learning
from veracausa.cost import Cost
from veracausa.effects.optimal_descent import Learning
from veracausa.effects.replacements import recorded, reference_runs
from veracausa.engine.ablated import Ablated, Constants, OtherRun
from veracausa.engine.circuit_forward import Wiring
from veracausa.engine.tape import Tape
from veracausa.engine.writes import SITES, writes_in_turn
from veracausa.errors import MethodError
from veracausa.scores.estimands import ABLATIONS
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Those under which a writer that nothing reaches writes what stands in its place (see `engine.ablated`).
SETTLED = ("counterfactual", "resample")


@dataclass(frozen=True, eq=False)
class AblatedEdges:
    """How edges are ablated in some circuits of one task.

    `task`: its corrupted prompts are those whose runs stand in for ablated edges. `constants`: for every circuit what
    each writer is replaced by, [writers, positions or 1, width]; None where another run is.
    """

    task: Task
    constants: list[Float[Tensor, "writers positions width"]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """See `engine.ablated`."""
        return self.constants is None

    def of(self, lm: Model, tape: Tape, circuit: int) -> Ablated:
        """What stands in the place of ablated edges of one circuit, in one bucket."""
        if self.constants is None:
            return OtherRun(lm.decoder, tape)
        return Constants(lm.decoder, tape, self.constants[circuit])


def require_ablation(kind: str) -> None:
    """Raise MethodError unless the ablation is known."""
    if kind not in ABLATIONS:
        raise MethodError(not_known("ablation", kind, ABLATIONS))


def none_kept(kind: str) -> str:
    """What the run without any edge is called."""
    return "corrupted" if kind == "counterfactual" else f"fully ablated ({kind})"


@dataclass(frozen=True, eq=False)
class Ablating:
    """An ablation as it is asked for. `source`: the reference set. `pairs`: those whose corrupted runs stand in."""

    lm: Model
    kind: str
    source: Task
    pairs: Task
    learning: Learning

    @classmethod
    def of(
        cls, lm: Model, task: Task, kind: str, reference: Task | None, seed: int, learning: Learning | None
    ) -> Ablating:
        """Check what is asked.

        Raises:
            MethodError: an unknown ablation; no other prompt of a pair's length to resample.
        """
        require_ablation(kind)
        source = task if reference is None else reference
        pairs = resampled(task, source, seed) if kind == "resample" else task
        return cls(lm, kind, source, pairs, learning or Learning(seed=seed))

    @property
    def settled(self) -> bool:
        """See `engine.ablated`."""
        return self.kind in SETTLED

    def tokens(self, wirings: Sequence[Wiring]) -> float:
        """Token-layers of preparing it for some circuits: the reference set's runs, and learning."""
        whole = reference_runs(self.lm, self.source, self.source, self.kind)
        if self.kind == "optimal":
            return whole + planned_learning(self.lm, self.source, wirings, self.learning)
        return whole if self.kind == "mean" else 0.0

    def prepared(self, masks: Sequence[np.ndarray], cost: Cost, show_progress: bool) -> AblatedEdges:
        """The same with its constants, for circuits `masks`; the model must be borrowed, without gradients."""
        lm, pairs, learning = self.lm, self.pairs, self.learning
        if self.settled:
            return AblatedEdges(pairs)
        if self.kind == "zero":
            nothing = torch.zeros(lm.graph.writers, 1, lm.width, dtype=lm.score_dtype, device=lm.device)
            return AblatedEdges(pairs, [nothing] * len(masks))
        if self.kind == "mean":
            return AblatedEdges(pairs, [mean_writes(lm, self.source, pairs.lengths, cost)] * len(masks))
        start = mean_writes(lm, self.source, (), cost)
        found, losses = learned_constants(lm, self.source, masks, start, learning, cost, show_progress)
        note = (
            f"optimal constants: one vector a writer, {learning.steps} steps of Adam at {learning.rate} on the KL of "
            f"{len(self.source)} pairs; mean KL with means → with what was learned: "
            + ", ".join(f"{before:.3f} → {after:.3f}" for before, after in losses)
        )
        return AblatedEdges(pairs, found, (note,))


def resampled(task: Task, reference: Task, seed: int) -> Task:
    """The task with another prompt of the reference set in place of every corrupted one, keyed by (seed, example).

    Raises:
        MethodError: there is none of that length but the pair's own.
    """
    prompts, chosen = sorted(set(reference.prompts)), []
    for i, own in enumerate(zip(task.clean, task.corrupted, strict=True)):
        donors = [prompt for prompt in prompts if len(prompt) == len(own[0]) and prompt not in own]
        if not donors:
            raise MethodError(
                f"ablation='resample' needs another prompt of the same length for every pair, but there is none of "
                f"{len(own[0])} tokens for pair {i} of {task.name!r}. Add pairs, pass reference=another task, or use "
                "ablation='mean'."
            )
        chosen.append(donors[int(np.random.default_rng([seed, i]).integers(len(donors)))])
    return dataclasses.replace(task, corrupted=tuple(chosen), corrupted_text=(), spans=())


@torch.no_grad()
def mean_writes(
    lm: Model, reference: Task, lengths: Sequence[int], cost: Cost
) -> Float[Tensor, "writers positions width"]:
    """Mean write of every writer over a set's prompts: per position where these and `lengths` agree, else over all.

    A mean is over prompts (and positions), never over writers; no `lengths`: over positions, whatever the prompts.
    """
    prompts = [*reference.prompts]
    aligned = len({*map(len, prompts), *lengths}) == 1 and len(lengths) > 0
    total: Tensor | None = None
    count = 0
    for _, state in recorded(lm, prompts, SITES, cost):
        written = writes_in_turn(lm.decoder, state, range(lm.graph.writers))
        found = torch.cat([_summed(part.to(lm.score_dtype), aligned) for part in written])
        total = found if total is None else total + found
        rows, positions = state.residual[0].shape[:2]
        count += rows * (1 if aligned else positions)
    if total is None:
        raise MethodError("ablation='mean' needs a reference set with at least one prompt.")
    return (total / count).to(lm.score_dtype)


def _summed(writes: Tensor, aligned: bool) -> Float[Tensor, "writers positions width"]:
    """Sum over examples, and over positions unless they correspond."""
    return writes.sum(1) if aligned else writes.sum((1, 2))[:, None]
