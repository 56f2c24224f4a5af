"""Iterated selection: edges are scored where the circuit stands, not where the whole model stands.

One-shot scores ignore how edges combine. Here all edges are there at first; each round takes the gradient of M with
respect to the weights of the edges *in the circuit's own run* (`engine.soft_circuit`), drops the weakest share, and
goes on, down a geometric schedule of sizes. What is dropped later ranks higher, so one run gives nested circuits of
every size. With several `points` the gradient is averaged on the way from the circuit's state to the ablated one, all
weights scaled by α = (j + ½) / points. With `returns` a removed edge may come back: each round ranks all edges, those
that are out by what they would add to the circuit as it stands, and keeps the strongest. The ranking then puts the last
circuit's edges first and behind them those that left it last, so at larger sizes it is no longer the circuit that was
scored there.

`by="balanced"` weighs edges that work against the behaviour in every round so that the circuit that is left, when it is
run, has f as near to 1 as a few tries bring it (`balancing`), and needs no scores behind the last round. From 8 pairs
on two halves of them take turns: a round scores on one and runs its circuits on the other, which did not choose them.

`settle` more rounds stay at the last size: every edge, in the circuit or not, is scored where the circuit stands, on
all pairs, and the strongest by the mean of these rounds' scores make the next circuit, which so comes to rest. An edge
that would do much if it were restored comes in, for one that does little; so what an adversary restores first
(`attacks`) is no longer outside. An edge that is in counts `STAYS` times. With a `guard` edges are scored where an
adversary has restored some others, too; a last circuit that it breaks gives way to an earlier one (`guarding`).

The defaults are what held on six tasks (docs/results/circuits.md): by |gradient|, 5 rounds of 3 points; balanced, 7
rounds of 2.

Cost: (rounds + 1) × points × one run of the whole graph with its gradient; balanced: rounds × (points such runs and at
most 3 runs of what is kept), on half of the pairs; a settling round: one such run, balanced: and at most 3 of what is
kept, on all pairs; each number of a guard: one such run more, and a guarded round two runs of what is kept; at the end
one of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from veracausa.choices import IteratedBy, Loss
from veracausa.circuits.runs.recorded import Recorded, planned_record, record
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.circuits.selection.balancing import BEGIN, TRIES, balanced, strength
from veracausa.circuits.selection.guarding import guarded, pair_slopes, strain, taken
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import wiring_of
from veracausa.engine.guard import attention_function
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.learned.losses import require_loss
from veracausa.estimates.learned.training import require_keep
from veracausa.progress import Tick
from veracausa.scores.headers import start_settings
from veracausa.scores.scores import Scores, assemble
from veracausa.tasks.measurement import Measurement
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: What edges are ranked by → which go first.
RANKED_BY = {
    "abs_mean": "what matters least",
    "importance": "what helps least or hurts most",
    "balanced": "what matters least, with what hurts weighed so that f of the rest is near 1",
}
#: Defaults: rounds and points; of balanced ones.
USUAL, BALANCED = (5, 3), (7, 2)
#: How much more an edge counts that is in the circuit already, in a settling round.
STAYS = 1.2
#: What headers say of a ranking.
_SETTINGS = ("rounds", "smallest", "points", "by", "loss", "returns", "settle")
#: From so many pairs on balanced rounds have two halves of them.
HALVED = 8


@dataclass(frozen=True, eq=False)
class IterateWork:
    """What `iterate` is about to do; `last`: how many edges are ranked by their last scores."""

    lm: Model
    task: Task
    rounds: int
    smallest: float | int
    points: int
    by: str
    loss: str
    returns: bool
    settle: int
    guard: tuple[int, ...]
    start: Scores | None
    edges: Edges
    last: int
    kind: ClassVar[str] = "edge gradients"

    @property
    def what(self) -> str:
        """In words."""
        return f"{len(self.edges):,} edges ranked in {len(self.sizes) + self.settle} rounds"

    @property
    def sizes(self) -> list[int]:
        """How many edges each round leaves; the last two the same, but where circuits are balanced."""
        whole = len(self.edges)
        found = np.unique(np.geomspace(self.last, whole, self.rounds + 1).round().astype(int))[::-1]
        return found[1:].tolist() if self.balanced else [*found[1:].tolist(), self.last]

    @property
    def balanced(self) -> bool:
        """Whether every round's circuit is run, so that its f is near 1."""
        return self.by == "balanced"

    @property
    def slopes(self) -> int:
        """Gradients that are taken."""
        return sum(map(self._slopes_of, range(len(self.sizes) + self.settle))) + len(self.turns) * bool(self.guard)

    @property
    def turns(self) -> list[Task]:
        """The pairs that rounds take in turn: all, or two halves."""
        half = len(self.task) // 2
        return [self.task[:half], self.task[half:]] if self.balanced and len(self.task) >= HALVED else [self.task]

    def batches(self) -> int:
        """Buckets that are recorded, and run for every gradient."""
        return sum(len(circuit_buckets(self.lm, one)) for one in self.turns)

    def tokens(self) -> float:
        """Token-layers: the recorded runs, a run of the whole graph with its gradient for every point, and of circuits.

        As many circuits as a round may run, and all their blocks: the most that it can be.
        """
        planned = [planned_record(self.lm, one) for one in self.turns]
        total = float(sum(recorded for recorded, _ in planned))
        for number in range(len(self.sizes)):
            (_, scored), (_, judged) = (planned[turn % len(planned)] for turn in (number, number + 1))
            given = number == 0 and self.start is not None
            total += 2 * self.points * scored * (not given) + TRIES * judged * self.balanced
        behind = sum(one for _, one in planned)
        tried = 2 * bool(self.guard)
        settling = self.settle * (2 * (1 + len(self.guard)) + TRIES * self.balanced + tried)
        return total + (settling + 2 * tried) * behind

    @property
    def settings(self) -> dict[str, Any]:
        """What headers say of it."""
        return {
            "direction": "noising",
            "ablation": "counterfactual",
            **{name: getattr(self, name) for name in _SETTINGS},
            **({"guard": list(self.guard)} if self.guard else {}),
            **start_settings(self.start),
            "unit": "rank",
            "per_example": False,
        }

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Rank all edges; finished rounds are kept: their scores, strain, the weight of what hurts, and f."""
        shape, asked = (len(self.sizes) + self.settle, len(self.edges) + 3), {"units": self.edges.digest()}
        with (
            session(
                self.lm, self.task, shape, dtype=torch.float64, out=out, name="iterated", asked=asked | self.settings,
                measured=False, show=show_progress,
            ) as call,
            call.ticking("iterated selection", self.slopes),
        ):  # fmt: skip
            with call.anew():
                recorded = [record(self.lm, one, call.cost) for one in self.turns]
            call.hold(_measured(recorded))
            with attention_function(self.lm.decoder, SUFFIX):
                ranking, back, reached, moves = self._ranking(recorded, call)
        value = np.empty(len(self.edges))
        value[ranking] = 1 - (np.arange(len(value)) + 0.5) / len(value)
        return assemble(
            call,
            torch.as_tensor(value, dtype=self.lm.score_dtype).expand(len(self.task), -1).contiguous(),
            self.edges,
            measured=_measured(recorded),
            method="iterated",
            settings=self.settings,
            signed=False,
            notes=(
                "ranks, the last edge dropped highest; one ranking for all pairs, so no error is known",
                *([f"edges that returned: {back:,}"] if self.returns or self.settle else []),
                *([f"f of each round's circuit, where it was judged: {listed(reached)}"] if reached else []),
                *([self._taken(moves)] if moves else []),
            ),
        )

    def _ranking(self, recorded: list[Recorded], call: Session) -> tuple[np.ndarray, int, list[str], list[float]]:
        """All edges, the strongest first; how many returned; of balanced circuits f and size; of guarded, strain."""
        back, weight, f, reached, settled = 0, BEGIN, 0.0, list[str](), list[np.ndarray]()
        tried: list[tuple[float, np.ndarray]] = []
        every = kept = ranking = np.arange(len(self.edges))
        for number, size in enumerate([*self.sizes, *[self.last] * self.settle]):
            settling, done = number >= len(self.sizes), bool(call.done[number].all())
            if done:
                found, (moved, weight, f) = call.values[number].numpy()[:-3].copy(), call.values[number, -3:].tolist()
            else:
                found, moved = self._own(recorded, number, kept, call.tick)
            own = found
            if settling:
                settled.append(found)
                tried.append((moved, ranking))
                own = np.mean(settled, axis=0)
                own[kept] *= STAYS
            among = every if settling or (self.returns and size < len(kept)) else kept
            if done:
                call.tick(self._slopes_of(number))
            else:
                if self.balanced:
                    judged = recorded if settling else [recorded[(number + 1) % len(recorded)]]
                    weight, f = balanced(weight, partial(self._f, judged, own, among, size))
                call.put(number, torch.from_numpy(np.append(found, [moved, weight, f])))
            if self.balanced:
                reached.append(f"{f:.2f} of {counted(size, 'edge')}")
            chosen = self._strongest(own, among, weight)[:size]
            left = self._strongest(own, np.setdiff1d(kept, chosen), weight)
            before = ranking[~np.isin(ranking, np.concatenate([chosen, left]))]
            ranking = np.concatenate([chosen, left, before])
            back += len(np.setdiff1d(chosen, kept))
            kept = np.sort(chosen)
        if self.guard:
            with call.anew():
                slopes = pair_slopes(recorded, self.edges, kept, call.tick)
                tried.append((strain(recorded, self.edges, kept, slopes, self.guard[-1]), ranking))
            ranking = tried[taken([moved for moved, _ in tried])][1]
        return ranking, back, reached, [moved for moved, _ in tried if self.guard]

    def _taken(self, moves: list[float]) -> str:
        """Which round's circuit was taken, in words; `moves`: strain of those from the first that settles on."""
        first, said = len(self.sizes), listed([f"{one:.2f}" for one in moves])
        return (
            f"the circuit of round {first + taken(moves)} was taken; where {self.guard[-1]:,} others are restored, "
            f"f of the circuits from round {first} on is moved by {said}"
        )

    def _own(self, recorded: list[Recorded], number: int, kept: np.ndarray, tick: Tick) -> tuple[np.ndarray, float]:
        """Every edge's score in a round, where the circuit stands: on the pairs whose turn it is, settling on all.

        And the circuit's strain, where there is a guard (0: none).
        """
        if number == 0 and self.start is not None:
            return self.start.importance().double().numpy(), 0.0
        settling = number >= len(self.sizes)
        if settling and self.guard:
            return guarded(recorded, self.edges, kept, self.guard, number - len(self.sizes), tick)
        scored = recorded if settling else [recorded[number % len(recorded)]]
        return _mean_scores(scored, self.edges, kept, 1 if settling else self.points, self.loss, tick), 0.0

    def _slopes_of(self, number: int) -> int:
        """Gradients of a round."""
        if number >= len(self.sizes):
            return len(self.turns) * (1 + len(self.guard))
        return 0 if number == 0 and self.start is not None else self.points

    def _f(self, recorded: Sequence[Recorded], own: np.ndarray, among: np.ndarray, size: int, weight: float) -> float:
        """f of the circuit of the strongest edges, with this weight."""
        kept = self._strongest(own, among, weight)[:size]
        wiring = wiring_of(self.lm.decoder, self.edges[kept].mask)
        metric = torch.cat([one.metric(wiring) for one in recorded])
        return float(_measured(recorded).f_of(metric.double()))

    def _strongest(self, own: np.ndarray, among: np.ndarray, weight: float) -> np.ndarray:
        """Some edges by their scores, the strongest first."""
        value = own[among]
        key = {"abs_mean": np.abs(value), "importance": value, "balanced": strength(value, weight)}[self.by]
        return among[np.argsort(-key, kind="stable")]


@gives(Scores)
def iterate(
    lm: Model,
    task: Task,
    *,
    rounds: int | None = None,
    smallest: float | int = 0.001,
    points: int | None = None,
    by: IteratedBy = "abs_mean",
    loss: Loss = "metric",
    returns: bool = False,
    settle: int = 0,
    guard: Sequence[int] = (),
    start: Scores | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> IterateWork:
    """Rank all edges by dropping the weakest again and again, scored in the remaining circuit's own run.

    Args:
        lm: the model.
        task: the pairs to select on; evaluate on others.
        rounds: how often edges are dropped (None: 5; balanced: 7).
        smallest: where dropping stops: a share of the edges (a float under 1) or their number (an int); what remains is
            ranked by its last scores.
        points: gradients per round, averaged from the circuit's state towards the ablated one (None: 3; balanced: 2).
        by: "abs_mean" drops what matters least; "importance" what helps least or hurts most, so that f overshoots;
            "balanced" weighs what hurts, in every round anew, so that f of the circuit that is left comes near 1; the
            notes say what it reached.
        loss: what edges are kept for: "metric" (M, so that edges which hold it back go first) or "kl" (small KL
            from the clean output, so that these stay where the model needs them; 0 and flat at the whole graph, so it
            takes several points, or a start).
        returns: let a removed edge return when it scores above a kept one.
        settle: so many rounds more at the last size, in which removed edges return where they count more than kept
            ones; larger sizes are then no circuits that were scored.
        guard: rising numbers of others, such as (30, 100): these rounds score edges also where an adversary has
            restored so many; larger ones count as all others there are.
        start: scores of all edges, by any method, that the first round drops by, instead of its own.
        out: a folder to keep finished rounds in, every few seconds: an interrupted call with the same arguments goes on
            from there.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Scores` of all edges, magnitudes only: ranks in (0, 1], the last one dropped highest; one ranking for all
        pairs, so it has no standard error. `vc.curve` and `vc.select` take it like any other score.

    Raises:
        MethodError: options out of range. UnitError: `start` is not about all edges.
        GapError, ContractError, NumericsError, OutOfMemoryError, FileError: as for `vc.exact`.

    >>> ranking = vc.circuits.iterate(lm, task)
    >>> vc.curve(lm, held_out, ranking).cpr_log
    """
    edges = all_edges(lm)
    usual = BALANCED if by == "balanced" else USUAL
    rounds, points = usual[0] if rounds is None else rounds, usual[1] if points is None else points
    if rounds < 1 or points < 1 or settle < 0 or by not in RANKED_BY:
        raise MethodError(
            f"rounds={rounds}, points={points}, settle={settle}, by={by!r}: rounds and points must be at least 1, "
            f"settle at least 0, by one of {', '.join(RANKED_BY)}."
        )
    if guard and (not settle or list(guard) != sorted(set(guard)) or guard[0] < 1):
        raise MethodError(
            f"guard={list(guard)}, settle={settle}: a guard is rising numbers of edges, such as (30, 100), for the "
            "rounds of settle=6."
        )
    require_loss(loss)
    if loss == "kl" and by == "balanced":
        raise MethodError("by='balanced' brings f of the metric to 1, so it goes with loss='metric'.")
    if settle and loss == "kl":
        raise MethodError("settle= is of what the metric gains and loses, so it goes with loss='metric'.")
    if loss == "kl" and points == 1 and start is None:
        raise MethodError(
            "loss='kl' is flat at the whole graph, where the first round scores the edges. Take points=3, or "
            "start= from scores."
        )
    if start is not None and start.units.digest() != edges.digest():
        raise UnitError(f"start= has scores of {start.units!r}, but all {len(edges):,} edges are ranked. Score those.")
    last = require_keep(edges, smallest, "smallest")
    guard = sorted({min(one, len(edges) - last) for one in guard} - {0})
    return IterateWork(lm, task, rounds, smallest, points, by, loss, returns, settle, tuple(guard), start, edges, last)


def _measured(recorded: Sequence[Recorded]) -> Measurement:
    """M of both bare runs, on all pairs."""
    ends = [(one.measured.clean, one.measured.corrupted) for one in recorded]
    return Measurement(*(torch.cat(end) for end in zip(*ends, strict=True)))


def _mean_scores(
    recorded: Sequence[Recorded], edges: Edges, kept: np.ndarray, points: int, loss: str, tick: Tick
) -> np.ndarray:
    """`_scores` over the pairs of all that is recorded."""
    pairs = [len(one.measured.clean) for one in recorded]
    scores = [_scores(one, edges, kept, points, loss, tick) for one in recorded]
    return np.asarray(sum(n * own for n, own in zip(pairs, scores, strict=True)) / sum(pairs))


def _scores(recorded: Recorded, edges: Edges, kept: np.ndarray, points: int, loss: str, tick: Tick) -> np.ndarray:
    """∂M/∂m of every edge, or −∂KL/∂m, in the circuit's own run, averaged over pairs and points."""
    lm, unit = recorded.lm, float(recorded.measured.gap.mean()) if loss == "metric" else 1.0
    weights = torch.as_tensor(edges[kept].mask, dtype=lm.score_dtype, device=lm.device)
    total = torch.zeros_like(weights)
    for j in range(points):
        at = weights if points == 1 else (j + 0.5) / points * weights
        total -= unit * recorded.slope(at, recorded.judged(loss))[1] / points
        tick(1)
    return np.asarray(total.cpu().numpy()[edges.reader, edges.writer]) / sum(map(len, recorded.groups))
