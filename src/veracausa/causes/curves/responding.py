"""Responses computed: every point of every path is a coalition, run in one batched pass (`responses` says what of)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from veracausa.causes.curves.responses import Responses
from veracausa.choices import TwoAblations
from veracausa.effects.coalitions import coalition_work
from veracausa.effects.laid import laid_units
from veracausa.effects.site_effects import require_single
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute
from veracausa.scores.estimands import TWO_ABLATIONS
from veracausa.suggestions import not_known
from veracausa.units.coalitions import Coalitions, require_kind
from veracausa.units.dictionaries import in_parts
from veracausa.units.every_unit import all_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Points of a path where nothing else is asked for.
ALPHAS = tuple(np.linspace(-2, 3, 21).tolist())


@dataclass(frozen=True, eq=False)
class ResponsesWork(Composed):
    """What `responses` is about to do: units and their sites, moved to each point of a grid."""

    lm: Model
    task: Task
    table: Units
    grid: Float[np.ndarray, " alphas"]
    ablation: TwoAblations = "counterfactual"
    kind: ClassVar[str] = "exact"

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the sites; none where a unit is a whole site."""
        return tuple(sorted(set(self.table.layer.tolist()))) if require_kind(self.lm, self.table.kind) > 1 else ()

    def moved(self) -> Coalitions:
        """Rows (unit or site, α ≠ 0)."""
        table, layers, parts = self.table, self.layers, require_kind(self.lm, self.table.kind)
        own = in_parts(self.lm, table).shares(np.arange(len(table)), parts)
        shares = np.concatenate([own, np.ones((len(layers), parts))])
        points = self.grid[self.grid != 0]
        weights = (shares[:, None] * points[:, None]).reshape(-1, parts)
        return Coalitions.of(table.kind, np.repeat([*table.layer, *layers], len(points)), weights)

    def sloped(self) -> Units:
        """Units whose slopes are needed: all of the sites'."""
        if not self.layers:
            return self.table
        every = all_units(self.lm, self.table.kind)
        return every[np.flatnonzero(np.isin(every.layer, self.layers))]

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """Every point, and the slopes."""
        lm, task, ablation = self.lm, self.task, self.ablation
        baseline: Literal["corrupted", "zero"] = "zero" if ablation == "zero" else "corrupted"
        return {
            "points": coalition_work(
                lm, task, self.moved(), ablation=ablation, direction="noising", reference=None, seed=0
            ),
            "slopes": attribute.work(lm, task, units=self.sloped(), method="atp", baseline=baseline),
        }

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Responses:
        """Run every point, then the slopes by attribution patching."""
        table, grid, layers, sloped = self.table, self.grid, self.layers, self.sloped()
        scores, slopes = (part.run(show_progress, out) for part in self.parts().values())
        values = torch.zeros(len(table) + len(layers), len(grid), len(self.task), dtype=scores.values.dtype)
        values[:, grid != 0] = scores.values.T.unflatten(0, (len(values), -1))
        own = torch.stack([slopes.values[:, sloped.find(name)] for name in table.names])
        whole = [slopes.values[:, torch.as_tensor(sloped.layer == layer)].sum(1) for layer in layers]
        return Responses(
            table,
            layers,
            grid,
            values[: len(table)].contiguous(),
            values[len(table) :].contiguous(),
            own,
            torch.stack(whole) if whole else own[:0],
            scores.clean,
            scores.corrupted,
            scores.model,
            scores.task,
            scores.cost + slopes.cost,
            self.ablation,
        )


@gives(Responses)
def responses(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str] | Units,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    ablation: TwoAblations = "counterfactual",
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> ResponsesWork:
    """M along each unit's own path and along its site's joint path, with slopes, turns and standard errors.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: names or a table, of one kind, at all positions.
        alphas: points of the path, inside or outside [0, 1]; 0 and 1 are always among them.
        ablation: where units go: "counterfactual", or "zero", of a component of weights W − α v_c u_cᵀ.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `Responses`, a mapping unit → `Response`: shares of the gap, sign as for `vc.exact` (noising).

    Raises:
        MethodError: edges, units at single positions, all of a map's components, another ablation.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> found = vc.causes.responses(lm, task, units=["a20.h0"], alphas=np.linspace(-2, 3, 21))
    >>> found["a20.h0"].turns
    """
    if ablation not in TWO_ABLATIONS:
        raise MethodError(not_known("ablation of responses", ablation, TWO_ABLATIONS))
    lm, table = laid_units(lm, task, units, spans=False)
    if table.kind == "edges" or table.positional:
        raise MethodError(
            f"Responses are of units at all positions; {table.names[0]!r} is none. Leave the position out, or take "
            "vc.exact, which is the response at α = 1."
        )
    require_single(table, "Responses")
    grid = np.unique(np.append(np.asarray(list(alphas), dtype=float), [0.0, 1.0]))
    return ResponsesWork(lm, task, table, grid, ablation)
