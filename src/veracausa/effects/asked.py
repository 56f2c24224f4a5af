"""What may be asked of exact effects: ablations, directions and kinds of units that mean something together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.choices import Ablation, Direction
from veracausa.effects.counterparts import require_alike
from veracausa.effects.crossing_rows import crosses, require_alone
from veracausa.effects.instead import Instead
from veracausa.effects.laid import require_one_donor
from veracausa.effects.learned_constants import OptimalConstants
from veracausa.effects.path_rows import require_still
from veracausa.effects.replacements import require_constants, require_effect, require_joint, require_reference
from veracausa.errors import MethodError
from veracausa.units.at_spans import SpanUnits
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.paths import Paths
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def require_asked(
    lm: Model,
    task: Task,
    table: Units,
    ablation: Ablation | Instead,
    direction: Direction,
    reference: Task | None,
    constants: OptimalConstants | None,
) -> None:
    """What of `vc.exact`'s arguments means nothing together, before anything is run.

    Raises:
        MethodError, UnitError: see each message.
    """
    require_one_donor(table, ablation)
    if isinstance(table, Edges | Paths):
        require_writes(table.kind, ablation, direction, reference)
    else:
        require_replaced(ablation, direction, constants)
        require_reference(ablation, reference)
    if isinstance(table, Paths) and ablation == "counterfactual":
        require_still(task, table)
    if not isinstance(ablation, Instead):
        require_constants(ablation, constants)
    if not isinstance(table, Edges | Paths | Groups) and crosses(lm, table.kind):
        require_alone(table, ablation)
    if isinstance(table, Groups):
        require_joint(ablation)
    if isinstance(table, SpanUnits | Groups) and ablation == "counterfactual":
        require_alike(task, table)
    if ablation == "optimal" and table.kind in ("states", "taps"):
        raise MethodError(f"ablation='optimal' learns constants of sites, not of {table.kind}. Take zero or mean.")


def require_replaced(ablation: str | Instead, direction: str, constants: object = None) -> None:
    """MethodError for ablations and directions that mean nothing together, also with a replacement of your own."""
    if not isinstance(ablation, Instead):
        require_effect(ablation, direction)
        return
    if direction != "noising":
        raise MethodError(
            f"direction={direction!r} restores a unit's clean value in the corrupted run; there is nothing that "
            f"{type(ablation).__name__}(…) could replace. Use direction='noising'."
        )
    if constants is not None:
        raise MethodError("constants= are those of ablation='optimal'. Leave them out.")


def require_activations(kinds: Sequence[str], what: str) -> None:
    """MethodError for what you put there yourself in the place of units that are no activations."""
    if {"adapters", "layer_adapters"} & {*kinds}:
        raise MethodError(
            f"{what} is put in the place of activations; what an adapter adds is replaced by zero (switched off), "
            "counterfactual, mean or resample. Name the unit that the map makes to put something else there."
        )
    if {"states", "taps"} & {*kinds}:
        raise MethodError(
            f"{what} is put in the place of activations; what a mixer carries is none, and is replaced by what another "
            "run carries (counterfactual, resample) or by zero. Name its channels or gates to put something else there."
        )


def require_writes(kind: str, ablation: str | Instead, direction: str, reference: Task | None) -> None:
    """Edges and paths carry writes, which are replaced by those of the other run or by nothing."""
    if ablation not in ("counterfactual", "zero"):
        said = f"{type(ablation).__name__}(…)" if isinstance(ablation, Instead) else repr(ablation)
        whole = " To put something else in a unit's place, name the unit whole." * isinstance(ablation, Instead)
        raise MethodError(
            f"ablation={said} is not known for {kind}. Known: counterfactual, zero (of the writer's write).{whole}"
        )
    if reference is not None:
        raise MethodError(
            f"reference= is for mean and resample; {kind} bring the other run's write, or nothing. Leave it out."
        )
    if direction not in ("noising", "denoising"):
        raise MethodError(f"direction={direction!r} is not known. Known: noising, denoising.")
    if ablation == "zero" and direction == "denoising":
        raise MethodError("Denoising restores clean values; there is nothing for ablation='zero' to replace.")
