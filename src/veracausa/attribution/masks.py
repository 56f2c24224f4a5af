"""Learned masks: which units must stay as they are for the output to stay as it is, all others replaced at once.

Every unit u gets a gate g_u: the run computes g_u · a_u + (1 − g_u) · a_u(x′) in its place (`engine.gates`). Gates are
hard-concrete (Louizos et al. 1712.01312), so that they reach 0 and 1 and still have gradients: with U ~ uniform(0, 1),

    s = σ((log U − log(1 − U) + log α_u) / τ),   g_u = clamp(s · (ζ − γ) + γ, 0, 1),   γ = −0.1, ζ = 1.1, τ = 2/3
    P(g_u > 0) = σ(log α_u − τ log(−γ / ζ))

Adam moves log α down the gradient of E[loss] + λ · mean P(g > 0). The multiplier λ rises while more than the wanted
share is kept and falls while less is, on a log scale, so that it finds the size of any loss by itself; the force is
λ · (1 + damping · log(share / wanted)), so that gates open again when too many have closed. The wanted share falls
geometrically from "nearly all" to `keep` over the first half of the steps (Edge Pruning, 2406.16778, warms its target
up likewise).

What it says differs from an exact effect. That replaces one unit while all others stand by; a mask replaces most units
at once and keeps a set that suffices. Of two units that do the same work it may drop either, and a unit that works
against the behaviour is kept where the loss is the KL divergence, and dropped where it is the metric.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veracausa.attribution.scores import Scores, assemble
from veracausa.attribution.units import Units, resolve_units
from veracausa.engine.cost import Cost
from veracausa.engine.gates import GatedPairs, layer_gates
from veracausa.engine.guard import borrowed
from veracausa.engine.measure import Measurement, Readout, pair_ids, readout
from veracausa.engine.memory import halving, memory_errors
from veracausa.engine.tape import buckets, record_pairs
from veracausa.engine.validate import require_run
from veracausa.errors import MethodError, UnitError
from veracausa.progress import Tick, progress
from veracausa.tasks.metrics import metric

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
#: log α at the start (97% open), the spread that a warm start gives it, and its bounds.
_START, _SPREAD, _BOUND = 2.0, 1.0, 10.0
#: λ at the start, how far log λ moves per step and unit of log(share / target), and the damping: measured on SmolLM2.
_MULTIPLIER, _RATE, _DAMPING = 0.1, 0.05, 5.0
#: Share of the steps over which the wanted share falls.
_WARM_UP = 0.5
_KINDS = ("heads", "mlps", "attention", "neurons")
_LOSSES = {"kl": "KL to the clean output", "metric": "−metric / gap"}


def learn_mask(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    keep: float | int = 0.1,
    steps: int = 300,
    lr: float = 0.3,
    loss: str = "kl",
    batch: int = 4,
    start: Scores | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> Scores:
    """Learn which units must be kept when all others are replaced by their values in the corrupted run.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: "heads", "mlps", "attention" or "neurons", summed over positions; or names. Others stay open.
        keep: the share of the units to keep (a float under 1), or their number (an int).
        steps: optimiser steps.
        lr: Adam's step size for log α.
        loss: "kl" (mean KL from the clean output distribution at the last position) or "metric" (−metric / gap).
        batch: pairs a step, at least. Each step takes whole groups of pairs of the same length and first difference,
            of at most so many pairs, in a random order that visits each once before any twice.
        start: scores of the same units, by any method, whose ranking the gates start from.
        seed: of the order of pairs and of the gates' noise; a draw depends on (seed, step, example, unit) only.
        show_progress: show a progress bar.

    Returns:
        `Scores` of method "mask", magnitudes only: each unit's probability that its gate is open, P(g > 0), so that
        their sum is the expected number of units kept. The mask is one for all examples: its row is repeated, its
        standard error 0 says nothing, and `vc.stability` refuses it. A note gives the loss when exactly the wanted
        number of units, the likeliest, is open and all others are closed.

    Raises:
        MethodError: units per position or of the residual stream; `keep`, `loss` or another option out of range.
        UnitError: `start` is about other units.
        GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.attribute`.

    Cost: steps × batch forward and backward passes from the first differing position on.

    >>> mask = vc.learn_mask(lm, task, units="heads", keep=0.1)
    >>> vc.agreement(mask, vc.exact(lm, task, units="heads"))
    """
    began = time.monotonic()
    table = resolve_units(lm, units, max(task.lengths))
    count = _require(table, keep, steps, lr, loss, batch)
    cost = Cost(full=sum(task.lengths) * lm.layers)
    with borrowed(lm.decoder):
        parts, measured = _recorded(lm, task, table, batch, cost)
        measured.require_gap(task)
        gap = float(measured.gap.mean())
        runs = _Runs(lm, table, parts, cost, lambda part: part.kl if loss == "kl" else part.metric(gap))
        log_alpha = _initial(lm, table, start).requires_grad_()
        schedule = _schedule([runs.size(group) for group in range(len(parts))], steps, batch, seed)
        label = f"mask over {len(table):,} {table.kind}"
        with progress(label, sum(runs.tokens(group) for groups in schedule for group in groups), show_progress) as tick:
            share = _train(runs, schedule, log_alpha, lr, seed, count / len(table), tick)
        likeliest = torch.argsort(log_alpha.detach(), descending=True, stable=True)[:count]
        kl, kept_metric = runs.closed_but(likeliest)
    cost.seconds = time.monotonic() - began
    return assemble(
        lm,
        task,
        open_probability(log_alpha.detach()).cpu().expand(len(task), -1).contiguous(),
        table,
        measured,
        method="mask",
        settings={
            "direction": "noising",
            "ablation": "counterfactual",
            "loss": loss,
            "keep": count,
            "steps": steps,
            "lr": lr,
            "batch": batch,
            "start": None if start is None else start.method,
            "seed": seed,
            "per_example": False,
        },
        cost=cost,
        signed=False,
        notes=(
            f"probability that a unit's gate is open, loss {_LOSSES[loss]}; expected share kept {share:.3f}, wanted "
            f"{count / len(table):.3f}; one mask for all pairs, so stderr 0 says nothing",
            f"with the {count} likeliest open and all others closed: KL {kl:.3f}, metric {kept_metric:+.3f}",
        ),
    )


def planned_mask(
    lm: Model, task: Task, units: str | Units, *, steps: int = 300, batch: int = 4, seed: int = 0
) -> float:
    """Token-layers that `learn_mask` will take beside recording both runs; a MethodError where it would raise one."""
    _require(resolve_units(lm, units, max(task.lengths)), 0.5, steps, 1.0, "kl", batch)
    groups = buckets(task.clean, task.corrupted, lm.decoder.anatomy.causal, batch)
    tokens = [(task.lengths[examples[0]] - start) * len(examples) for start, examples in groups]
    schedule = _schedule([len(examples) for _, examples in groups], steps, batch, seed)
    return float(sum(tokens[group] for chosen in schedule for group in chosen) * lm.layers * 2)


def hard_concrete(log_alpha: Float[Tensor, " units"], uniform: Float[Tensor, "*rows units"]) -> Tensor:
    """Gates in [0, 1] for noise in (0, 1); see the module's docstring."""
    stretched = torch.sigmoid((uniform.log() - (-uniform).log1p() + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
    """P(g > 0)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


@dataclass(frozen=True)
class _Part:
    """Pairs that are run together, their metric, and minus the KL of their output to the clean run's."""

    pairs: GatedPairs
    read: Readout
    read_kl: Readout

    def kl(self, last: Tensor, rows: Tensor) -> Tensor:
        """KL from the clean run's output distribution, row by row."""
        return -self.read_kl(last, rows)

    def metric(self, gap: float) -> Callable[[Tensor, Tensor], Tensor]:
        """−metric / gap, row by row."""
        return lambda last, rows: -self.read(last, rows) / gap


def _recorded(lm: Model, task: Task, table: Units, batch: int, cost: Cost) -> tuple[list[list[_Part]], Measurement]:
    """The task's groups, each as one part (several where memory is short), and M of both runs."""
    groups = buckets(task.clean, task.corrupted, lm.decoder.anatomy.causal, batch)
    parts: list[list[_Part]] = [[] for _ in groups]
    group_of = {example: number for number, (_, examples) in enumerate(groups) for example in examples}
    clean, corrupted = torch.empty(2, len(task), dtype=lm.score_dtype)

    def run(start: int, examples: tuple[int, ...]) -> None:
        ids, index = pair_ids(lm, task, examples), list(examples)
        tape = record_pairs(lm.decoder, *ids, start, examples=examples, sites=(table.place,), cost=cost)
        read = readout(lm, task, examples, tape.clean)
        reference = lm.decoder.logits(tape.clean.last).log_softmax(-1)
        part = _Part(
            GatedPairs.of(lm.decoder, table.place, tape, ids[0]),
            read,
            Readout(lm, metric("neg_kl"), read.answers, reference),
        )
        rows = torch.arange(len(examples), device=lm.device)
        opened = torch.ones(len(examples), lm.layers, 1, dtype=lm.score_dtype, device=lm.device)
        bare = read.of_state(tape.clean)
        answers = lm.decoder.logits(tape.clean.last, read.answers.tokens)
        require_run(lm, read(part.pairs.run(opened, rows, cost), rows), bare, answers)
        clean[index] = bare.to("cpu", lm.score_dtype)
        corrupted[index] = read.of_state(tape.corrupted).to("cpu", lm.score_dtype)
        parts[group_of[examples[0]]].append(part)

    with torch.no_grad():
        halving(groups, run)
    return parts, Measurement(clean, corrupted)


@dataclass(frozen=True)
class _Runs:
    """Gated runs of a task's groups: their losses, with gradients, and what remains when a mask is applied."""

    lm: Model
    table: Units
    groups: list[list[_Part]]
    cost: Cost
    loss: Callable[[_Part], Callable[[Tensor, Tensor], Tensor]]

    def tokens(self, group: int) -> float:
        """Token-layers of one forward and backward run of a group."""
        return float(sum(part.pairs.ids.numel() for part in self.groups[group]) * self.lm.layers * 2)

    def size(self, group: int) -> int:
        """Pairs of a group."""
        return sum(len(part.pairs) for part in self.groups[group])

    def last(self, part: _Part, rows: Tensor, flat: Float[Tensor, "rows units"]) -> Tensor:
        """Final residual of a part's pairs under the gates of the table's units."""
        parts = {"heads": self.lm.heads, "neurons": self.lm.neurons}.get(self.table.kind, 1)
        layer = torch.as_tensor(self.table.layer, device=flat.device)
        index = torch.as_tensor(self.table.index, device=flat.device).clamp_min(0)  # an MLP has no index
        return part.pairs.run(layer_gates(flat, layer, index, (self.lm.layers, parts)), rows, self.cost)

    def gradient(self, group: int, log_alpha: Tensor, noise: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """Gradient of the summed loss of a group; in halves where memory is short."""
        total = torch.zeros_like(log_alpha)
        for part in self.groups[group]:

            def run(start: int, local: tuple[int, ...], part: _Part = part) -> None:
                rows = torch.tensor(local, device=log_alpha.device)
                uniform = noise([part.pairs.examples[i] for i in local]).to(log_alpha)
                with torch.enable_grad(), memory_errors(f"A gated run of {len(local)} prompts"):
                    last = self.last(part, rows, hard_concrete(log_alpha, uniform))
                    total.add_(torch.autograd.grad(self.loss(part)(last, rows).sum(), log_alpha)[0])

            halving([(0, tuple(range(len(part.pairs))))], run)
        return total

    @torch.no_grad()
    def closed_but(self, kept: Int[Tensor, " kept"]) -> tuple[float, float]:
        """Mean KL and mean metric with these units open and all others of the table closed."""
        gates = torch.zeros(len(self.table), dtype=self.lm.score_dtype, device=kept.device)
        gates[kept] = 1
        kl: list[Tensor] = []
        value: list[Tensor] = []
        for part in (part for group in self.groups for part in group):
            rows = torch.arange(len(part.pairs), device=kept.device)
            last = self.last(part, rows, gates.expand(len(rows), -1))
            kl.append(part.kl(last, rows))
            value.append(part.read(last, rows))
        return float(torch.cat(kl).mean()), float(torch.cat(value).mean())


def _train(
    runs: _Runs, schedule: list[list[int]], log_alpha: Tensor, lr: float, seed: int, wanted: float, tick: Tick
) -> float:
    """Descend in place; returns the expected share of the units that is kept."""
    optimiser = torch.optim.Adam([log_alpha], lr=lr)
    first, multiplier = float(open_probability(log_alpha.detach()).mean()), math.log(_MULTIPLIER)
    for step, groups in enumerate(schedule):

        def noise(examples: Sequence[int], step: int = step) -> Tensor:
            draws = [np.random.default_rng([seed, step, e]).random(len(log_alpha)) for e in examples]
            return torch.from_numpy(np.stack(draws)).clamp(1e-6, 1 - 1e-6)

        gradient = torch.zeros_like(log_alpha)
        for group in groups:
            gradient += runs.gradient(group, log_alpha, noise) / sum(map(runs.size, groups))
            tick(runs.tokens(group))
        target = wanted * (first / wanted) ** max(0.0, 1 - step / (_WARM_UP * len(schedule)))
        with torch.enable_grad():
            share = open_probability(log_alpha).mean()
            slope = torch.autograd.grad(share, log_alpha)[0]
        error = math.log(float(share.detach()) / target)
        multiplier = min(max(multiplier + _RATE * error, -_BOUND), _BOUND)
        log_alpha.grad = gradient + math.exp(multiplier) * (1 + _DAMPING * error) * slope
        optimiser.step()
        with torch.no_grad():
            log_alpha.clamp_(-_BOUND, _BOUND)
    return float(open_probability(log_alpha.detach()).mean())


def _schedule(sizes: list[int], steps: int, batch: int, seed: int) -> list[list[int]]:
    """Groups of every step: at least `batch` pairs (or all), in random order, each once before any twice."""
    order = np.random.default_rng([seed]).permutation
    waiting: list[int] = []
    schedule: list[list[int]] = []
    for _ in range(steps):
        chosen: list[int] = []
        while sum(sizes[group] for group in chosen) < min(batch, sum(sizes)):
            if not waiting:
                waiting = order(len(sizes)).tolist()
            chosen.append(waiting.pop())
        schedule.append(chosen)
    return schedule


def _initial(lm: Model, table: Units, start: Scores | None) -> Float[Tensor, " units"]:
    """log α at the start: one value for all units, or spread by the rank of |mean score|."""
    log_alpha = torch.full((len(table),), _START, dtype=lm.score_dtype, device=lm.device)
    if start is None:
        return log_alpha
    if start.units.digest() != table.digest():
        raise UnitError(
            f"start= has scores of {start.units!r}, but the mask is over {table!r}. Pass scores of the same units."
        )
    rank = torch.empty(len(table), dtype=torch.float64)
    rank[start.ranking()] = torch.arange(len(table), 0, -1, dtype=torch.float64)
    return log_alpha + _SPREAD * torch.special.ndtri((rank - 0.5) / len(table)).to(log_alpha)


def _require(table: Units, keep: float | int, steps: int, lr: float, loss: str, batch: int) -> int:
    """How many units are to be kept; MethodError if an option makes no sense."""
    if table.kind not in _KINDS or table.positional:
        what = f"{table.kind} at single positions" if table.positional else table.kind
        raise MethodError(
            f"A mask over {what} is not known: gates act on whole {', '.join(_KINDS)}, at all positions. Use one of "
            "these, or vc.exact, which knows all units."
        )
    if loss not in _LOSSES:
        raise MethodError(f"loss={loss!r} is not known. Known: {', '.join(_LOSSES)}.")
    for name, value, good in (("steps", steps, steps >= 1), ("lr", lr, lr > 0), ("batch", batch, batch >= 1)):
        if not good:
            raise MethodError(f"{name}={value}: it must be positive.")
    count = max(1, round(keep * len(table))) if isinstance(keep, float) and 0 < keep < 1 else keep
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count < len(table):
        raise MethodError(
            f"keep={keep!r}: give a share between 0 and 1 such as 0.1, or a whole number from 1 to {len(table) - 1} "
            f"(of {len(table)} {table.kind}; to keep all of them there is nothing to learn)."
        )
    return count
