"""Sheaves are found: gates on all weights and edges, closed ones at zero, until what is open does the task alone.

**DiscoGP** (2407.03779): gates are 0 or 1, drawn as σ((s + logit U) / T) over ½ and learned by that sigmoid's slope.
The loss is the cross-entropy of the answer, plus that of what is left out (every gate turned round) to an even chance,
plus λ times the mean of σ(s). Weights come first (T = .01, λ from 1 to 1,000), then, with their gates fixed at s > 0,
edges (T = 1, λ from 1 to 100 in a fifth of the steps, to .01 in the next fifth, then .01). Otherwise than there: the
two losses of weights make one step instead of two; all scores begin at 1 exactly; Adam does not decay them.

**joint** (ours): both at once, under one loss, each with its own temperature and λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import MaskLoss, SheafBy
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.runs.ablations import Ablating
from veracausa.circuits.runs.recorded import Recorded, planned_record, record
from veracausa.circuits.runs.tapes import circuit_buckets, step_groups
from veracausa.circuits.selection.gated_edges import gated_edges
from veracausa.circuits.selection.learned import BATCH
from veracausa.circuits.sheaves.found import RUNS, Sheaf
from veracausa.circuits.sheaves.gated import GatedSheaf, ran
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import attention_function, precision_of
from veracausa.engine.masked_weights import Weights, gates_of
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import MethodError, NumericsError
from veracausa.estimates.learned.descent import Descent, told
from veracausa.estimates.learned.learner import LEARNERS, Learner
from veracausa.estimates.learned.training import Training
from veracausa.scores.scores import task_header
from veracausa.suggestions import not_known
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Gates on weights, as published.
WEIGHTS = replace(LEARNERS["discogp"], temperature=0.01, steps=6250, warm_up=1.0, peak=1000.0, last_price=1.0)
#: How → what is learned, stage by stage.
STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sequential": (("weights",), ("edges",)),
    "joint": (("edges", "weights"),),
    "weights": (("weights",),),
}
#: Numbers of a stage that are kept after every step; of more, after so many times fewer.
_KEPT = 10_000_000


@dataclass(frozen=True, eq=False)
class SheafWork:
    """What `sheaf` is about to do."""

    lm: Model
    task: Task
    edges: Edges
    weights: Weights
    how: str
    learners: dict[str, Learner]
    batch: int
    seed: int
    kind: ClassVar[str] = "edge gradients"

    @property
    def what(self) -> str:
        """In words."""
        return f"sheaf of {len(self.weights):,} weights and {len(self.edges):,} edges"

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """What is learned, one after the other."""
        return STAGES[self.how]

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        return circuit_buckets(self.lm, self.task, False, most=self.batch)

    @cached_property
    def steps(self) -> list[tuple[int, tuple[int, ...]]]:
        """The groups that steps take, whatever the memory."""
        return step_groups(self.lm, self.task, False, self.batch, pairs=self.batch)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: the bare and the recorded runs, every stage's steps, and at most four runs of what is kept."""
        lm, task = self.lm, self.task
        recorded, behind = planned_record(lm, task, self.batch, False)
        learned = 0.0
        for stage in self.stages:
            passes = self._training(stage).passes([len(members) for _, members in self.steps])
            each = [len(members) * task.lengths[members[0]] for _, members in self.steps]
            run = sum(often * own for often, own in zip(passes, each, strict=True))
            learned += (2 + ("weights" in stage)) * lm.layers * run
        return recorded + learned + len(RUNS) * behind + 2 * lm.layers * sum(task.lengths)

    @property
    def settings(self) -> dict[str, Any]:
        """What headers say of it."""
        learners = {name: asdict(self.learners[name]) for name in {name for stage in self.stages for name in stage}}
        return {"ablation": "zero", "how": self.how, **learners, "batch": self.batch, "seed": self.seed}

    def _parts(self, stage: Sequence[str]) -> list[tuple[Learner, int]]:
        """The learner and the number of each sort of gates in a stage."""
        counts = {"edges": len(self.edges), "weights": len(self.weights)}
        return [(self.learners[name], counts[name]) for name in stage]

    def _training(self, stage: Sequence[str]) -> Training:
        parts = self._parts(stage)
        table = _Gates(sum(count for _, count in parts))
        return Training(table, parts[-1][0], len(table) - 1, self.batch, None, self.seed)

    def _numbers(self, stage: Sequence[str]) -> int:
        """How many numbers are kept of a stage."""
        parts = self._parts(stage)
        return 1 + 2 * len(parts) + parts[-1][0].steps + 3 * sum(count for _, count in parts)

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Sheaf:
        """Learn every stage, from where kept pieces stand; then run what is open, and what is not."""
        lm, task = self.lm, self.task
        shape = len(self.stages), max(map(self._numbers, self.stages))
        asked = {"weights": self.weights.digest(), "edges": self.edges.digest(), "settings": self.settings}
        with (
            session(
                lm, task, shape, dtype=torch.float64, out=out, name="sheaf", asked=asked, show=show_progress
            ) as call,
            attention_function(lm.decoder, SUFFIX),
        ):
            opened, notes = dict[str, Tensor](), list[str]()
            recorded = _recorded(lm, task, self.batch, call)
            with call.ticking(self.what, self.tokens()):
                for row, stage in enumerate(self.stages):
                    scores, losses = self._learn(call, recorded, row, stage, opened.get("weights"))
                    kept = (scores > 0).split([count for _, count in self._parts(stage)])
                    opened |= dict(zip(stage, kept, strict=True))
                    loss = self.learners[stage[-1]].loss
                    one = "one sheaf for all pairs and one seed, so no error is known"
                    notes.append(f"{' and '.join(stage)}: {told(losses, loss)}; {one}")
            mask, gates = self._kept(opened)
            return judged(call, recorded, self.weights, gates, mask, self.settings, tuple(notes))

    def _learn(
        self, call: Session, recorded: Recorded, row: int, stage: Sequence[str], fixed: Tensor | None
    ) -> tuple[Tensor, list[float]]:
        """Scores of a stage's gates, and the losses of its steps."""
        lm, training, parts = self.lm, self._training(stage), self._parts(stage)
        loss = training.learner.loss
        groups = gated_edges(recorded, self.edges, loss, self.steps).groups
        own = None if fixed is None else fixed.to(lm.score_dtype)
        runs = GatedSheaf(recorded, self.edges, self.weights, loss, groups, stage, own)
        like: dict[str, Any] = {"dtype": lm.score_dtype, "device": lm.device}
        begin = torch.cat([torch.full((count,), learner.begin, **like) for learner, count in parts])
        descent = Descent(runs, training, self.seed, begin, parts=parts)
        planned = training.schedule([len(runs.pairs(group)) for group in range(len(groups))])
        if call.pieces is not None and call.done[row].all():
            descent.unpack(call.values[row, : descent.numbers])
        every = 1 + descent.numbers // _KEPT

        def keep() -> None:
            done = len(descent.losses)
            if call.pieces is not None and (done % every == 0 or done == len(planned)):
                padded = torch.zeros(call.values.shape[1], dtype=torch.float64)
                padded[: descent.numbers] = descent.pack()
                call.put(row, padded)

        descent.run(planned, call.tick, keep)
        return descent.scores.detach(), descent.losses

    def _kept(self, opened: dict[str, Tensor]) -> tuple[np.ndarray, Tensor]:
        """The mask of open edges (all where they are not learned), and gates of weights."""
        edges, weights = opened.get("edges"), opened["weights"].to(self.lm.score_dtype)
        if edges is None:
            return all_edges_mask(self.lm.graph), weights
        return self.edges[edges.cpu().numpy()].mask, weights


@dataclass(frozen=True)
class _Gates:
    """As many gates as are learned in a stage, for `Training`."""

    count: int
    kind: str = "gates"

    def __len__(self) -> int:
        return self.count

    def digest(self) -> str:
        """How many there are."""
        return str(self.count)


def _recorded(lm: Model, task: Task, batch: int, call: Session) -> Recorded:
    """All pairs, with zero in the place of ablated edges."""
    with call.anew():
        return record(lm, task, call.cost, most=batch, how=Ablating.of(lm, task, "zero", None, 0, None))


def judged(
    call: Session,
    recorded: Recorded,
    weights: Weights,
    gates: Float[Tensor, " weights"],
    mask: Bool[np.ndarray, "readers writers"],
    settings: dict[str, Any],
    notes: tuple[str, ...],
) -> Sheaf:
    """A sheaf, with all runs of `found.RUNS`.

    Raises:
        NumericsError: a run has NaN or infinity.
    """
    lm, whole = recorded.lm, all_edges_mask(recorded.lm.graph)
    others = None if (mask == whole).all() else whole & ~mask
    asked = [(gates, mask), (1 - gates, others), (gates, None), (None, mask)]
    with call.anew():
        runs = [ran(recorded, weights, *one) for one in asked]
    metric, kl = (torch.stack([run[k] for run in runs]) for k in (0, 1))
    if not (torch.isfinite(metric).all() and torch.isfinite(kl).all()):
        raise NumericsError("NaN or infinity in a run of a sheaf. Run the model in float32.")
    header, masks = task_header(call.task), {name: one.bool().cpu() for name, one in weights.cut(gates).items()}
    reader, writer = np.nonzero(mask)
    about: dict[str, Any] = {"model": call.origin, "task": header, "method": "sheaf", "settings": {"ablation": "zero"}}
    circuit = Circuit.of(lm.graph, writer, reader, **about)
    notes = (*notes, *precision_of(lm.decoder).notes)
    return Sheaf(circuit, masks, metric, kl, recorded.measured, call.cost, call.origin, header, settings, notes)


@gives(Sheaf)
def sheaf(
    lm: Model,
    task: Task,
    *,
    how: SheafBy = "sequential",
    weights: Learner = WEIGHTS,
    edges: Learner = LEARNERS["discogp"],
    steps: int | None = None,
    loss: MaskLoss | None = None,
    batch: int = BATCH,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> SheafWork:
    """Learn which weights and edges do the task alone, all others at zero; see the module.

    Args:
        lm: the model.
        task: the pairs to learn on; run the sheaf on others (`run_sheaf`).
        how: "sequential" (weights, then edges under them, as published), "joint" (both at once), or "weights" alone.
        weights: how gates on weights are learned: a `Learner` with hold="price".
        edges: the same of edges.
        steps: of each stage (None: the learners' own, 6,250 and 1,250 as published: 500 and 100 epochs of 800 pairs).
        loss: of both (None: the learners' own, "answers": M is read as the log-odds of two answers).
        batch: pairs a step, at least.
        seed: of the order of pairs and of the gates' noise; a draw depends on (seed, step) only.
        out: a folder to keep every finished step in; the same call goes on from there.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Sheaf`: a circuit, a mask for every weight, and what they, and all that they leave out, give on these pairs.

    Raises:
        ArchitectureError: weights cannot be told one by one: mixers, experts, packed weights, adapters.
        MethodError: a learner that is no price for open gates; in "joint" two that differ in steps, rate, loss or aim.
        GapError, NumericsError, OutOfMemoryError, ContractError, FileError: as for `vc.circuits.learn`.

    Cost: steps × batch runs of the whole graph with their gradient: about three forward passes each for edges, four for
    weights; twice that, since what is left out is run, too. Memory: about 13 numbers for every weight.

    >>> found = vc.circuits.sheaf(lm, task, steps=500)
    >>> vc.circuits.run_sheaf(lm, held_out, found).f
    """
    if how not in STAGES:
        raise MethodError(not_known("how", how, STAGES))
    given = {name: value for name, value in (("steps", steps), ("loss", loss)) if value is not None}
    learners = {"weights": replace(weights, **given), "edges": replace(edges, **given)}  # type: ignore[arg-type]
    if how == "joint" and edges is LEARNERS["discogp"] and steps is None:
        learners["edges"] = replace(learners["edges"], steps=learners["weights"].steps)
    _require_priced(how, learners)
    if batch < 1:
        raise MethodError(f"batch={batch}: it must be positive.")
    return SheafWork(lm, task, all_edges(lm), Weights.of(lm.decoder), how, learners, batch, seed)


#: What two learners of one descent share.
_SHARED = ("steps", "lr", "loss", "aim", "completeness", "bound")


def _require_priced(how: str, learners: dict[str, Learner]) -> None:
    """MethodError for learners that a sheaf has no use for."""
    for name, one in learners.items():
        if one.hold != "price" or one.nodes or one.each or one.adversary or one.ablation != "zero":
            raise MethodError(
                f"{name}= of a sheaf: gates have a price (hold='price'), one draw for all pairs of a step, no gates on "
                "nodes, no adversary, and zero ablation. Take "
                "vc.estimates.Learner(hold='price', ablation='zero', …)."
            )
    differing = [name for name in _SHARED if len({getattr(one, name) for one in learners.values()}) > 1]
    if how == "joint" and differing:
        raise MethodError(f"how='joint' takes one descent: weights= and edges= must agree in {', '.join(differing)}.")


@dataclass(frozen=True, eq=False)
class RunSheafWork:
    """What `run_sheaf` is about to do."""

    lm: Model
    task: Task
    found: Sheaf
    weights: Weights
    batch: int
    kind: ClassVar[str] = "circuits"

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        return circuit_buckets(self.lm, self.task, False, most=self.batch)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: the bare and the recorded runs, and at most four runs."""
        recorded, behind = planned_record(self.lm, self.task, self.batch, False)
        return recorded + len(RUNS) * behind + 2 * self.lm.layers * sum(self.task.lengths)

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Sheaf:
        """Run what is kept, and what is not."""
        lm, task, found = self.lm, self.task, self.found
        with session(lm, task, show=show_progress) as call, attention_function(lm.decoder, SUFFIX):
            recorded, gates = _recorded(lm, task, self.batch, call), gates_of(found.masks, self.weights)
            own = gates.to(lm.score_dtype), found.circuit.mask
            return judged(call, recorded, self.weights, *own, found.settings, found.notes)


@gives(Sheaf)
def run_sheaf(lm: Model, task: Task, sheaf: Sheaf, *, batch: int = 16, show_progress: bool = True) -> RunSheafWork:
    """What a sheaf, and all that it leaves out, give on other pairs.

    Args:
        lm: the model that it was found in.
        task: the pairs.
        sheaf: the sheaf.
        batch: pairs that are run together, at most.
        show_progress: show a progress bar.

    Returns:
        The same weights and edges as a `Sheaf` with the numbers of these pairs.

    Raises:
        CircuitError: it was found in another model. Others as for `vc.faithfulness`.

    >>> vc.circuits.run_sheaf(lm, held_out, vc.open("ioi.safetensors")).table()
    """
    return RunSheafWork(lm, task, sheaf, sheaf.require_for(lm), batch)
