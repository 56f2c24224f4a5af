"""Surfaces: the metric when two units are moved together, each a share of its way.

    S(α, β) = M(clean run with a_u ← a_u + α (a_u(x′) − a_u), a_v ← a_v + β (a_v(x′) − a_v)) − M(clean)

where a_u and a_v are what the units are *in that run*: the later one's value comes from what the earlier one became. So
S(1, 0) = E_u, S(0, 1) = E_v, S(1, 1) is the effect of both patched together, and

    interaction = S(1, 1) − S(1, 0) − S(0, 1)

Units may lie in one layer or in two, be heads, attention layers, neurons or MLPs. A point of the grid costs a run from
the earlier unit's block on: (L − l) · S token-layers per example.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.causes.curves.surfaces import Surface
from veracausa.cost import Cost
from veracausa.effects.planning import recorded_runs
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.joint import PLACES, Replaced, columns_of, join_before, replacing, towards
from veracausa.engine.measure import measure
from veracausa.engine.memory import chunks, halving
from veracausa.engine.patches import activation, site_width, sites_for
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import Tape, buckets
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

#: Shares of the way on each axis where nothing else is asked for.
SHARES = tuple(np.linspace(-0.5, 1.5, 9).tolist())


@torch.inference_mode(False)
def surface(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str],
    alphas: Sequence[float] | np.ndarray = SHARES,
    betas: Sequence[float] | np.ndarray | None = None,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Surface:
    """M on a grid of two units, each moved a share of the way from its current value to its corrupted one.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: two names, of one kind or of two: heads, attention layers, neurons, MLPs, at all positions.
        alphas, betas: shares of the way of the first and the second unit, inside or outside [0, 1]; 0 and 1 are always
            among them. `betas` defaults to `alphas`.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        show_progress: show a progress bar.

    Raises:
        MethodError: not two different units, or units that are not replaced on the way (queries, residual stream, …).
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> found = vc.causes.surface(lm, task, units=("a17.h4", "a20.h0"))
    >>> found.interaction, found.kind
    """
    began = time.monotonic()
    both = _require(lm, task, units)
    axes = _axis(alphas), _axis(alphas if betas is None else betas)
    grid = np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], 1)
    cost = Cost(full=sum(task.lengths) * lm.layers)
    origin = lm.header()
    header = {
        "version": __version__,
        "model": origin["identity"],
        "task": task_header(task)["digest"],
        "units": list(units),
        "grid": grid.tolist(),
    }
    shape = (len(task), len(grid))
    kept = None if out is None else Checkpoint.open(out, "surface", header, shape, lm.score_dtype)
    if kept is not None:
        cost = kept.cost
        cost.full = sum(task.lengths) * lm.layers
    values = kept.values if kept else torch.full(shape, float("nan"), dtype=lm.score_dtype)
    before = cost.seconds
    with borrowed(lm.decoder), torch.no_grad():
        measured = measure(lm, task, None if cost.forward else cost)
        if kept is not None:
            kept.require_behaviour(lm, measured.clean, measured.corrupted)
        measured.require_gap(task)
        total = _rows_cost(lm, task, both, len(grid))
        with (
            progress(f"surface of {units[0]} and {units[1]}", total, show_progress) as tick,
            attention_function(lm.decoder, SUFFIX),
        ):

            def run(start: int, examples: tuple[int, ...]) -> None:
                if kept is not None and kept.done[list(examples)].all():
                    return
                values[list(examples)] = _bucket(lm, task, both, grid, start, examples, cost, tick)
                cost.seconds = before + time.monotonic() - began
                if kept is not None:
                    kept.done[list(examples)] = True
                    kept.keep(force=True)

            halving(_groups(lm, task, both), run)
    cost.seconds = before + time.monotonic() - began
    return Surface(
        (units[0], units[1]),
        *axes,
        values.T.unflatten(0, (len(axes[0]), len(axes[1]))).contiguous(),
        measured.clean,
        measured.corrupted,
        origin,
        task_header(task),
        cost,
    )


def planned_surface(
    lm: Model,
    task: Task,
    units: Sequence[str],
    *,
    alphas: Sequence[float] | np.ndarray = SHARES,
    betas: Sequence[float] | np.ndarray | None = None,
) -> float:
    """Token-layers that `surface` will take."""
    both = _require(lm, task, units)
    points = len(_axis(alphas)) * len(_axis(alphas if betas is None else betas))
    unpatched = lm.layers * sum((len(task.clean[e[0]]) - s) * len(e) for s, e in _groups(lm, task, both))
    return 2 * recorded_runs(lm, task, True) + unpatched + _rows_cost(lm, task, both, points)


def _require(lm: Model, task: Task, units: Sequence[str]) -> tuple[Units, Units]:
    """One table per unit."""
    if isinstance(units, str) or len(units) != 2 or units[0] == units[1]:
        raise MethodError(f"A surface is of two different units, e.g. units=('a17.h4', 'a20.h0'), not of {units!r}.")
    both = [resolve_units(lm, [name], max(task.lengths)) for name in units]
    for name, table in zip(units, both, strict=True):
        if table.kind == "edges" or table.place not in PLACES or table.positional:
            raise MethodError(
                f"{name!r} is not replaced on the way through a run. Surfaces are of heads, attention layers, neurons "
                "and MLPs at all positions."
            )
    first, second = both
    whole = {table.kind: int(table.layer[0]) for table in both}
    if first.place == second.place == "z" and len(whole) == 2 and len(set(whole.values())) == 1:
        raise MethodError(f"One of {units[0]} and {units[1]} is a part of the other, so they cannot move on their own.")
    return first, second


def _axis(shares: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.unique(np.append(np.asarray(shares, dtype=float), [0.0, 1.0]))


def _groups(lm: Model, task: Task, both: tuple[Units, Units]) -> list[tuple[int, tuple[int, ...]]]:
    kept = sum(site_width(lm.decoder, table.place) + lm.width for table in both)
    return buckets(lm.decoder, task.clean, task.corrupted, True, examples_per_batch(lm, task, kept))


def _first(both: tuple[Units, Units]) -> int:
    return min(int(table.layer[0]) for table in both)


def _rows_cost(lm: Model, task: Task, both: tuple[Units, Units], points: int) -> float:
    """Token-layers of the grid's runs."""
    tokens = sum((len(task.clean[e[0]]) - s) * len(e) for s, e in _groups(lm, task, both))
    return float(tokens * points * (lm.layers - _first(both)))


def _bucket(
    lm: Model,
    task: Task,
    both: tuple[Units, Units],
    grid: np.ndarray,
    start: int,
    examples: tuple[int, ...],
    cost: Cost,
    tick: Tick,
) -> Float[Tensor, "examples points"]:
    """S at every point of the grid."""
    decoder = lm.decoder
    sites = tuple(dict.fromkeys(site for table in both for site in sites_for(table.place)))
    places = [table.place for table in both]
    bucket = Bucket.record(lm, task, start, examples, cost, sites=sites, places=places)
    tape, read, unpatched = bucket.tape, bucket.read, bucket.unpatched(bucket.tape.clean)
    n = len(examples)
    rows = torch.cartesian_prod(torch.arange(n), torch.arange(len(grid))).view(-1, 2)
    shares = torch.as_tensor(grid, dtype=lm.dtype)

    def patched(part: Tensor) -> Tensor:
        example = part[:, 0].to(lm.device)
        parts = [
            _moved(lm, tape, table, example, shares[part[:, 1], which].to(lm.device))
            for which, table in enumerate(both)
        ]
        with replacing(decoder, parts):
            join = join_before(decoder, tape.clean, parts, example, 0)
            last = sweep(decoder, tape, tape.clean, [join], start=start, cost=cost)
        return (read(last, example) - unpatched[example]).to("cpu", lm.score_dtype)

    found, size = [], rows_per_chunk(lm, bucket.positions, tape.length)
    for part, effects in chunks(rows, size, patched, f"{bucket.positions} tokens"):
        if not torch.isfinite(effects).all():
            names = " and ".join(table.names[0] for table in both)
            raise NumericsError(f"NaN or infinity behind {names} on {task.name!r}. Run the model in float32.")
        found.append(effects)
        tick(float(len(part) * bucket.positions * (lm.layers - _first(both))))
    return torch.cat(found).view(n, len(grid))


def _moved(lm: Model, tape: Tape, table: Units, example: Tensor, share: Tensor) -> Replaced:
    """One unit, moved each row's share of the way from what it is to what it was in the corrupted run."""
    layer, place = int(table.layer[0]), table.place
    columns = columns_of(lm.decoder, place, int(table.index[0]))
    other = activation(tape.corrupted, place, layer)[example]
    return Replaced(place, layer, towards(other if columns is None else other[..., columns], share), columns)
