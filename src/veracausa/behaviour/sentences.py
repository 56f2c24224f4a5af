"""What an ablation study says, in sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veracausa.behaviour.results import AblationStudy, Outcome

#: Units that a sentence names; the others are counted.
_NAMED = 5


def study_sentences(study: AblationStudy) -> tuple[str, ...]:
    """How good the model is, what costs most, what changes accuracy, and what moves the metric alone."""
    base = study.unablated
    found = [
        f"Unablated, the model answers {percent(base.accuracy)} of {base.n:,} prompts right (95% interval "
        f"{interval(base)}); mean {study.task['metric']} {base.metric:+.3f}."
    ]
    alone = [one for one in study.outcomes if len(one.condition.units) == 1]
    if alone:
        worst = min(alone, key=lambda one: one.accuracy_change)
        if worst.accuracy_change < 0:
            what = f"{worst.condition.ablation} ablation of {worst.condition.name}"
            found.append(f"Of single units, {what} costs most: {_seen(worst)}, {_test(worst, study)}.")
        best = max(alone, key=lambda one: one.accuracy_change)
        if best.accuracy_change > 0 and best.p_holm <= study.alpha:
            what = f"{best.condition.ablation} ablation of {best.condition.name}"
            found.append(f"The model does better under {what}: {_seen(best)}, {_test(best, study)}.")
    for one in study.outcomes:
        if len(one.condition.units) > 1:
            found.append(_together(one, study))
    for ablation in dict.fromkeys(one.condition.ablation for one in study.outcomes):
        own = [one for one in alone if one.condition.ablation == ablation]
        if own:
            found.append(_split(ablation, own, study))
    return tuple(found)


def _split(ablation: str, own: Sequence[Outcome], study: AblationStudy) -> str:
    """Which units of one ablation change accuracy, and which only the metric."""
    changed = [one for one in own if one.p_holm <= study.alpha]
    rest = [one for one in own if one.p_holm > study.alpha]
    units = "unit" if len(own) == 1 else "units"
    text = (
        f"{ablation.capitalize()} ablation changes accuracy significantly for {len(changed)} of {len(own)} {units} "
        f"(McNemar, level {study.alpha:g} after Holm over {len(study.outcomes)} tests)"
    )
    text += f": {_names(changed)}." if changed else "."
    silent = [one for one in rest if abs(one.change) > 2 * one.stderr]
    if silent:
        moves = "moves" if len(silent) == 1 else "move"
        text += (
            f" {_names(silent)} {moves} the mean {study.task['metric']} by more than two standard errors without a "
            f"change of accuracy that {study.n:,} prompts could show."
        )
    return text


def _together(one: Outcome, study: AblationStudy) -> str:
    members = set(one.condition.units)
    parts = [
        other
        for other in study.outcomes
        if other.condition.ablation == one.condition.ablation and set(other.condition.units) < members
    ]
    ablation = one.condition.ablation.capitalize()
    text = f"{ablation} ablation of all {len(members)} units together: {_seen(one)}, {_test(one, study)}"
    if len(parts) == len(members):
        total = sum(other.accuracy_change for other in parts)
        text += f"; one at a time their changes add up to {points(total)}"
    return text + "."


def _seen(one: Outcome) -> str:
    """ "accuracy 70.1% (69.2–71.0%), −21.1 points, 2,300 prompts lost and 190 gained"."""
    return (
        f"accuracy {percent(one.accuracy)} ({interval(one)}), {points(one.accuracy_change)}, {one.lost:,} prompts lost "
        f"and {one.gained:,} gained"
    )


def _test(one: Outcome, study: AblationStudy) -> str:
    shown = "< 0.001" if one.p_holm < 0.001 else f"= {one.p_holm:.3f}"
    return f"McNemar p {shown} after Holm over {len(study.outcomes)} tests"


def _names(outcomes: Sequence[Outcome]) -> str:
    names = [one.condition.name for one in outcomes]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def percent(share: float) -> str:
    """ "91.2%"."""
    return f"{100 * share:.1f}%"


def interval(one: Outcome) -> str:
    """ "90.6–91.7%"."""
    return f"{100 * one.low:.1f}–{100 * one.high:.1f}%"


def points(change: float) -> str:
    """ "−21.1 points" for a change of accuracy."""
    return f"{'−' if change < 0 else '+'}{100 * abs(change):.1f} points"
