"""Plain words, written from a study's numbers: what agrees, what fails, and how a curve shows why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.comparison.agreement import Agreement
from veracausa.comparison.results import Curve, Panel, Section

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: A hyphen that stands for a minus sign, as number formatting leaves it.
_MINUS = re.compile(r"(?<=[ (])-(?=\d)")


def summarise(lm: Model, sections: Sequence[Section]) -> tuple[str, ...]:
    """The sentences at the top of the report."""
    sentences = [_verdict(sections)]
    for section in sections:
        clean, corrupted = float(section.measured.clean.mean()), float(section.measured.corrupted.mean())
        mean = "" if len(section.task) == 1 else "mean "
        sentences.append(
            f"On {called(section.task)}, {lm.name} has a {mean}{_words(section.task.metric)} of {clean:+.2f} clean and "
            f"{corrupted:+.2f} corrupted, a gap of {clean - corrupted:.2f}."
        )
        sentences += [_panel(panel) for panel in section.panels]
    return tuple(_MINUS.sub("−", sentence) for sentence in sentences)


def called(task: Task) -> str:
    """What to call a task's pairs in a sentence: "the published pair", "16 pairs of ioi"."""
    if task.name == "ioi-published":
        return "the published pair"
    return f"{len(task):,} pair{'' if len(task) == 1 else 's'} of {task.name}"


def _words(metric: str) -> str:
    return {"logit_diff": "logit difference", "prob_diff": "probability difference"}.get(metric, metric)


def _panel(panel: Panel) -> str:
    """Which unit matters most, and what each estimate makes of these units."""
    strongest = panel.exact.to_pandas().iloc[panel.exact.ranking()[0]]
    what = {"heads": "Heads", "mlps": "MLPs", "neurons": "Neurons"}.get(panel.kind, panel.kind.capitalize())
    strong = panel.agreements[0].strong
    said = "; ".join(_estimate(agreement) for agreement in panel.agreements)
    text = (
        f"{what}: {strongest['name']} matters most ({strongest['share']:+.3f} of the gap), and {strong:,} of "
        f"{len(panel.exact):,} carry more than 1%. {said}."
    )
    if panel.sampled:
        chosen = len(panel.exact) - panel.sampled
        text += f" (Compared: {chosen:,} chosen by {panel.labels[0]}, {panel.sampled:,} drawn at random.)"
    return text


def interval(agreement: Agreement) -> str:
    """ " (95% 0.971 – 0.990 over 16 pairs)", or nothing for a single pair."""
    low, high = agreement.intervals.get("r", (float("nan"), float("nan")))
    return f" (95% {low:.3f} to {high:.3f} over {agreement.n} pairs)" if low == low else ""


def _estimate(agreement: Agreement) -> str:
    """r, wrong signs by name, and the unit that is missed by most."""
    parts = [f"{agreement.method} agrees with r = {agreement.r:.3f}{interval(agreement)}"]
    if agreement.signed and agreement.strong:
        wrong = agreement.wrong_signs
        named = f" ({', '.join(wrong)})" if 0 < len(wrong) <= 3 else ""
        parts.append(f"{agreement.sign_errors or 'no'} wrong sign{'' if agreement.sign_errors == 1 else 's'}{named}")
    if agreement.outliers:
        i = agreement.names.index(agreement.outliers[0])
        parts.append(
            f"farthest off on {agreement.names[i]}: {agreement.estimate[i]:+.3f} for {agreement.exact[i]:+.3f}"
        )
    return ", ".join(parts)


def _verdict(sections: Sequence[Section]) -> str:
    """What to take, from the heads of the last (largest) section."""
    panel = sections[-1].panels[0]
    first, best = panel.agreements[0], max(panel.agreements, key=lambda one: one.r)
    scores = dict(zip(panel.labels, panel.estimates, strict=True))[best.method]
    ratio = scores.cost.token_layers / max(panel.exact.cost.token_layers, 1)
    names = ", ".join(first.outliers[:4])
    check = f" If you use {first.method} for its price, check these exactly: {names}." if names else ""
    if best.method == first.method:
        return f"For heads, {best.method} comes closest to the exact effects (r = {best.r:.3f}).{check}"
    price = (
        f"but it costs {ratio:.1f} times as much as computing every head exactly, so take the exact effects"
        if ratio >= 1
        else f"for {ratio:.0%} of what computing every head exactly costs"
    )
    return (
        f"For heads, {first.method} agrees with the exact effects at r = {first.r:.3f} and {best.method} at "
        f"r = {best.r:.3f}, {price}.{check}"
    )


def cause(curve: Curve) -> str:
    """What the shape of M(α) says about a unit whose slope at 0 misses the effect at 1.

    Slope and secant are compared: same direction but steeper or flatter (saturation or take-off), or opposite signs
    (the metric turns round between α = 0 and α = 1).
    """
    slope = curve.estimates.get("atp")
    if slope is None:
        return ""
    return _MINUS.sub("−", _shape(curve, slope))


def _shape(curve: Curve, slope: float) -> str:
    inner = curve.effect[(curve.alphas >= 0) & (curve.alphas <= 1)]
    if slope * curve.exact < 0:
        return f"turns round on the way: the slope at α = 0 is {slope:+.3f}, the effect at α = 1 is {curve.exact:+.3f}"
    if abs(slope) < abs(curve.exact):
        return (
            f"flat at first, steep later: the slope at α = 0 promises {slope:+.3f}, the effect is {curve.exact:+.3f} "
            "(a saturated response that gives way)"
        )
    reached = "overshoots and comes back" if abs(inner).max() > 1.1 * abs(curve.exact) else "levels off"
    return f"steep at first, then {reached}: the slope at α = 0 promises {slope:+.3f}, the effect is {curve.exact:+.3f}"
