"""Whether units add up: what a group does together, against the sum of what its members do alone.

    INT_g = E_g − Σ_{u ∈ g} E_u,    for two units M(both) − M(u) − M(v) + M(neither)

0 where the response is affine in the members. Under noising it is negative where they take away more together than one
by one: each stands in for the other (redundancy). It is positive where they take away less: they are needed together,
so that each alone takes away what both would (synergy). Under denoising the signs are the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from veracausa.choices import Ablation, Direction
from veracausa.effects.draws import mean_of_draws
from veracausa.effects.exact import ExactWork, exact
from veracausa.effects.instead import Instead
from veracausa.effects.laid import named_units
from veracausa.engine.work import Derived, gives
from veracausa.errors import UnitError
from veracausa.scores.scores import Scores
from veracausa.units.groups import Groups
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class InteractionsWork(Derived):
    """Groups, and the effects of them and of all their members; see `interactions`."""

    units: Groups
    effects: ExactWork

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """The effects of groups, less those of their members."""
        (scores, draws), groups = self.effects.by_draw(show_progress, out), self.units
        column = {members: i for i, members in enumerate(scores.units.members)}  # type: ignore[attr-defined]
        alone = [torch.tensor([column[(one,)] for one in group]) for group in groups.members]
        sums = torch.stack([draws[:, :, own].sum(2) for own in alone], 2)
        values, spread = mean_of_draws(draws[:, :, : len(groups)] - sums)
        note = "interaction: the effect of all members together less the sum of their own effects"
        notes = (note, *scores.notes)
        return replace(scores, values=values, units=groups, method="interaction", notes=notes, draw_stderr=spread)


@gives(Scores)
def interactions(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]] | Units,
    ablation: Ablation | Instead = "counterfactual",
    direction: Direction = "noising",
    reference: Reference | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> InteractionsWork:
    """How far groups of units are from adding up: INT = E of the group − the sum of its members' own E, exactly.

    Args:
        lm, task, ablation, direction, reference, seed, out, memory, show_progress: as for `vc.exact`.
        units: groups of two units or more, as for `vc.exact`: [("a9.h6", "m3"), "m3+m4"], {"movers": […]}.

    Returns:
        `Scores` of method "interaction", in units of the metric, pair by pair. Under noising negative: they take away
        more together than one by one (each stands in for the other); positive: less (they are needed together); under
        denoising the other way round. 0 where the metric is affine in their activations.

    Raises:
        UnitError: no groups, or one of a single unit. Others as for `vc.exact`.

    >>> vc.effects.interactions(lm, task, units=[("a20.h0", "a17.h4")])
    """
    lm, units = named_units(lm, units)
    groups = resolve_units(lm, units, max(task.lengths), groups=True, spans=task)
    if not isinstance(groups, Groups) or any(len(group) < 2 for group in groups.members):
        raise UnitError("An interaction is one of two units or more: units=[('a9.h6', 'm10')], or 'a9.h6+m10'.")
    known = set(groups.members)
    alone = [one for one in groups.singles().members if one not in known]
    every = Groups.of([*groups.members, *alone], [f"{i}" for i in range(len(groups) + len(alone))])
    work = exact.work(lm, task, units=every, ablation=ablation, direction=direction, reference=reference, seed=seed)
    return InteractionsWork(groups, work)
