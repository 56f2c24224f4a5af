"""Surfaces: the metric when two units are moved together, each a share of its way.

    S(α, β) = M(clean run with a_u ← a_u + α (a_u(x′) − a_u), a_v ← a_v + β (a_v(x′) − a_v)) − M(clean)

where a_u and a_v are what the units are *in that run*: the later one's value comes from what the earlier one became. So
S(1, 0) = E_u, S(0, 1) = E_v, S(1, 1) is the effect of both patched together, and

    interaction = S(1, 1) − S(1, 0) − S(0, 1)

Units may lie in one layer or in two, be heads, attention layers, neurons or MLPs. A point of the grid costs a run from
the earlier unit's block on: (L − l) · S token-layers per example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.causes.curves.surfaces import Surface
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.joint import PLACES, Replaced, columns_of, join_before, replacing, towards
from veracausa.engine.measure import measured_runs
from veracausa.engine.memory import chunks
from veracausa.engine.patches import activation, in_attention, site_width, sites_for
from veracausa.engine.session import Session, session
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import Tape
from veracausa.engine.work import gives, recorded_runs
from veracausa.errors import MethodError, NumericsError
from veracausa.scores.scores import task_header
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Shares of the way on each axis where nothing else is asked for.
SHARES = tuple(np.linspace(-0.5, 1.5, 9).tolist())


@dataclass(frozen=True, eq=False)
class SurfaceWork:
    """What `surface` is about to do: a table of one unit each, and the shares of the way on each axis."""

    lm: Model
    task: Task
    units: tuple[Units, Units]
    axes: tuple[Float[np.ndarray, " alphas"], Float[np.ndarray, " betas"]]
    kind: ClassVar[str] = "exact"

    @property
    def names(self) -> tuple[str, str]:
        """The units' names."""
        first, second = self.units
        return first.names[0], second.names[0]

    @property
    def grid(self) -> Float[np.ndarray, "points 2"]:
        """Both shares of every point."""
        return np.stack([part.ravel() for part in np.meshgrid(*self.axes, indexing="ij")], 1)

    @property
    def depth(self) -> int:
        """Blocks that a point runs: those from the earlier unit's on."""
        return self.lm.layers - min(int(table.layer[0]) for table in self.units)

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        kept = sum(site_width(self.lm.decoder, table.place) + self.lm.width for table in self.units)
        most = examples_per_batch(self.lm, self.task, kept)
        return buckets(self.lm.decoder, self.task, True, most)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs measured, then recorded; the engine's own run; the points."""
        positions = sum((self.task.lengths[members[0]] - start) * len(members) for start, members in self.groups())
        runs = measured_runs(self.lm, self.task)
        runs += recorded_runs(self.lm, self.task, self.groups())
        return runs + positions * (self.lm.layers + len(self.grid) * self.depth)

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Surface:
        """Compute S at every point, pair by pair."""
        lm, task, grid = self.lm, self.task, self.grid
        asked = {"units": list(self.names), "grid": grid.tolist()}
        shape = (len(task), len(grid))
        with session(lm, task, shape, out=out, name="surface", asked=asked, show=show_progress) as call:
            call.measured.require_gap(task)
            label = f"surface of {' and '.join(self.names)}"
            with call.bar(label, self.tokens()), torch.no_grad(), attention_function(lm.decoder, SUFFIX):
                call.rest(self.groups(), partial(self._bucket, call))
        values = call.values.T.unflatten(0, tuple(map(len, self.axes))).contiguous()
        clean, corrupted = call.measured.clean, call.measured.corrupted
        return Surface(self.names, *self.axes, values, clean, corrupted, call.origin, task_header(task), call.cost)

    def _bucket(self, call: Session, start: int, examples: tuple[int, ...]) -> None:
        """S of a bucket's pairs at every point of the grid."""
        sites = tuple(dict.fromkeys(site for table in self.units for site in sites_for(table.place)))
        places = [table.place for table in self.units]
        bucket = Bucket.record(self.lm, self.task, start, examples, call.cost, sites=sites, places=places)
        unpatched = bucket.unpatched(bucket.tape.clean)
        grid = torch.as_tensor(self.grid, dtype=self.lm.dtype)
        rows = torch.cartesian_prod(torch.arange(len(examples)), torch.arange(len(grid))).view(-1, 2)

        def patched(part: Tensor) -> Tensor:
            example, shares = part[:, 0].to(self.lm.device), grid[part[:, 1]].to(self.lm.device)
            return (self._point(bucket, example, shares) - unpatched[example]).to("cpu", self.lm.score_dtype)

        found, size = [], rows_per_chunk(self.lm, bucket.positions, bucket.tape.length)
        for _, effects in chunks(rows, size, patched, f"{bucket.positions} tokens"):
            if not torch.isfinite(effects).all():
                names = " and ".join(self.names)
                raise NumericsError(f"NaN or infinity behind {names} on {self.task.name!r}. Run the model in float32.")
            found.append(effects)
            call.advance()
        call.put(list(examples), torch.cat(found).view(len(examples), len(grid)))

    def _point(self, bucket: Bucket, example: Tensor, shares: Float[Tensor, "rows 2"]) -> Float[Tensor, " rows"]:
        """M of runs in which both units go each row's shares of their ways."""
        decoder, tape = self.lm.decoder, bucket.tape
        moved = [
            _moved(self.lm, tape, table, example, share) for table, share in zip(self.units, shares.T, strict=True)
        ]
        with replacing(decoder, moved):
            join = join_before(decoder, tape.clean, moved, example, 0)
            last = sweep(decoder, tape, tape.clean, [join], start=tape.start, cost=bucket.cost)
        return bucket.read(last, example)


@gives(Surface)
def surface(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str],
    alphas: Sequence[float] | np.ndarray = SHARES,
    betas: Sequence[float] | np.ndarray | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> SurfaceWork:
    """M on a grid of two units, each moved a share of the way from its current value to its corrupted one.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: two names, of one kind or of two: heads, attention layers, mixers, neurons, MLPs, at all
            positions.
        alphas, betas: shares of the way of the first and the second unit, inside or outside [0, 1]; 0 and 1 are always
            among them. `betas` defaults to `alphas`.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        MethodError: not two different units, or units that are not replaced on the way (queries, residual stream, …).
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> found = vc.causes.surface(lm, task, units=("a17.h4", "a20.h0"))
    >>> found.interaction, found.kind
    """
    return SurfaceWork(lm, task, _both(lm, task, units), (_axis(alphas), _axis(alphas if betas is None else betas)))


def _both(lm: Model, task: Task, units: Sequence[str]) -> tuple[Units, Units]:
    """One table per unit."""
    if isinstance(units, str) or len(units) != 2 or units[0] == units[1]:
        raise MethodError(f"A surface is of two different units, e.g. units=('a17.h4', 'a20.h0'), not of {units!r}.")
    both = [resolve_units(lm, [name], max(task.lengths)) for name in units]
    for name, table in zip(units, both, strict=True):
        if table.kind == "edges" or table.place not in PLACES or table.positional:
            raise MethodError(
                f"{name!r} is not replaced on the way through a run. Surfaces are of heads, attention layers, mixers, "
                "their heads and channels, neurons and MLPs at all positions."
            )
    first, second = both
    whole = {table.kind: int(table.layer[0]) for table in both}
    nested = first.place == second.place and in_attention(first.place)
    if nested and len(whole) == 2 and len(set(whole.values())) == 1:
        raise MethodError(f"One of {units[0]} and {units[1]} is a part of the other, so they cannot move on their own.")
    return first, second


def _axis(shares: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.unique(np.append(np.asarray(shares, dtype=float), [0.0, 1.0]))


def _moved(lm: Model, tape: Tape, table: Units, example: Tensor, share: Tensor) -> Replaced:
    """One unit, moved each row's share of the way from what it is to what it was in the corrupted run."""
    layer, place = int(table.layer[0]), table.place
    columns = columns_of(lm.decoder, place, layer, int(table.index[0]), per_layer(lm, table.kind))
    other = activation(tape.corrupted, place, layer)[example]
    return Replaced(place, layer, towards(other if columns is None else other[..., columns], share), columns)
