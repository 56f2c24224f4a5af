"""The cause of one disagreement: each method has those that it can have, and one is named only where it is clear.

| method      | its error over E                    | causes                                                          |
|-------------|-------------------------------------|-----------------------------------------------------------------|
| atp         | −curvature                          | curvature                                                       |
| ig          | interaction                         | redundancy, synergy, quadrature                                 |
| ig (zero)   | baseline + interaction              | baseline, redundancy, synergy, quadrature, several              |
| direct      | −downstream                         | backup (later units work against it), mediation (they carry it) |

*Clear*: Student's 95% interval over pairs excludes 0, by more than rounding (a single pair is taken as it is, and
said to be one). *Most of
the error*: between a half and one and a half of it; where no single cause has that, it is "several". An error that is
itself within its noise has the cause "none clear". *Quadrature*: the layer's integrated gradients miss the sum that
they should have by at least half as much as the unit's error, so that more nodes come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from veracausa.causes.differences import LABELS, RATED, clear
from veracausa.errors import MethodError
from veracausa.statistics.ratios import Share, share_of_gap

if TYPE_CHECKING:
    from veracausa.causes.differences import Differences

NONE, SEVERAL = "none clear", "several"


@dataclass(frozen=True)
class Cause:
    """Why a method disagrees with the exact effect of a unit.

    `cause`: see the module's table. `where`: the kind of nonlinear part that makes the curvature, if it was located.
    `figures`: the numbers behind it, shares of the mean gap with their standard errors over `n` pairs. `sentences`:
    what a researcher would write.

    >>> vc.causes.disagreement(lm, task).causes[0].cause
    """

    unit: str
    method: str
    cause: str
    figures: Mapping[str, Share]
    n: int
    sentences: tuple[str, ...]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.unit} by {LABELS[self.method]}: {self.cause}. {' '.join(self.sentences)}"


def name_cause(found: Differences, unit: str, method: str) -> Cause:
    """See `Disagreement.cause`."""
    if method not in RATED or method not in found.scores:
        known = [name for name in RATED if name in found.scores]
        raise MethodError(f"method={method!r} has no causes here. Known: {', '.join(known)}.")
    figures = {name: found.share(name, unit) for name in found.figures}
    error = found.difference(method).values - found.scores["exact"].values
    figures["error"] = share_of_gap(error[:, found.place(unit)][None], found.scores["exact"].gap)[0]
    cause, said = _CAUSES[method](found, unit, figures)
    opening, where = _opening(found, unit, method, figures), ""
    if method == "atp" and cause == "curvature" and unit in found.locations:  # it opens with the same numbers
        opening, where = found.locations[unit].sentence, found.locations[unit].cause
    return Cause(unit, method, cause, figures, found.n, (opening, *said), where)


def _opening(found: Differences, unit: str, method: str, figures: Mapping[str, Share]) -> str:
    pairs = "one pair: no error known" if found.n == 1 else f"n = {found.n} pairs"
    return (
        f"{_NAMES[method]} gives {unit} {figures[method]} of the gap; replacing it changes the metric by "
        f"{figures['exact']} ({pairs})."
    )


def _of_atp(found: Differences, unit: str, figures: Mapping[str, Share]) -> tuple[str, tuple[str, ...]]:
    slope, effect, curvature = figures["atp"], figures["exact"], figures["curvature"]
    if not clear(curvature):
        return NONE, (f"The difference, {curvature}, is within twice its standard error: more pairs are needed.",)
    if slope.value * effect.value < 0:
        shape = "points the other way: the response turns round on the way to the replacement"
    elif abs(slope.value) < abs(effect.value):
        part = abs(slope.value) / abs(effect.value)
        shape = f"shows {part:.0%} of it: the response is flat around the clean run and steep further on (saturation)"
    else:
        part = abs(slope.value) / max(abs(effect.value), 1e-12)
        times = f"{part:.1f} times as much" if part < 100 else "far more"
        shape = f"promises {times}: the response is steep around the clean run and levels off or comes back"
    said = [f"The slope at the clean run {shape} (curvature {curvature})."]
    if found.backed_up(unit) and abs(slope.value - figures["direct"].value) < abs(curvature.value) / 2:
        said.append(
            f"The slope sees little more than the direct effect, {figures['direct']}; later units work against it by "
            f"{figures['downstream']} once the unit is gone, and not before: a backup."
        )
    return "curvature", tuple(said)


def _of_ig(found: Differences, unit: str, figures: Mapping[str, Share]) -> tuple[str, tuple[str, ...]]:
    interaction = figures["interaction"]
    if not clear(interaction):
        return NONE, (f"The difference, {interaction}, is within twice its standard error: more pairs are needed.",)
    if coarse := _coarse(found, unit, "ig", interaction.value):
        return "quadrature", (coarse,)
    return _within_site(found, unit, figures)


def _within_site(found: Differences, unit: str, figures: Mapping[str, Share]) -> tuple[str, tuple[str, ...]]:
    """Redundancy or synergy, if what F says agrees with the interaction."""
    interaction, pair = figures["interaction"], figures["pairwise"]
    kind = found.kind(unit)
    last = f"with the rest of its layer replaced already, it is worth {figures['last-in']}"
    if not kind or pair.value * interaction.value < 0:
        return SEVERAL, (
            f"It is worth something else in company (interaction {interaction}), but not in the way that two units at "
            f"a time would explain (½ (F − E) is {pair}): {last}.",
        )
    words = {
        "redundancy": f"more than alone: other {found.units.kind} of its layer cover for a part of it",
        "synergy": "less than alone: a part of what it does needs the others of its layer",
    }[kind]
    part = pair.value / interaction.value
    rest = (
        f"interactions of two units at a time make {part:.0%} of the difference"
        if 0.5 <= part <= 1.5
        else f"but interactions of two units at a time would make {part:.0%} of the difference, so three or more are "
        "involved"
    )
    return kind, (
        f"{last[0].upper()}{last[1:]}, {words} ({kind}; IG − E {interaction}).",
        f"½ (F − E) is {pair}: {rest}.",
    )


def _of_zero(found: Differences, unit: str, figures: Mapping[str, Share]) -> tuple[str, tuple[str, ...]]:
    error, baseline, interaction = figures["error"], figures["baseline"], figures["interaction"]
    if not clear(error):
        return NONE, (f"The difference, {error}, is within twice its standard error: more pairs are needed.",)
    if coarse := _coarse(found, unit, "ig-zero", error.value):
        return "quadrature", (coarse,)
    if clear(baseline) and 0.5 < baseline.value / error.value < 1.5:
        return "baseline", (
            f"The same integral towards the corrupted run gives {figures['ig']}: {baseline.value / error.value:.0%} of "
            "the difference comes from the baseline. Zero asks what the unit's presence does, the corrupted prompt "
            "what its content does.",
        )
    if clear(interaction) and 0.5 < interaction.value / error.value < 1.5:
        return _within_site(found, unit, figures)
    return SEVERAL, (
        f"Of the difference, {error}, the baseline makes {baseline} and interaction within its layer {interaction}: "
        "neither alone explains it.",
    )


def _of_direct(found: Differences, unit: str, figures: Mapping[str, Share]) -> tuple[str, tuple[str, ...]]:
    direct, downstream = figures["direct"], figures["downstream"]
    if not clear(downstream):
        return NONE, (f"The difference, {downstream}, is within twice its standard error: more pairs are needed.",)
    if found.backed_up(unit):
        part = abs(downstream.value / direct.value)
        return "backup", (
            f"Later units work against its direct effect by {downstream}, {part:.0%} of it: they make up for the unit "
            "when it is gone (downstream backup).",
        )
    return "mediation", (
        f"Later units that read it carry {downstream} more: its effect is mostly what they make of it.",
    )


def _coarse(found: Differences, unit: str, method: str, error: float) -> str:
    """What to say where the quadrature may be the cause; empty where it is not."""
    residual = found.residual(method, unit)
    if residual < abs(error) / 2:
        return ""
    nodes = found.scores[method].settings.get("nodes")
    return (
        f"With {nodes} nodes the scores of its layer miss the effect of replacing that layer, pair by pair, by "
        f"{residual:.3f} of the mean |gap|, which is no less than half of the difference: the integral has not "
        "converged. Raise nodes=."
    ).replace("-", "−")


_NAMES = {
    "atp": "Attribution patching",
    "ig": "Integrated gradients",
    "ig-zero": "Integrated gradients from zero",
    "direct": "The direct effect",
}
_CAUSES = {"atp": _of_atp, "ig": _of_ig, "ig-zero": _of_zero, "direct": _of_direct}
