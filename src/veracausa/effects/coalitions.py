"""Coalitions: several parts of one layer's site patched together, each all the way or a share of it.

    v(S) = M(run with every unit of S replaced) − M(run),   S a set of units of one site

A coalition is a row of `rows.Rows` like a single unit, which is the coalition of that unit alone. Last-in effects, site
effects, Shapley values and joint paths are made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.choices import Ablation, Direction
from veracausa.effects.exact import ExactWork, exact
from veracausa.effects.instead import Instead
from veracausa.effects.replacements import require_joint
from veracausa.errors import UnitError
from veracausa.units.coalitions import Coalitions, require_kind

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task


def coalition_work(
    lm: Model,
    task: Task,
    table: Coalitions,
    *,
    ablation: Ablation | Instead,
    direction: Direction,
    reference: Reference | None,
    seed: int,
) -> ExactWork:
    """v(S) of coalitions of units of one site each, as scores: in units of the metric, with the sign of `vc.exact`.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        table: the coalitions (`Coalitions.of(kind, layers, weights)`): the layer of each, and the share of the way to
            its replacement that each part goes: 0 stays, 1 is replaced, any other number is a point on (or beyond) the
            straight path. All 1: the whole site.
        ablation, direction, reference, seed: as for `vc.exact`. With "resample" the whole site of an example has one
            donor, keyed by (seed, example, layer).

    Raises:
        UnitError: a layer or a number of parts that the model does not have. Others as for `vc.exact`.

    >>> whole_site = Coalitions.of("heads", [20], np.ones((1, lm.heads)))
    """
    require_joint(ablation)
    parts = require_kind(lm, table.kind)
    if table.weights.shape != (len(table), parts):
        raise UnitError(
            f"weights of {len(table)} coalitions of {table.kind} must be {len(table)} × {parts}: a layer of {lm.name} "
            f"has {parts} of them. These are {' × '.join(map(str, table.weights.shape))}."
        )
    return exact.work(lm, task, units=table, ablation=ablation, direction=direction, reference=reference, seed=seed)
