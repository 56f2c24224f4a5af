"""Two more exact effects of a unit: when its site has gone already, and through the final stream alone.

    last-in:  F_u = M(run with the whole site replaced) − M(run with the whole site replaced except u)
    direct:   D_u = M(run whose final stream has u's changed write, all later units as they were) − M(run)

Both have the sign of `vc.exact`, whose E_u is the first-in effect: only u is replaced. Where |F| > |E| the units of a
site cover for each other; where E − D has the sign opposite to D, later units cover for u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation, AllUnits, Direction
from veracausa.cost import Cost
from veracausa.dictionaries.words import EVERY, is_coded
from veracausa.effects.coalitions import coalition_work
from veracausa.effects.draws import mean_of_draws
from veracausa.effects.exact import ExactWork, Sources, exact
from veracausa.effects.instead import Instead
from veracausa.effects.laid import laid_units
from veracausa.effects.plan import Patching, Plan
from veracausa.effects.replacements import Replacement, require_joint
from veracausa.effects.rows import Rows
from veracausa.engine.patches import RUN_AGAIN, acts_inside
from veracausa.engine.work import Derived, gives
from veracausa.errors import MethodError
from veracausa.scores.scores import Scores
from veracausa.units.coalitions import Coalitions, require_kind
from veracausa.units.dictionaries import in_parts
from veracausa.units.edges import Edges
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class LastInWork(Derived):
    """Last-in effects of a table of units, by coalitions: see `last_in`."""

    units: Units
    effects: ExactWork

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """The effects, from those of the whole sites and of the sites without each unit."""
        (scores, draws), table = self.effects.by_draw(show_progress, out), self.units
        layers, site = np.unique(table.layer, return_inverse=True)
        whole, without = draws.split([len(layers), len(table)], 2)
        note = "last-in: M(whole layer replaced) − M(whole layer but this unit replaced), with the sign of E"
        values, spread = mean_of_draws(whole[:, :, site] - without)
        notes = (note, *scores.notes)
        return replace(scores, values=values, units=table, method="last-in", notes=notes, draw_stderr=spread)


@gives(Scores)
def last_in(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    ablation: Ablation | Instead = "counterfactual",
    direction: Direction = "noising",
    reference: Reference | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> LastInWork:
    """Last-in effects: what a unit still does when all other units of its site (its layer) are replaced already.

    F_u = M(whole site replaced) − M(whole site replaced except u), in units of the metric, with the sign of
    `vc.exact`. For kinds with one unit a layer it is the exact effect.

    Args:
        lm, task, ablation, direction, reference, seed, out, memory, show_progress: as for `vc.exact`; with "resample" a
            site has one donor, keyed by (seed, example, layer); your own tensors are needed of all units of the layer.
        units: a kind, names or a table, at all positions; the site is always the whole layer: of features their
            dictionary's error with it, of components their whole map, with what their set leaves of it. (What a LoRA's
            rank does where the others are gone and the base model stays is a difference of two sets of `vc.exact`.)

    Returns:
        `Scores` of method "last-in". Cost: one row for each unit and one for each layer.

    Raises:
        MethodError: edges, units at single positions, ablation "optimal". Others as for `vc.exact`.

    >>> vc.effects.last_in(lm, task, units="heads").top(5)
    """
    lm, table = whole_sites(lm, task, units, "Last-in")
    every = coalition_work(
        lm, task, _all_but(lm, table), ablation=ablation, direction=direction, reference=reference, seed=seed
    )
    return LastInWork(table, every)


class DirectWork(ExactWork):
    """Direct effects of a table of units; see `direct`."""

    method = "direct"
    notes = ("direct: later units are held at what they were, only the final stream changes",)

    def plan(self, cost: Cost, source: Sources | None = None) -> Plan:
        """See `ExactWork.plan`."""
        noising = self.direction == "noising"
        return _DirectRows(
            self.lm, self.task, self.units, cast("Replacement", source or self._counted), noising, None, cost
        )


@gives(Scores)
def direct(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    ablation: Ablation | Instead = "counterfactual",
    direction: Direction = "noising",
    reference: Reference | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> DirectWork:
    """Direct effects: a unit is replaced, all later units stay as they were, so that only the final stream changes.

    D_u = M(final stream + change of u's write) − M, in units of the metric, read through the live final norm. In
    post-norm families (Gemma) the write is the layer's, with its norm taken anew. E − D is what later units make of it.

    Args:
        lm, task, units, ablation, direction, reference, seed, out, memory, show_progress: as for `vc.exact`, without
            edges.

    Returns:
        `Scores` of method "direct". Cost: the two recorded runs; a row costs no block, so 0 token-layers.

    Raises:
        MethodError: edges, ablation "optimal". Others as for `vc.exact`.

    >>> vc.effects.direct(lm, task, units="heads").top(5)
    """
    lm, table = laid_units(lm, task, units, spans=False)
    if isinstance(table, Edges):
        raise MethodError("A direct effect goes to the logits: for edges that is vc.exact of the edges 'u->logits'.")
    inside = any(acts_inside(lm.decoder, table.place, layer) for layer in set(table.layer.tolist()))
    if table.place in RUN_AGAIN or inside:
        raise MethodError(
            f"{table.names[0]} changes what the rest of its own block computes, so it has no direct effect on the "
            "logits. Ask for the direct effects of heads, mixers and MLPs."
        )
    require_joint(ablation)
    lm.decoder.require_stream_alone("a direct effect")
    asked = exact.work(lm, task, units=table, ablation=ablation, direction=direction, reference=reference, seed=seed)
    return DirectWork(**{each.name: getattr(asked, each.name) for each in fields(asked)})


class _DirectRows(Rows):
    """Rows that are read off the final stream: nothing behind the patch is run."""

    @property
    def depth(self) -> np.ndarray:
        """Blocks that each unit's row runs: none."""
        return np.zeros(len(self.units))

    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """See `Plan.chunk`."""
        base, last = patching.base, []
        for join in self.joins(patching.bucket.tape, base, rows, start):
            before = (base.middle if join.middle else base.residual)[join.layer]
            entered = join.enter()[:, -patching.bucket.tape.tail :]
            own = entered.shape[1]  # rows may begin behind the tail's first position
            end = base.end(patching.bucket.tape.tail)[join.example]
            moved = entered - before[join.example, -own:]
            end[:, -own:] += moved * self.lm.decoder.scale_between(join.layer, self.lm.layers)
            last.append(end)
        example = torch.as_tensor(rows[:, 0], device=self.lm.device)
        return patching.bucket.read(torch.cat(last), example).to("cpu", self.lm.score_dtype)


def whole_sites(lm: Model, task: Task, units: str | Sequence[str] | Units, what: str) -> tuple[Model, Units]:
    """The table, if its units have a site and are not single positions, and the model (see `laid_units`)."""
    lm, table = laid_units(lm, task, units, spans=False)
    if isinstance(table, Edges) or table.positional:
        kind = "edges" if isinstance(table, Edges) else f"{table.kind} at single positions"
        raise MethodError(f"{what} effects are about the units of a whole layer at all positions, not {kind}.")
    require_single(table, f"{what} effects")
    return lm, table


def require_single(table: Units, what: str) -> None:
    """MethodError for all of a map's components as one unit, which is no part of its site but the whole of it."""
    if is_coded(table.kind) and (every := np.flatnonzero(table.index == EVERY)).size:
        raise MethodError(
            f"{table[every[:1]].names[0]} is all of a map's components; {what} are of each. Take vc.exact of the whole "
            "map, or name its components."
        )


def _all_but(lm: Model, table: Units) -> Coalitions:
    """The whole site of every layer of the table, then the site without each of its units."""
    parts = require_kind(lm, table.kind)
    layers = np.unique(table.layer)
    without = ~in_parts(lm, table).shares(np.arange(len(table)), parts)
    weights = np.concatenate([np.ones((len(layers), parts), dtype=bool), without])
    return Coalitions.of(table.kind, np.concatenate([layers, table.layer]), weights)
