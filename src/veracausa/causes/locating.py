"""Where does attribution patching go wrong? The curvature E − AtP of a unit, located exactly.

Three accounts of the same number, per example:

* *by kind.* A patched run with some kinds of nonlinear parts (softmax, norm, MLP, metric; `engine.expansion`) replaced
  by their tangents at the clean run. All expanded: AtP; none: E. A kind's part is its Shapley value over the 2^k runs,
  so the parts sum to E − AtP.
* *by sublayer and head.* Increments of the first-order account T = ⟨∂M/∂r, Δr⟩ along the forward pass
  (`location_runs`), which begins at AtP and ends at E.
* *saturation.* The attention of the head with the largest increment, clean, corrupted and along the unit's own path.

Cost of a unit in layer l, per example: (2^k + 1) patched runs, (L − l) · S token-layers each, k = 3 for logit
differences and 4 for other metrics or a soft cap of the logits; and for the attention one more per α.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.causes.location_runs import Recorded, Recorder, run_rows
from veracausa.causes.locations import Locations
from veracausa.causes.saturation import Saturation, watch_head
from veracausa.cost import Cost
from veracausa.effects.replacements import Counterfactual
from veracausa.effects.rows import Rows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.expansion import kinds_of
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.measure import measure
from veracausa.engine.memory import halving, memory_errors, shrinking
from veracausa.engine.patches import where
from veracausa.engine.tape import buckets
from veracausa.errors import MethodError, NumericsError
from veracausa.progress import Tick, progress
from veracausa.scores.scores import task_header
from veracausa.storage.pieces import Checkpoint
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Points of a unit's own path at which attention is looked at.
ALPHAS = (0.25, 0.5, 0.75, 1.0)
#: Kinds of units whose own activation enters the stream linearly, but for a post-norm.
LOCATED = ("heads", "mlps", "neurons", "attention", "residual")


@torch.inference_mode(False)
def locate(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str] | Units,
    alphas: Sequence[float] = ALPHAS,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Locations:
    """Where between its patch and the metric E − AtP of each unit arises: kind of nonlinearity, sublayer, head.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: names (["a20.h0", "a9.h6"]) or a table, of one kind: heads, MLPs, neurons, attention layers, the
            residual stream; at all positions. Meant for a few units that an estimate gets wrong.
        alphas: where on a unit's own path (0: its own value, 1: replaced) the attention behind it is looked at; 1 is
            always among them.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        show_progress: show a progress bar.

    Returns:
        `Locations`, a mapping unit → `Location`; effects with the sign of `vc.exact` (noising, counterfactual).

    Raises:
        MethodError: units whose curvature begins before the patch (queries, keys, values), edges, units at single
            positions; the metric `neg_kl`, whose AtP is 0.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> found = vc.causes.locate(lm, task, units=vc.agreement(estimate, exact).outliers[:6])
    >>> found["a20.h0"].cause
    """
    began = time.monotonic()
    table, points = _require(lm, task, units), _points(alphas)
    kinds, cost = kinds_of(lm.decoder, task.metric), Cost(full=sum(task.lengths) * lm.layers)
    sizes = (1 << len(kinds), 2 * lm.layers + 2, lm.layers * lm.heads)
    origin = lm.header()
    header = {
        "version": __version__,
        "model": origin["identity"],
        "task": task_header(task)["digest"],
        "units": table.digest(),
    }
    columns = len(table) * sum(sizes)
    kept = None if out is None else Checkpoint.open(out, "location", header, (len(task), columns), lm.score_dtype)
    if kept is not None:
        cost = kept.cost
        cost.full = sum(task.lengths) * lm.layers
    values = kept.values if kept else torch.full((len(task), columns), float("nan"), dtype=lm.score_dtype)
    before, measuring = cost.seconds, Cost()
    with borrowed(lm.decoder):
        measured = measure(lm, task, measuring if cost.forward else cost)
        if kept is not None:
            kept.require_behaviour(lm, measured.clean, measured.corrupted)
        measured.require_gap(task)
        label, total = f"locating E − AtP of {len(table)} {table.kind}", planned_locate(lm, task, table, alphas=points)
        with progress(label, total, show_progress) as tick, attention_function(lm.decoder, SUFFIX):

            def run(start: int, examples: tuple[int, ...]) -> None:
                if kept is not None and kept.done[list(examples)].all():
                    return
                values[list(examples)] = _bucket(recorder(start, examples), table, recorder, tick)
                cost.seconds = before + time.monotonic() - began
                if kept is not None:
                    kept.done[list(examples)] = True
                    kept.keep(force=True)

            recorder = Recorder(lm, task, table.place, _fits(lm, task), cost)
            groups = _groups(lm, task)
            halving(groups, run)
            parts = values.unflatten(1, (len(table), -1)).movedim(0, -1).split(sizes, 1)
            heads = parts[2].unflatten(1, (lm.layers, lm.heads))
            saturation = _saturation(lm, task, table, heads.mean(-1), points, groups, recorder, tick)
    cost.seconds = before + time.monotonic() - began
    return Locations(
        table,
        kinds,
        *(parts[0].contiguous(), parts[1].contiguous(), heads.contiguous()),
        saturation,
        measured.clean,
        measured.corrupted,
        origin,
        task_header(task),
        cost,
    )


def planned_locate(lm: Model, task: Task, units: Sequence[str] | Units, *, alphas: Sequence[float] = ALPHAS) -> float:
    """Token-layers that `locate` will take, measuring both runs included."""
    table = _require(lm, task, units)
    runs, watched = 1 + (1 << len(kinds_of(lm.decoder, task.metric))), _behind(lm, table) < lm.layers
    depth = _rows(lm, task, table, Cost()).depth
    total = 0.0
    times = 2 if watched.any() and not _fits(lm, task) else 1
    for start, examples in _groups(lm, task):
        own = len(task.clean[examples[0]]) - start
        # both runs; of the clean one gradients, the engine's own run, the parts' ends
        recorded = lm.layers * (start + 5 * own) * times
        rows = own * (depth.sum() * runs + (depth[watched] * len(_points(alphas)) + 1).sum())
        total += len(examples) * float(recorded + rows + lm.layers * (start + 2 * own))
    return total


def _require(lm: Model, task: Task, units: Sequence[str] | Units) -> Units:
    """The table, if its units' curvature lies behind their patches."""
    table = resolve_units(lm, units, max(task.lengths))
    if table.kind not in LOCATED or table.positional:
        raise MethodError(
            f"vc.causes.locate takes {', '.join(LOCATED)} at all positions; {table.names[0]!r} is of another kind. For "
            "a query, key or value take its head; for single positions the unit at all of them."
        )
    if task.metric == "neg_kl":
        raise MethodError(
            "The gradient of a KL divergence at the clean run is zero, so attribution patching scores every unit 0 and "
            "its whole effect is curvature. Use another metric, e.g. logit_diff."
        )
    return table


def _points(alphas: Sequence[float]) -> tuple[float, ...]:
    """The path's points that must be run, in order, 1 the last."""
    return (*(float(a) for a in alphas if a not in (0, 1)), 1.0)


def _rows(lm: Model, task: Task, table: Units, cost: Cost, alpha: np.ndarray | None = None) -> Rows:
    return Rows(lm, task, table, Counterfactual(True), True, None, cost, alpha)


def _groups(lm: Model, task: Task) -> list[tuple[int, tuple[int, ...]]]:
    """Buckets of pairs that are run together."""
    return buckets(lm.decoder, task.clean, task.corrupted, True, _batch(lm, task))


def _batch(lm: Model, task: Task) -> int:
    """Pairs that fit with what the expansion and the gradients keep of each layer."""
    decoder = lm.decoder
    kept = 2 * decoder.neurons + 12 * decoder.width + 4 * decoder.heads * decoder.head_dim
    return examples_per_batch(lm, task, kept)


def _fits(lm: Model, task: Task) -> bool:
    """Whether all pairs may stay recorded until their attention is looked at."""
    return len(task) <= _batch(lm, task)


def _behind(lm: Model, table: Units) -> np.ndarray:
    """The first layer whose attention is behind each unit's patch; L if there is none."""
    joined = [where(lm.decoder, table.place, int(layer)).join for layer in table.layer]
    return np.array([layer + middle for layer, middle in joined])


def _bucket(recorded: Recorded, table: Units, recorder: Recorder, tick: Tick) -> Tensor:
    """All figures of a bucket, [examples, units × figures]."""
    lm, task, tape = recorded.lm, recorder.task, recorded.tape
    rows, n = _rows(lm, task, table, recorder.cost), len(tape.examples)
    by_layer = np.argsort(table.layer, kind="stable")
    order = np.stack([np.tile(np.arange(n), len(table)), np.repeat(by_layer, n)], 1)
    found: Tensor | None = None
    positions = tape.length - tape.start
    size = rows_per_chunk(lm, positions, tape.length, backward=True)
    choices = 1 + (1 << len(recorded.kinds))
    while len(order):

        def attempt(most: int, waiting: np.ndarray = order) -> Tensor:
            account = run_rows(recorded, rows, waiting[:most])
            return torch.cat([account.runs, account.sublayers, account.heads.flatten(0, 1)]).T.cpu()

        figures, size = shrinking(size, attempt, f"{positions} tokens")
        part, order = order[:size], order[size:]
        if found is None:
            found = figures.new_zeros(n, len(table), figures.shape[1])
        if not torch.isfinite(figures).all():
            bad = table.names[int(part[int((~torch.isfinite(figures)).any(1).nonzero()[0]), 1])]
            raise NumericsError(f"NaN or infinity behind {bad} on {task.name!r}. Run the model in float32.")
        found[part[:, 0], part[:, 1]] = figures
        tick(float(rows.depth[part[:, 1]].sum()) * positions * choices)
    assert found is not None
    return found.flatten(1)


def _saturation(
    lm: Model,
    task: Task,
    table: Units,
    heads: Tensor,
    points: tuple[float, ...],
    groups: list[tuple[int, tuple[int, ...]]],
    recorder: Recorder,
    tick: Tick,
) -> tuple[Saturation | None, ...]:
    """For every unit with an attention behind it, the head with the largest mean increment."""
    strongest: dict[int, tuple[int, int]] = {}
    for u, first in enumerate(_behind(lm, table).tolist()):
        if first < lm.layers:
            layer, head = divmod(int(heads[u, first:].abs().flatten().argmax()), lm.heads)
            strongest[u] = first + layer, head
    found: dict[int, list[tuple[Tensor, ...]]] = {u: [] for u in strongest}
    indices: list[int] = []

    def run(start: int, examples: tuple[int, ...]) -> None:
        recorded, fresh = recorder(start, examples), []
        for u, (layer, head) in strongest.items():
            rows = _rows(lm, task, table[[u] * len(points)], recorder.cost, np.array(points))
            with memory_errors(f"{len(points)} runs of {len(examples)} prompts"):
                fresh.append(tuple(part.cpu() for part in watch_head(recorded, rows, layer, head)))
            tick(float(rows.depth.sum()) * (recorded.tape.length - start) * len(examples))
        for u, figures in zip(strongest, fresh, strict=True):
            found[u].append(figures)
        indices.extend(examples)

    if strongest:
        halving(groups, run)
    back = torch.argsort(torch.tensor(indices))
    saturation: list[Saturation | None] = [None] * len(table)
    for u, (layer, head) in strongest.items():
        entropy, largest, key, query, visible = (torch.cat(parts)[back] for parts in zip(*found[u], strict=True))
        one = Saturation(f"a{layer}.h{head}", points, entropy, largest, key, query, visible, ())
        saturation[u] = replace(one, texts=tuple(_texts(task, one, i) for i in range(len(task))))
    return tuple(saturation)


def _texts(task: Task, one: Saturation, example: int) -> tuple[str, str, str]:
    """Query token, and the most attended tokens, clean and with the unit replaced (in its clean prompt)."""
    tokens = task.tokens(example)[0]
    query, before, after = int(one.query[example]), int(one.key[example, 0]), int(one.key[example, -1])
    return tokens[query], tokens[before], tokens[after]
