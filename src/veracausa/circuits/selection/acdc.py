"""ACDC (2304.14997): go through all edges from the logits backwards, and drop each one that hardly matters there.

    for each reader v, the latest first; for each writer u that v still sees:
        drop u → v if  D(C without it) − D(C) < τ,   C: the circuit as it stands

D is the mean KL from the clean run's output to the circuit's, or −metric / gap. Everything dropped carries the
corrupted run's writes. What is dropped early changes what is dropped later, so the order is part of the answer: readers
go from the logits to block 0 against the graph's order (MLP, then values, keys and queries, each with the last head
first), and a reader's writers with the latest first (`order="late"`) or the earliest (`order="early"`). To see how much
hangs on that, all edges may be tried in one random order (`order="random"`), or those that an estimate's circuit holds
for least first (`order="weakest"`).

An edge whose reader no longer leads to the logits changes nothing and is dropped without a run (not under post-norms,
where it can rescale its siblings). Every other edge costs one run of the circuit as it stands. In a model of many edges
begin within a circuit that an estimate gives (`start`), as 2310.10348 does: all edges outside it stay ablated, and only
its own are tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from veracausa.choices import Loss, WriterOrder
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.runs.recorded import Recorded, planned_record, record
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import Wiring, wiring_of
from veracausa.engine.guard import attention_function
from veracausa.engine.session import session
from veracausa.engine.work import gives
from veracausa.errors import MethodError, NumericsError
from veracausa.estimates.learned.losses import LOSSES, require_loss
from veracausa.scores.scores import task_header
from veracausa.suggestions import not_known
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: In which order edges are tried.
ORDERS = {
    "late": "readers from the logits backwards, of each the latest writer first",
    "early": "readers from the logits backwards, of each the earliest writer first",
    "random": "all edges in one random order",
    "weakest": "all edges, those of the smallest |importance| in the given circuit first",
}


@dataclass(frozen=True, eq=False)
class AcdcWork:
    """What `acdc` is about to do; `edges`: those that are there at first. `tried`: their rows in the order of trial."""

    lm: Model
    task: Task
    tau: float
    loss: str
    order: str
    edges: Edges
    tried: Int[np.ndarray, " edges"]
    seed: int
    prune: bool
    kind: ClassVar[str] = "circuits"

    @property
    def what(self) -> str:
        """In words."""
        return f"{len(self.edges):,} edges tried one by one"

    @property
    def settings(self) -> dict[str, Any]:
        """All that the numbers depend on, but for the edges themselves."""
        drawn = {"seed": self.seed} if self.order == "random" else {}
        return {"tau": self.tau, "loss": self.loss, "order": self.order, "begun": len(self.edges)} | drawn

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(circuit_buckets(self.lm, self.task))

    def tokens(self) -> float:
        """Token-layers at most: every edge is tried by a run of all that leads to the logits at first."""
        recorded, behind = planned_record(self.lm, self.task)
        blocks = wiring_of(self.lm.decoder, self.edges.mask).blocks
        return recorded + (1 + len(self.edges)) * behind * blocks / self.lm.layers

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Circuit:
        """Try all edges that are not decided yet."""
        lm, task, edges = self.lm, self.task, self.edges
        asked = self.settings | {"edges": edges[self.tried].digest()}  # in the order of trial
        with session(
            lm, task, (1, len(edges)), dtype=torch.float64, out=out, name="acdc", asked=asked, measured=False,
            show=show_progress,
        ) as call, attention_function(lm.decoder, SUFFIX):  # fmt: skip
            done, rise = call.done[0], call.values[0]
            with call.anew():
                recorded = record(lm, task, call.cost)
                call.hold(recorded.measured)
                search = _Search.of(recorded, edges, self.loss)
            search.go_on((done & (rise < self.tau)).numpy(), rise.numpy())
            with call.ticking("acdc", len(edges), float(done.sum())):
                for edge in self.tried.tolist():
                    if not done[edge]:
                        call.put((0, edge), torch.tensor(search.attempt(edge, self.tau), dtype=torch.float64))
                        call.tick(1)
        kept = np.flatnonzero(search.mask[edges.reader, edges.writer])
        circuit = Circuit.of(
            lm.graph,
            edges.writer[kept],
            edges.reader[kept],
            importance=rise.numpy()[kept],
            model=call.origin,
            task=task_header(task),
            method="acdc",
            settings={**self.settings, "taken": len(kept), "pruned": self.prune, "direction": "noising"},
            cost=call.cost,
            notes=(
                f"{ORDERS[self.order]}; another order gives another circuit",
                f"loss {LOSSES[self.loss]}: {search.value:.4g} with the edges taken",
            ),
        )
        return circuit.prune() if self.prune else circuit


@gives(Circuit)
def acdc(
    lm: Model,
    task: Task,
    *,
    tau: float,
    loss: Loss = "kl",
    order: WriterOrder = "late",
    start: Circuit | None = None,
    prune: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> AcdcWork:
    """Find a circuit by dropping every edge whose removal raises the loss by less than τ; see the module.

    Args:
        lm: the model.
        task: the pairs to search on; evaluate on others.
        tau: how much the loss may rise by one edge: KL in nats, or a share of the mean gap.
        loss: "kl" (mean KL from the clean output distribution at the last position) or "metric" (−metric / gap).
        order: "late" or "early": which of a reader's writers is tried first; "random": all edges in a random order;
            "weakest": the edges that have the smallest |importance| in `start` first.
        start: the circuit to begin with, instead of the whole graph.
        prune: drop dead ends at the end.
        seed: of order="random".
        out: a folder to keep decisions in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Circuit`; an edge's importance is the rise of the loss for which it was kept. The notes say how many edges were
        tried by a run, what it cost, and the loss that was reached.

    Raises:
        MethodError: tau not positive, an unknown loss or order, or order="weakest" without a `start` whose edges have
            importances. CircuitError: `start` is of another model.
        GapError, ContractError, NumericsError, OutOfMemoryError, FileError: as for `vc.exact`.

    Cost: at most one run of the circuit per edge and pair; the fewer parts lead to the logits, the cheaper.

    >>> circuit = vc.circuits.acdc(lm, task, tau=0.01)
    >>> vc.faithfulness(lm, held_out, circuit)
    """
    require_loss(loss)
    if order not in ORDERS:
        raise MethodError(not_known("order", order, ORDERS))
    if not 0 < tau < float("inf"):
        raise MethodError(f"tau={tau}: the rise of the loss that one edge may cause is a positive number.")
    if order == "weakest" and (start is None or start.importance is None):
        raise MethodError(
            "order='weakest' tries the edges of an estimate's circuit, weakest first, and no circuit with importances "
            "was given. Pass start=vc.select(scores, n=…)."
        )
    edges = all_edges(lm) if start is None else start.require_for(lm).edges
    tried = _order(edges, order, None if start is None else start.importance, seed)
    return AcdcWork(lm, task, tau, loss, order, edges, tried, seed, prune)


@dataclass(eq=False)
class _Search:
    """A circuit on its way down: its mask and wiring, and its loss."""

    recorded: Recorded
    edges: Edges
    loss: str
    mask: Bool[np.ndarray, "readers writers"]
    wiring: Wiring
    value: float

    @classmethod
    def of(cls, recorded: Recorded, edges: Edges, loss: str) -> _Search:
        """The edges to begin with."""
        mask = edges.mask
        wiring = wiring_of(recorded.lm.decoder, mask)
        return cls(recorded, edges, loss, mask, wiring, recorded.loss(wiring, loss))

    def go_on(self, dropped: Bool[np.ndarray, " edges"], rise: Float[np.ndarray, " edges"]) -> None:
        """Stand where an earlier call stood, which dropped some edges: their rises add up to the loss there."""
        self.mask[self.edges.reader[dropped], self.edges.writer[dropped]] = False
        self.wiring = wiring_of(self.recorded.lm.decoder, self.mask)
        self.value += float(rise[dropped].sum())

    def attempt(self, edge: int, tau: float) -> float:
        """The rise of the loss without an edge; the edge is dropped if that is under τ."""
        reader, writer = self.edges.reader[edge], self.edges.writer[edge]
        trial = self.mask.copy()
        trial[reader, writer] = False
        if not (self.wiring.shared_scale or self.wiring.living[reader, writer]):
            self.mask = trial  # what is living stays so
            return 0.0
        wiring = wiring_of(self.recorded.lm.decoder, trial)
        value = self.recorded.loss(wiring, self.loss)
        if not math.isfinite(value):
            name = self.edges[edge : edge + 1].names[0]
            raise NumericsError(f"NaN or infinity in the circuit's run without {name}. Run the model in float32.")
        rise = value - self.value
        if rise < tau:
            self.mask, self.wiring, self.value = trial, wiring, value
        return rise


def _order(
    edges: Edges, order: str, importance: Float[np.ndarray, " edges"] | None, seed: int
) -> Int[np.ndarray, " edges"]:
    """Rows of the table as they are tried: see `ORDERS`."""
    if order == "random":
        return np.random.default_rng(seed).permutation(len(edges))
    if order == "weakest" and importance is not None:
        return np.argsort(np.abs(importance), kind="stable")
    return np.lexsort((-edges.writer if order == "late" else edges.writer, -edges.reader))
