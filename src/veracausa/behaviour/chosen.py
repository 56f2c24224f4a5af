"""Which units a study ablates, and the conditions that it runs: each unit alone, all together, every ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from veracausa.arguments import is_list
from veracausa.dictionaries.words import is_coded
from veracausa.errors import MethodError, UnitError
from veracausa.scores.agreement import Agreement
from veracausa.scores.estimands import UNLEARNED
from veracausa.scores.scores import Scores
from veracausa.suggestions import did_you_mean
from veracausa.units.kinds import KINDS as ALL_KINDS
from veracausa.units.table import Units
from veracausa.units.unit_names import parse_names

if TYPE_CHECKING:
    from veracausa.model import Model

#: Kinds of units that can be replaced at every position, in one run with units of other layers and kinds.
KINDS = ("heads", "mlps", "attention", "neurons", "mixers", "mixer_heads", "channels")


@dataclass(frozen=True)
class Condition:
    """Units that are replaced together, and by what; no units: the model as it is."""

    units: tuple[str, ...]
    ablation: str

    @property
    def name(self) -> str:
        """ "a20.h0", "a20.h0 + m3", "all 6 together", "unablated"."""
        if not self.units:
            return "unablated"
        return " + ".join(self.units) if len(self.units) < 4 else f"all {len(self.units)} together"


UNABLATED = Condition((), "none")


def conditions(names: Sequence[str], ablations: Sequence[str], together: bool) -> tuple[Condition, ...]:
    """The model as it is, each unit alone, and all of them at once, for every ablation."""
    sets = [(name,) for name in names] + ([tuple(names)] if together and len(names) > 1 else [])
    return (UNABLATED, *(Condition(units, ablation) for ablation in ablations for units in sets))


def chosen(lm: Model, units: str | Sequence[str] | Units | Scores | Agreement, top: int) -> tuple[Units, ...]:
    """One table per kind of the units that are named, or that scores or an agreement single out.

    Scores: the `top` strongest by |mean|. Agreement: its outliers, the `top` farthest.

    Raises:
        UnitError: an unknown name, a kind or a single position that cannot be ablated here, a unit named twice, or an
            agreement without outliers.
    """
    names = _names(units, top)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        what = f"Units are listed twice: {', '.join(repeated[:5])}." if repeated else "There is no unit to ablate."
        raise UnitError(f"{what} Name each unit once, e.g. ['a20.h0', 'm3'].")
    by_kind: dict[str, list[str]] = {}
    for name in names:
        one = parse_names(lm, [name])
        if not (one.kind in KINDS or is_coded(one.kind)) or one.positional:
            raise UnitError(
                f"{name!r} cannot be ablated while the model generates: units are replaced at every position, and are "
                "heads (a9.h6), attention layers (a9), mixers (x9, x9.h2), MLPs (m3), neurons (m3.n1200) or features "
                "(f10.517)."
            )
        by_kind.setdefault(one.kind, []).append(name)
    return tuple(parse_names(lm, group) for group in by_kind.values())


def _names(units: str | Sequence[str] | Units | Scores | Agreement, top: int) -> list[str]:
    if top < 1:
        raise MethodError(f"top={top}: take at least one unit.")
    if isinstance(units, Scores):
        return units.units[units.ranking()[:top]].names
    if isinstance(units, Agreement):
        if not units.outliers:
            raise UnitError(
                f"{units.method} has no outliers among these {len(units.names)} units. Name the units to ablate, or "
                "pass scores: their strongest are taken."
            )
        return units.outliers[:top]
    if isinstance(units, Units):
        return units.names
    names = units.split(",") if isinstance(units, str) else list(units) if is_list(units) else []
    if not all(isinstance(name, str) for name in names) or not (isinstance(units, str) or is_list(units)):
        raise UnitError("units= takes names of single units, such as ['a9.h6', 'm3'], scores or an agreement.")
    require_single(names)
    return names


def require_single(names: Sequence[str]) -> None:
    """Raise UnitError for a kind of units where names of single ones are wanted."""
    if whole := [name for name in names if name.partition("@")[0] in (*ALL_KINDS, "edges")]:
        raise UnitError(
            f"{whole[0]!r} is a whole kind of units; name those to ablate, e.g. a20.h0,a17.h4,m29. Which matter is "
            f"what vc.exact(lm, task, units={whole[0]!r}) says; its scores can be passed in place of names."
        )


def require_ablations(ablations: Sequence[str]) -> tuple[str, ...]:
    """The ablations, if they are known and named once.

    Raises:
        MethodError: none, an unknown one, or one named twice.
    """
    wanted = tuple([ablations] if isinstance(ablations, str) else ablations)
    unknown = [name for name in wanted if name not in UNLEARNED]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        meant = did_you_mean(unknown[0], UNLEARNED) if unknown else ""
        raise MethodError(f"ablations={list(wanted)!r}: name each once, at least one of {', '.join(UNLEARNED)}.{meant}")
    return wanted
