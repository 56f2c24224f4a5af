"""M(α): the metric along a path, from the run's own activations (α = 0) through their replacements (α = 1)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.attribution.ablations import replacement
from veracausa.attribution.coalitions import coalition_effects, require_kind
from veracausa.attribution.rows import Rows
from veracausa.attribution.units import Units, resolve_units
from veracausa.engine.cost import Cost
from veracausa.engine.guard import borrowed
from veracausa.engine.memory import halving
from veracausa.errors import MethodError
from veracausa.progress import progress

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@torch.inference_mode(False)
def curves(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str] | Units,
    alphas: Sequence[float] | np.ndarray,
    ablation: str = "counterfactual",
    direction: str = "noising",
    path: Literal["unit", "site"] = "unit",
    show_progress: bool = True,
) -> Float[Tensor, "examples units alphas"]:
    """M(run with unit u at a_u + α Δ_u) − M(run), in units of the metric, for every example, unit and α.

    0 at α = 0, the exact effect at α = 1; α may lie outside [0, 1]. The slope at 0 is what attribution patching
    reports, the value at 1 what exact patching does: where the curve bends, they differ. With path="site" all units of
    u's kind in its layer move together, and α = 1 is the effect of the whole site. `vc.responses` has both, and what
    there is to say about them.

    Raises:
        MethodError: another path; the site's path for edges or for units at single positions.

    >>> vc.curves(lm, task, units=["a20.h0"], alphas=np.linspace(-0.5, 1.5, 21))
    """
    table = resolve_units(lm, units, max(task.lengths))
    if path == "site":
        return _sites(lm, task, table, alphas, ablation, direction, show_progress)
    if path != "unit":
        raise MethodError(f"path={path!r} is not known. Known: unit, site.")
    points = np.asarray(alphas, dtype=float)
    repeated = table[np.repeat(np.arange(len(table)), len(points))]
    cost = Cost()
    values = torch.full((len(task), len(repeated)), float("nan"), dtype=lm.score_dtype)
    with borrowed(lm.decoder):
        source = replacement(lm, task, table, ablation, direction, None, 0, cost)
        rows = Rows(lm, task, repeated, source, direction == "noising", None, cost, np.tile(points, len(table)))
        share = ablation == "counterfactual"
        nothing = torch.zeros(values.shape, dtype=torch.bool)
        with progress(f"curves of {len(table)} {table.kind}", rows.total(share), show_progress) as tick:

            def run(start: int, examples: tuple[int, ...]) -> None:
                with closing(rows.run(start, examples, nothing, tick)) as chunks:
                    for example, unit, effects in chunks:
                        values[example, unit] = effects

            halving(rows.buckets(share), run)
    return values.unflatten(1, (len(table), len(points)))


def _sites(
    lm: Model,
    task: Task,
    table: Units,
    alphas: Sequence[float] | np.ndarray,
    ablation: str,
    direction: str,
    show_progress: bool,
) -> Float[Tensor, "examples units alphas"]:
    """The joint path of each unit's site; units of one layer share a curve."""
    if table.kind == "edges" or table.positional:
        raise MethodError(f"{table.names[0]!r} has no site whose units could move together; use path='unit'.")
    layers, mine = np.unique(table.layer, return_inverse=True)
    points = np.asarray(alphas, dtype=float)
    weights = np.tile(points, len(layers))[:, None] * np.ones(require_kind(lm, table.kind))
    found = coalition_effects(
        lm, task, table.kind, np.repeat(layers, len(points)), weights, ablation=ablation, direction=direction,
        show_progress=show_progress,
    )  # fmt: skip
    return found.unflatten(1, (len(layers), len(points)))[:, mine]
