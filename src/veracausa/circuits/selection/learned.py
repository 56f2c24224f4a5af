"""Learned edge masks: which edges must stay for the output to stay, all others carrying what ablates them.

Every edge gets a gate in [0, 1], its weight in the circuit's run (`engine.soft_circuit`), drawn anew in every step; how
gates are drawn, held to a size and judged says a `Learner` (`estimates.learned.learner`), by name:

* **share**, **edge-pruning** (2406.16778): for one size; the latter with gates on nodes, too, and its own constraint;
* **top-k** (ours), **matryoshka** (2609.25518): for all sizes in one run;
* **adversarial** (ours): for one size, what is closed set by an adversary in every step;
* **ugs** (2409.09951): a price for every edge, and the constants that stand in for ablated writes learned along;
* **discogp** (2407.03779): a price for every edge, zero ablation, and nothing left without what is kept;
* **bottleneck** (after 2001.00396): a price for every nat that comes through noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from veracausa.choices import LearnedBy, MaskLoss
from veracausa.circuits.runs.ablations import SETTLED, Ablating, mean_writes
from veracausa.circuits.runs.recorded import LearnedWrites, Recorded, planned_record, record
from veracausa.circuits.runs.run_circuits import ablation_settings
from veracausa.circuits.runs.tapes import circuit_buckets, step_groups
from veracausa.circuits.selection.gated_edges import gated_edges
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.estimates.learned.learner import Learner, learner_of
from veracausa.estimates.learned.trained import numbers, train
from veracausa.estimates.learned.training import Training
from veracausa.scores.scores import Scores, assemble
from veracausa.tasks.references import Reference, reference_set
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges

if TYPE_CHECKING:
    from veracausa.circuits.selection.gated_edges import GatedEdges
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Pairs a step.
BATCH = 4


@dataclass(frozen=True, eq=False)
class LearnWork:
    """What `learn` is about to do; `how`: what ablates edges (None: the corrupted run)."""

    lm: Model
    task: Task
    training: Training
    edges: Edges
    reference: Task | None
    how: Ablating | None
    kind: ClassVar[str] = "edge gradients"

    @property
    def what(self) -> str:
        """In words."""
        return f"mask over {len(self.edges):,} edges"

    @property
    def learner(self) -> Learner:
        """How it learns."""
        return self.training.learner

    @property
    def shares(self) -> bool:
        """Whether what both prompts share need not be run."""
        return self.learner.ablation in SETTLED

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        return circuit_buckets(self.lm, self.task, self.shares, most=self.training.batch)

    @cached_property
    def steps(self) -> list[tuple[int, tuple[int, ...]]]:
        """The groups that steps take, whatever the memory; those that are run together are parts of them."""
        return step_groups(self.lm, self.task, self.shares, self.training.batch, pairs=self.training.batch)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: the recorded runs, all steps, and at most two runs of what is kept."""
        task, layers = self.task, self.lm.layers
        recorded, behind = planned_record(self.lm, task, self.training.batch, self.shares)
        passes = self.training.passes([len(members) for _, members in self.steps])
        often = {pair: count for count, (_, members) in zip(passes, self.steps, strict=True) for pair in members}
        learned = sum(
            2 * layers * len(own) * (task.lengths[own[0]] - start) * often[own[0]] for start, own in self.groups()
        )
        before = 0.0 if self.how is None else 2 * layers * sum(task.lengths) + self._preparing
        return recorded + learned + 2 * behind + before

    @property
    def _preparing(self) -> float:
        """Token-layers of the reference set's runs; constants that are learned along begin at means."""
        how = self.how
        return 0.0 if how is None else replace(how, kind="mean" if how.kind == "optimal" else how.kind).tokens([])

    @property
    def settings(self) -> dict[str, Any]:
        """What headers say of it."""
        own = ablation_settings(self.task, self.learner.ablation, self.reference, self.training.seed, None)
        return {**self.training.settings, **(own if self.how else {})}

    @property
    def beside(self) -> int:
        """How many numbers are learned beside the edges' scores."""
        graph = self.lm.graph
        return graph.writers * (int(self.learner.nodes) + self.lm.width * (self.learner.ablation == "optimal"))

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Learn the mask; every step is kept."""
        lm, training, edges = self.lm, self.training, self.edges
        shape, asked = numbers(training, self.beside), {"units": edges.digest(), **self.settings}
        with (
            session(
                lm, self.task, shape, dtype=torch.float64, out=out, name="learned-edges", asked=asked,
                measured=self.how is not None, show=show_progress,
            ) as call,
            attention_function(lm.decoder, SUFFIX),
        ):  # fmt: skip
            with call.anew():
                recorded, means = self._recorded(call), self._means(call)
            whole = gated_edges(recorded, edges, self.learner.loss, self.steps)
            sizes = [len(whole.pairs(group)) for group in range(len(whole.groups))]
            total = sum(count * whole.tokens(group) for group, count in enumerate(training.passes(sizes)))
            writers = torch.as_tensor(edges.writer, device=lm.device) if self.learner.nodes else None
            with call.ticking(self.what, total):
                found = train(call, lambda: whole.along_with(means), training, lm, sizes, call.tick, writers)
            kept = training.likeliest(found.values).numpy()
            with call.anew():
                kl, metric = cast("GatedEdges", found.runs).kept(kept)  # with the constants of the first run
        return assemble(
            call,
            found.values.to(lm.score_dtype).expand(len(self.task), -1).contiguous(),
            edges,
            measured=call.measured if self.how else recorded.measured,
            method=_NAMES.get(self.settings["learner"], f"edge-{self.settings['learner']}"),
            settings=self.settings,
            signed=False,
            draw_stderr=None if found.stderr is None else found.stderr.to(lm.score_dtype).expand(len(self.task), -1),
            notes=(
                *found.notes,
                f"with the {training.count:,} likeliest edges and no others: KL {kl:.3f}, metric {metric:+.3f}",
            ),
        )

    def _recorded(self, call: Session) -> Recorded:
        """All pairs, and what stands in the place of ablated edges; M of both bare runs is held against kept pieces."""
        how = self.how
        if how is not None and how.kind == "optimal":  # recorded with nothing in its place, until it is learned
            how = Ablating.of(self.lm, self.task, "zero", None, 0, None)
        found = record(self.lm, self.task, call.cost, most=self.training.batch, how=how)
        if self.how is None:
            call.hold(found.measured)
        return found

    def _means(self, call: Session) -> LearnedWrites | None:
        """Where constants that are learned along begin."""
        if self.how is None or self.how.kind != "optimal":
            return None
        return LearnedWrites.of_means(self.lm, mean_writes(self.lm, self.how.source, (), call.cost))


#: Learner → method, where it is not "edge-" and its name.
_NAMES = {"share": "edge-mask", "edge-pruning": "edge-pruning"}


@gives(Scores)
def learn(
    lm: Model,
    task: Task,
    *,
    how: LearnedBy | Learner = "share",
    keep: float | int = 0.02,
    steps: int | None = None,
    lr: float | None = None,
    loss: MaskLoss | None = None,
    smallest: float | None = None,
    batch: int = BATCH,
    start: Scores | None = None,
    reference: Reference | None = None,
    seed: int = 0,
    seeds: int = 1,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> LearnWork:
    """Learn which edges must be kept when all others are ablated; see the module.

    Args:
        lm: the model.
        task: the pairs to learn on; evaluate on others.
        how: "share", "top-k", "matryoshka", "adversarial", "edge-pruning", "ugs", "discogp", "bottleneck",
            "node-pruning" or "subnetwork-probing", or parts of your own, a `vc.estimates.Learner`. "top-k" and
            "matryoshka" are for all sizes, the others for one, or for a price.
        keep: the share of the edges to keep (a float under 1), or their number (an int). For all sizes (and for a
            price) only the size at which the notes say what the kept edges give.
        steps: optimiser steps (None: the learner's, 300 unless its paper has another number).
        lr: Adam's step size for the gates' scores (None: the learner's).
        loss: "kl", "metric", "bounded", "margin" or "answers" (`estimates.learned.losses`; None: the learner's).
        smallest: the smallest share that is drawn where all sizes are (None: the learner's, 0.001).
        batch: pairs a step, at least, in whole groups as for `vc.estimates.learn_mask`.
        start: scores of all edges, by any method, whose ranking the gates start from.
        reference: other pairs whose writes mean, resample and optimal ablation are made of.
        seed: of the order of pairs, of the gates' noise and of the sizes; a draw depends on (seed, step, pair) only.
        seeds: so many runs, of `seed` and those after it; the values are their mean, `draw_stderr` its error.
        out: a folder to keep every finished step in; the same call goes on from there.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Scores` of all edges, magnitudes only, one row repeated for all pairs: each edge's probability that its gate is
        open, or, where gates compete for places, ranks in (0, 1]. `vc.curve` and `vc.select` take them. The notes say
        how the loss fell, how much runs of several seeds agree, and what the `keep` likeliest edges give when all
        others are ablated.

    Raises:
        MethodError: an option out of range, or parts that mean nothing together. UnitError: `start` is not about all
            edges.
        GapError, NumericsError, OutOfMemoryError, ContractError, FileError: as for `vc.attribute`.

    Cost: seeds × steps × batch runs of the whole graph with their gradient, about three forward passes each;
    adversarial three times that.

    >>> mask = vc.circuits.learn(lm, task, keep=0.02, start=vc.attribute(lm, task, units="edges", method="eap-ig"))
    >>> vc.faithfulness(lm, held_out, vc.select(mask, n=1400))
    """
    learner, edges = learner_of(how, steps=steps, lr=lr, loss=loss, smallest=smallest), all_edges(lm)
    training = Training.of(edges, learner, keep, batch, start, seed, seeds)
    others = reference_set(lm, reference)
    ablating = None
    if learner.ablation != "counterfactual":
        ablating = Ablating.of(lm, task, learner.ablation, others, seed, None)
    return LearnWork(lm, task, training, edges, others, ablating)
