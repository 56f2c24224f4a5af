"""Run circuits on a task: M and KL of every circuit and pair, with what both ends of the scale are.

Pairs are recorded once, whatever the number of circuits; each circuit then costs at most the blocks that have live
parts (`engine.circuit_forward`). All edges are the bare model's clean run (checked in every call); no edges are its
corrupted run where ablation is counterfactual, else the run that consists of what ablation puts in place
(`circuits.runs.ablations`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation
from veracausa.circuits.runs.ablations import AblatedEdges, Ablating, none_kept
from veracausa.circuits.runs.tapes import circuit_buckets, record_bucket, recordings, whole_graph
from veracausa.cost import Cost
from veracausa.effects.optimal_descent import Learning
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.circuit_forward import CircuitForward, Room, Wiring, all_edges_mask, wiring_of
from veracausa.engine.footprint import Footprint
from veracausa.engine.guard import attention_function, precision_of
from veracausa.engine.memory import chunks
from veracausa.engine.readout import Readout
from veracausa.engine.session import session
from veracausa.engine.validate import require_run
from veracausa.errors import NumericsError
from veracausa.progress import Tick
from veracausa.result import Shown
from veracausa.scores.headers import reference_settings
from veracausa.scores.scores import task_header
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.references import Reference, reference_set

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task


Found_co = TypeVar("Found_co", covariant=True)
#: Rows that are unembedded at once: enough to read its weights seldom, few enough for any vocabulary.
_UNEMBEDDED = 64


class Ran(Shown):
    """What circuits' runs gave: its settings say what ablated edges carry."""

    if TYPE_CHECKING:

        @property
        def settings(self) -> dict[str, Any]: ...  # noqa: D102

        cost: Cost
        model: dict[str, str]
        task: dict[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        """What the headers of all such files say."""
        return {"model": self.model, "task": self.task, "cost": self.cost.to_dict(), "settings": self.settings}

    @property
    def ablation(self) -> str:
        """What ablated edges carry: "counterfactual" (the corrupted run), "zero", …"""
        return str(self.settings["ablation"])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Metric and KL (from the clean run's output distribution) of every circuit and pair.

    `measured`: M of the bare clean run, and of the run without any edge. `model`, `task`: headers. `settings`: the
    ablation, and what it depends on.
    """

    metric: Float[Tensor, "circuits examples"]
    kl: Float[Tensor, "circuits examples"]
    measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CircuitRuns:
    """Circuits, as masks [readers, writers] of the model's graph, that are about to be run on every pair of a task."""

    lm: Model
    task: Task
    masks: tuple[np.ndarray, ...]
    how: Ablating
    share_prefix: bool
    settings: dict[str, Any]
    kind: ClassVar[str] = "circuits"

    @classmethod
    def of(
        cls,
        lm: Model,
        task: Task,
        masks: Sequence[np.ndarray],
        *,
        ablation: Ablation = "counterfactual",
        reference: Reference | None = None,
        seed: int = 0,
        learning: Learning | None = None,
        share_prefix: bool = True,
    ) -> CircuitRuns:
        """Check what is asked; see `run_circuits`."""
        reference = reference_set(lm, reference)
        how = Ablating.of(lm, task, ablation, reference, seed, learning)
        settings = ablation_settings(task, ablation, reference, seed, learning)
        return cls(lm, task, tuple(masks), how, share_prefix and how.settled, settings)

    @cached_property
    def wirings(self) -> list[Wiring]:
        """All circuits, and last the one without edges."""
        every = [*self.masks, np.zeros_like(all_edges_mask(self.lm.graph))]
        return [wiring_of(self.lm.decoder, mask, self.how.settled) for mask in every]

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        return circuit_buckets(self.lm, self.how.pairs, self.share_prefix)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: what ablation needs, the recorded runs, the whole graph's, and every circuit's live blocks."""
        groups, pairs = self.groups(), self.how.pairs
        recorded, behind = recordings(self.lm, pairs, groups)
        blocks = sum(wiring.blocks for wiring in self.wirings)
        runs = recorded + whole_graph(self.lm, pairs, groups) + blocks * behind // self.lm.layers
        return self.how.tokens(self.wirings) + runs

    @property
    def asked(self) -> dict[str, Any]:
        """All that the numbers depend on, but for the model and the pairs."""
        masks = hashlib.sha256(b"".join(np.ascontiguousarray(mask).tobytes() for mask in self.masks)).hexdigest()
        return {**self.settings, "circuits": masks, "share_prefix": self.share_prefix}

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Outcomes:
        """Run all circuits, bucket by bucket; `out`: a folder to keep finished buckets in."""
        lm, task, wirings, groups = self.lm, self.task, self.wirings, self.groups()
        shape = len(task), 2 * len(wirings) + 1
        with session(
            lm, task, shape, out=out, name="circuits", asked=self.asked, measured=False, compared=1, show=show_progress
        ) as call, torch.no_grad():  # fmt: skip
            how = self.how.prepared([wiring.mask for wiring in wirings], call.cost, show_progress)

            def run(start: int, examples: tuple[int, ...]) -> None:
                bucket = record_bucket(lm, how.task, start, examples, call.cost)
                found = _bucket(bucket, wirings, how, call.tick)
                if not torch.isfinite(found[:, 0]).all():
                    raise NumericsError(
                        f"NaN or infinity in a circuit's run on {task.name!r}. Run the model in float32."
                    )
                clean = bucket.read.of_state(bucket.tape.clean).to(found)
                call.put(bucket.index, torch.cat([found.flatten(0, 1), clean[None]]).T)

            done = int(call.done.all(1).sum()) * len(wirings)
            with call.ticking(f"{len(self.masks)} circuits", len(task) * len(wirings), done):
                call.rest(groups, run)
            notes = (*how.notes, *precision_of(lm.decoder).notes)
        metric, kl = (part.T.contiguous() for part in call.values[:, :-1].unflatten(1, (-1, 2)).unbind(-1))
        measured = Measurement(call.values[:, -1].contiguous(), metric[-1])
        measured.require_gap(task, none_kept(self.how.kind))
        header = task_header(task)
        return Outcomes(metric[:-1], kl[:-1], measured, call.cost, call.origin, header, self.settings, notes)


@dataclass(frozen=True, eq=False)
class Judged(Generic[Found_co]):
    """Circuits that are about to be run, and what is then made of their outcomes."""

    runs: CircuitRuns
    judge: Callable[[Outcomes], Found_co]
    what: str
    kind: ClassVar[str] = "circuits"

    @property
    def lm(self) -> Model:
        """The model that is run."""
        return self.runs.lm

    @property
    def task(self) -> Task:
        """The pairs that it is run on."""
        return self.runs.task

    def batches(self) -> int:
        """Buckets that are recorded."""
        return self.runs.batches()

    def tokens(self) -> float:
        """Token-layers of the whole call."""
        return self.runs.tokens()

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Found_co:
        """Run the circuits and judge them; `out`: a folder to keep finished buckets in."""
        return self.judge(self.runs.run(show_progress, out))


def run_circuits(
    lm: Model,
    task: Task,
    masks: Sequence[np.ndarray],
    *,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    seed: int = 0,
    learning: Learning | None = None,
    share_prefix: bool = True,
    show_progress: bool = True,
) -> Outcomes:
    """Run circuits, given as masks [readers, writers] of the model's graph, on every pair of a task.

    `ablation`, `reference`, `seed`, `learning`: see `circuits.runs.ablations`. Under "optimal" each circuit has its own
    constants, and the run without edges has those learned for no edges.

    Raises:
        GapError: the model does not separate the clean run from the one without edges.
        ContractError: the whole graph does not reproduce the bare model's clean run.
        MethodError: an unknown ablation, or nothing to resample from.
        NumericsError, OutOfMemoryError: as for `vc.exact`.
    """
    how: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed, "learning": learning}
    return CircuitRuns.of(lm, task, masks, **how, share_prefix=share_prefix).run(show_progress)


def ablation_settings(
    task: Task, ablation: str, reference: Task | None, seed: int, learning: Learning | None
) -> dict[str, Any]:
    """What headers say of circuits' runs: the ablation, and what it depends on."""
    found: dict[str, Any] = {"ablation": ablation}
    if ablation == "optimal":  # these, too, are learned on the reference set
        found |= reference_settings("mean", task, reference) | {"learning": asdict(learning or Learning(seed=seed))}
    else:
        found |= reference_settings(ablation, task, reference)
    return found | ({"seed": seed} if ablation == "resample" else {})


def _bucket(
    bucket: Bucket, wirings: Sequence[Wiring], how: AblatedEdges, tick: Tick
) -> Float[Tensor, "circuits metric_and_kl examples"]:
    """M and KL of every circuit on the pairs of one bucket; the unembedding is read once for many circuits."""
    lm, tape, read, lasts, room = bucket.lm, bucket.tape, bucket.read, [], Room()
    with attention_function(lm.decoder, SUFFIX):
        require_whole_is_clean(lm, CircuitForward.of(lm, tape, how.of(lm, tape, -1), bucket.cost), read)
        for number, wiring in enumerate(wirings):
            lasts.append(_last(CircuitForward.of(lm, tape, how.of(lm, tape, number), bucket.cost, room), lm, wiring))
            tick(len(bucket.every))
    last, divergence = torch.cat(lasts), read.divergence(tape.clean)
    parts = []
    for rows in torch.arange(len(last), device=lm.device).split(_UNEMBEDDED):
        example = rows % len(bucket.every)
        kl = -divergence(last[rows], example)
        parts.append(torch.stack([read(last[rows], example), kl]).to("cpu", lm.score_dtype))
    return torch.cat(parts, 1).unflatten(1, (len(wirings), -1)).movedim(0, 1)


def _last(forward: CircuitForward, lm: Model, wiring: Wiring) -> Float[Tensor, "examples tail width"]:
    """Final residual of all examples of a bucket, as many at a time as fit."""
    positions, length = forward.tape.length - forward.tape.start, forward.tape.length

    def run(rows: range) -> Tensor:
        return forward(wiring, slice(rows.start, rows.stop))

    every = range(len(forward.tape.examples))
    size = rows_per_chunk(lm, positions, length, False, Footprint.of(lm).circuit)
    return torch.cat([last for _, last in chunks(every, size, run, f"{positions} tokens")])


def require_whole_is_clean(lm: Model, forward: CircuitForward, read: Readout) -> None:
    """Raise ContractError unless the whole graph gives the bare model's clean run, for the first pair of a bucket."""
    run, first = forward.tape.clean, torch.tensor([0], device=lm.device)
    whole = forward(wiring_of(lm.decoder, all_edges_mask(lm.graph), forward.ablated.settled), slice(0, 1))
    require_run(lm, read(whole, first), read.of_state(run)[:1], run)
