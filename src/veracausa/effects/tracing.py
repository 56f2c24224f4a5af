"""Causal tracing (Meng et al. 2202.05262): where a fact passes when the embeddings of its subject are noised.

    M(x)            the clean run
    M(x̃)            the run of the clean prompt with noise on the embeddings of a span, ε ~ N(0, (sd · σ)²)
    total effect    TE = M(x) − M(x̃)                                the scores' gap
    indirect effect IE_u = M(x̃ with u's clean value restored) − M(x̃)         u: a layer's state at one position

σ is the standard deviation of all entries of the span's embeddings, over all pairs. All numbers are means over draws.
With a window of w layers, those around u's are restored together at that position: layers l − ⌊w/2⌋ … l + ⌈w/2⌉ − 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch

from veracausa.choices import Restored
from veracausa.cost import Cost
from veracausa.effects.draws import over_draws
from veracausa.effects.noised_rows import NoisedGroupRows, NoisedRows, Noising, embeddings_sd
from veracausa.effects.plan import Plan
from veracausa.effects.replacements import Counterfactual
from veracausa.engine.measure import measured_runs
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import MethodError, TaskError
from veracausa.scores.estimands import RESTORED
from veracausa.scores.headers import span_settings
from veracausa.scores.scores import METRIC, Scores, assemble
from veracausa.suggestions import not_known
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.placing import ranges
from veracausa.tasks.spans import END
from veracausa.units.every_unit import all_units
from veracausa.units.groups import Groups
from veracausa.units.members import Member
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class TracingWork:
    """Indirect effects of a table of states; see `causal_tracing`. `where[i]`: the noised positions of pair i."""

    lm: Model
    task: Task
    units: Units
    span: str
    where: tuple[tuple[int, ...], ...]
    window: int
    sd: float
    draws: int
    seed: int
    rows: int | None
    kind: ClassVar[str] = "exact"
    alone: ClassVar[bool] = True

    @cached_property
    def noise(self) -> float:
        """The standard deviation of the noise, in the embeddings' own units."""
        return self.sd * embeddings_sd(self.lm, self.task, self.where)

    @cached_property
    def windows(self) -> Groups:
        """The windows of layers around every state."""
        last, kind = int(self.units.layer.max()), self.units.kind

        def around(layer: int, position: int) -> list[Member]:
            first, end = max(0, layer - self.window // 2), min(last + 1, layer - (-self.window // 2))
            return [Member(kind, one, -1, position, position) for one in range(first, end)]

        states = zip(self.units.layer.tolist(), self.units.position.tolist(), strict=True)
        return Groups.of([around(*one) for one in states], self.units.names)

    def plan(self, cost: Cost, draw: int = 0) -> Plan:
        """The rows of a draw."""
        noise = Noising(self.where, self.noise, self.seed, draw)
        if self.window == 1:
            how = (self.units, Counterfactual(False), False, self.rows, cost)
            return NoisedRows(self.lm, self.task, *how, noise=noise)
        sources = dict.fromkeys(self.windows.places, Counterfactual(False))
        return NoisedGroupRows(self.lm, self.task, self.windows, sources, False, self.rows, cost, noise)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return self.draws * len(self.plan(Cost()).buckets(False))

    def tokens(self) -> float:
        """Token-layers: the bare runs; per draw the clean and the noised one, the engine's own, and the rows."""
        every = 3 * sum(self.task.lengths) * self.lm.layers
        rows = float(self.plan(Cost()).costs(False).sum())
        measured = measured_runs(self.lm, self.task)
        return measured + self.draws * (every + rows)

    @property
    def settings(self) -> dict[str, Any]:
        """What the header says."""
        how = {"ablation": "noise", "span": self.span, "sd": self.sd, "noise": float(f"{self.noise:.6g}")}
        how |= {"draws": self.draws, "seed": self.seed, "window": self.window}
        key = "-".join(map(str, (*how.values(), self.where)))
        digest = {"replacement_digest": _short_hash(key)}
        named = span_settings(self.task) if self.span in self.task.span_names else {}
        unit = {} if self.task.paired else {"unit": METRIC}
        return {"direction": "denoising", **how, **named, **digest, **unit}

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """The effects, resumable; the last column of every draw is M of the noised run."""
        lm, task, table = self.lm, self.task, self.units
        columns, name = len(table) + 1, f"tracing-{table.kind}"
        asked = {"units": table.digest(), "how": self.settings["replacement_digest"]}
        shape = (len(task), self.draws * columns)
        label, total = f"causal tracing of {len(table):,} states", self.tokens()
        how: dict[str, Any] = {"out": out, "name": name, "asked": asked, "show": show_progress}
        with session(lm, task, shape, **how) as call, call.bar(label, total):
            plans = [self.plan(call.cost, draw) for draw in range(self.draws)]
            call.rest(plans[0].buckets(False), partial(_bucket, call, plans))
        values, spread = over_draws(call.values, self.draws)
        measured = Measurement(call.measured.clean, values[:, -1])
        measured.require_gap(task, "noised")
        window = f", {self.window} layers around it together" if self.window > 1 else ""
        return assemble(
            call,
            values[:, :-1],
            table,
            method="causal tracing",
            settings=self.settings,
            measured=measured,
            verified="exact effects",
            draw_stderr=None if spread is None else spread[:, :-1],
            notes=(
                f"corrupted: the clean prompt with noise of {self.noise:.4g} ({self.sd:g} times the embeddings' own "
                f"sd) on the embeddings of {self.span}, mean of {self.draws} draws; restored: "
                f"{RESTORED[cast('Restored', table.kind)]} at one position{window}",
            ),
        )


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bucket(call: Session, plans: Sequence[Plan], start: int, examples: tuple[int, ...]) -> None:
    """The effects of a bucket, draw by draw, and M of its noised runs."""
    columns = call.done.shape[1] // len(plans)
    for draw, plan in enumerate(plans):
        done = call.done[:, draw * columns : (draw + 1) * columns]
        if done[list(examples)].all():
            continue
        with closing(plan.run(start, examples, done[:, :-1])) as pieces:
            for example, unit, effects in pieces:
                call.put((example, unit + draw * columns), effects)
        ends = cast("NoisedRows | NoisedGroupRows", plan).noise
        assert ends is not None  # each plan of ours has one
        noised = torch.tensor([ends.ends[i] for i in examples], dtype=call.values.dtype)
        call.put((list(examples), (draw + 1) * columns - 1), noised)


@gives(Scores)
def causal_tracing(
    lm: Model,
    task: Task,
    *,
    span: str | int | Sequence[int] = "subject",
    units: Restored = "residual",
    window: int = 1,
    sd: float = 3.0,
    draws: int = 10,
    seed: int = 0,
    rows: int | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> TracingWork:
    """Noise a span's embeddings, restore one state at a time: which states bring the behaviour back.

    Args:
        lm: the model.
        task: the prompts and the metric; of pairs the clean ones.
        span: a span of the task by its name, or positions, from the start of each prompt or (below 0) from its end.
        units: what is restored, at every layer and position: "residual", "mlps" or "attention".
        window: layers that are restored together, around each state's.
        sd: of the noise, in units of the span's embeddings' own standard deviation.
        draws: of the noise; all numbers are means over them.
        seed: of the noise; it depends on (seed, draw, pair) only.
        rows, out, memory, show_progress: as for `vc.exact`.

    Returns:
        `Scores` [examples, states], positive where a state restores the behaviour; `clean` is M(x), `corrupted` M(x̃),
        the gap their difference (the total effect), and `draw_stderr` each value's standard error over draws.
        `chart(tokens=…)` draws layers × positions.

    Raises:
        TaskError: a span that a pair lacks. MethodError: other numbers. GapError: the noise changes nothing.

    >>> scores = vc.effects.causal_tracing(lm, task, span="subject", units="mlps", window=10)
    >>> scores.chart(tokens=task.tokens(0)[0])
    """
    require_tracing(units, window, draws, sd, rows)
    where = _positions(task, span)
    table = all_units(lm, units, max(task.lengths))
    told = span if isinstance(span, str) else f"positions {span}"
    return TracingWork(lm, task, table, told, where, window, float(sd), draws, seed, rows)


def require_tracing(units: str, window: int, draws: int, sd: float, rows: int | None = None) -> None:
    """MethodError unless such states can be restored, and the numbers mean something; asked before anything is run."""
    if units not in RESTORED:
        raise MethodError(not_known("units", units, RESTORED))
    for what, value in (("window", window), ("draws", draws), ("rows", 1 if rows is None else rows)):
        if value < 1:
            raise MethodError(f"{what}={value}: it is at least 1.")
    if not (np.isfinite(sd) and sd > 0):
        raise MethodError(f"sd={sd}: the noise has a standard deviation above 0.")


def _positions(task: Task, span: str | int | Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The positions of every pair that are noised."""
    if isinstance(span, str):
        if span != END and span not in task.span_names:
            raise TaskError(not_known("span", span, [*task.span_names, END]))
        found = ranges(task, [span], True)[:, 0]
        if (lacking := np.flatnonzero(found[:, 0] < 0)).size:
            raise TaskError(
                f"Pair {lacking[0]} of {task.name!r} has no span {span!r}, so nothing of it can be noised. Leave such "
                "pairs out: task[[…]]."
            )
        return tuple(tuple(range(first, end)) for first, end in found.tolist())
    asked = [span] if isinstance(span, int) else [int(at) for at in span]
    shortest = min(task.lengths)
    if not asked or any(not -shortest <= at < shortest for at in asked):
        raise TaskError(f"span={span!r}: positions lie in every prompt, and the shortest has {shortest} tokens.")
    return tuple(tuple(sorted({at % length for at in asked})) for length in task.lengths)
