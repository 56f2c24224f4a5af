"""Exact causal effects: replace a unit's activation, run what follows, read the metric.

    noising:    E_u = M(clean run with u replaced) − M(clean run)
    denoising:  E_u = M(corrupted run with u set to its clean value) − M(corrupted run)

Rows (example, unit) are run by `engine.suffix`: only the blocks behind the patch, only the positions that can change,
only the answer tokens' logits at the last position. Cost of a unit in layer l: (L − l) · S token-layers. For all
neurons of SmolLM2-135M on the published pair that is 46,080 · 15.5 · 7 on average = 4.8 million token-layers or
34 TFLOP; the notebook way costs 46,080 · 30 · 16 = 22 million.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from veracausa.cost import Cost
from veracausa.effects.edge_rows import EdgeRows
from veracausa.effects.replacements import replacement, require_effect
from veracausa.effects.rows import Plan, Rows
from veracausa.engine.session import session
from veracausa.errors import MethodError
from veracausa.scores.headers import reference_settings
from veracausa.scores.scores import Scores, assemble
from veracausa.units.edges import Edges
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.effects.learned_constants import OptimalConstants
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def exact(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    ablation: str = "counterfactual",
    direction: str = "noising",
    reference: Task | None = None,
    constants: OptimalConstants | None = None,
    seed: int = 0,
    rows: int | None = None,
    share_prefix: bool = True,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Scores:
    """Exact effects of units on the metric, example by example.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: "heads", "mlps", "attention" (whole layers), "neurons", "residual" (the stream entering each block);
            each also per position ("heads@positions"); "edges" (a writer seen by one reader alone, see `edge_rows`); or
            names: ["a20.h0", "m3.n1200@9"], ["a9.h6->m10", "input->a0.h0<q>"].
        ablation: what replaces a unit: "counterfactual" (its value in the corrupted run), "zero", "mean", "resample",
            "optimal" (the constant that lets the model do best without it, see `vc.effects.optimal_constants`);
            an edge's write: "counterfactual" or "zero".
        direction: "noising" patches the clean run (negative: the unit supported the behaviour); "denoising" restores
            clean values in the corrupted run (positive: it supports it).
        reference: prompts for mean and resample (default: the task's own, clean and corrupted).
        constants: of optimal ablation (default: learned in this call, with `vc.effects.optimal_constants`' defaults).
        seed: for resample; a donor depends on (seed, example, unit) only.
        rows: rows per chunk (default: from the free memory). Never changes a number beyond rounding.
        share_prefix: run only the positions from the first difference on, which is exact; False to compare.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        show_progress: show a progress bar.

    Returns:
        `Scores` [examples, units] in units of the metric. A position before the first difference has effect 0; a
        position beyond an example's end is NaN.

    Raises:
        MethodError, UnitError, GapError, NumericsError, OutOfMemoryError: see each message.
        ContractError: the engine's unpatched run does not reproduce the bare model's metric.

    >>> exact = vc.exact(lm, task, units="heads")
    >>> exact.top(5)
    """
    if rows is not None and rows < 1:
        raise MethodError(f"rows={rows}: a chunk holds at least one row. Leave rows out to let the free memory decide.")
    table = resolve_units(lm, units, max(task.lengths))
    if isinstance(table, Edges):
        _require_edges(ablation, direction, reference)
    else:
        require_effect(ablation, direction)
    settings, learned = effect_settings(direction, ablation, seed, task, reference), None
    if ablation == "optimal" and direction == "noising" and not isinstance(table, Edges):
        from veracausa.effects.learned_constants import optimal_constants

        if constants is None:
            constants = learned = optimal_constants(lm, task, units=table, out=out, show_progress=show_progress)
        settings |= constants.settings

    def plan(cost: Cost) -> Plan:
        if isinstance(table, Edges):
            return EdgeRows(lm, task, table, ablation == "zero", direction == "noising", rows, cost)
        source = replacement(lm, task, table, ablation, direction, reference, seed, cost, constants)
        return Rows(lm, task, table, source, direction == "noising", rows, cost)

    scores = patched(lm, task, table, plan, method="exact", settings=settings, reference=reference,
                     share_prefix=share_prefix, out=out, show_progress=show_progress)  # fmt: skip
    if constants is not None:
        cost = scores.cost if learned is None else scores.cost + learned.cost
        scores = replace(scores, cost=cost, notes=(*scores.notes, *constants.sentences))
    return scores


def effect_settings(direction: str, ablation: str, seed: int, task: Task, reference: Task | None) -> dict[str, Any]:
    """What the headers of effects say."""
    return {
        "direction": direction,
        "ablation": ablation,
        "seed": seed if ablation == "resample" else None,
        **reference_settings(ablation, task, reference),
    }


@torch.inference_mode(False)
def patched(
    lm: Model,
    task: Task,
    table: Units,
    plan: Callable[[Cost], Plan],
    *,
    method: str,
    settings: dict[str, Any],
    reference: Task | None = None,
    share_prefix: bool = True,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Scores:
    """The effects of a table of units by the rows of `plan(cost)`, resumable; `exact` and its relatives call this.

    NaN where the table does not want an effect of an example.
    """
    share = share_prefix and settings["ablation"] == "counterfactual"
    asked: dict[str, Any] = {
        "units": table.digest(),
        "reference": reference.digest() if reference is not None else None,
        **{key: settings[key] for key in ("direction", "ablation", "seed", "constants") if key in settings},
    }
    shape, name = (len(task), len(table)), f"{method}-{table.kind}"
    with session(lm, task, shape, out=out, name=name, asked=asked, show=show_progress) as call:
        if settings["ablation"] == "counterfactual":
            call.measured.require_gap(task)
        wanted, work = torch.from_numpy(table.wanted(len(task))), plan(call.cost)
        total, finished = work.total(share), call.finished(wanted)
        call.done |= ~wanted

        def run(start: int, examples: tuple[int, ...]) -> None:
            with closing(work.run(start, examples, call.done, call.tick)) as pieces:
                for example, unit, effects in pieces:
                    call.put((example, unit), effects)

        label = f"{method} effects of {len(table):,} {table.kind}"
        call.each(label, total, work.buckets(share), run, done=finished * total)
    return assemble(
        lm,
        task,
        call.values,
        table,
        call.measured,
        method=method,
        settings=settings,
        cost=call.cost,
        verified="exact effects",
        model=call.origin,
    )


def _require_edges(ablation: str, direction: str, reference: Task | None) -> None:
    """Edges carry writes, which are replaced by those of the other run or by nothing."""
    if ablation not in ("counterfactual", "zero") or reference is not None:
        raise MethodError(
            f"ablation={ablation!r} is not known for single edges. Known: counterfactual, zero (of the writer's write)."
        )
    if direction not in ("noising", "denoising"):
        raise MethodError(f"direction={direction!r} is not known. Known: noising, denoising.")
    if ablation == "zero" and direction == "denoising":
        raise MethodError("Denoising restores clean values; there is nothing for ablation='zero' to replace.")
