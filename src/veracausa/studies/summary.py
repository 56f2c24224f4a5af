"""Plain words, written from a study's numbers: what agrees, what fails, and what else was found."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from veracausa.behaviour.results import AblationStudy
from veracausa.causes.results import Disagreement
from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.counterfactuals.searches import Search
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import METRIC
from veracausa.statistics.gaps import cautions
from veracausa.studies.results import Failure, Panel, Section
from veracausa.tasks.metrics import compares_answers
from veracausa.units.dictionaries import is_beside
from veracausa.units.kinds import KINDS, in_words
from veracausa.words import sentence

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
        compares = compares_answers(section.task.metric)
        told = cautions(section.measured.clean, section.measured.corrupted, compares=compares)
        sentences += map(sentence, told)
        sentences += [_panel(panel) for panel in section.panels]
        sentences += _found(section)
    return tuple(_MINUS.sub("−", one) for one in sentences)


#: Class of a finding → the word before its first sentence.
_HEADINGS: dict[type, str] = {
    Disagreement: "Why",
    AblationStudy: "Answers",
    CounterfactualComparison: "Prompts",
    Search: "Search",
    Baselines: "Baselines",
    GeneralPurpose: "General",
}


def _found(section: Section) -> list[str]:
    """The first sentence of every kind of further finding; of an ablation study the second, too."""
    said: dict[str, str] = {}
    for finding in section.findings:
        if isinstance(finding, Failure):
            continue
        heading = _HEADINGS.get(type(finding))
        if heading and heading not in said and finding.sentences:
            count = 2 if heading in ("Answers", "Prompts") else 1
            said[heading] = " ".join(finding.sentences[:count])
    return [f"{heading}: {text}" for heading, text in said.items()]


def called(task: Task) -> str:
    """What to call a task's pairs in a sentence: "the published pair", "16 pairs of ioi"."""
    if task.name == "ioi-published":
        return "the published pair"
    return f"{len(task):,} pair{'' if len(task) == 1 else 's'} of {task.name}"


def _words(metric: str) -> str:
    return {"logit_diff": "logit difference", "prob_diff": "probability difference"}.get(metric, metric)


def _panel(panel: Panel) -> str:
    """Which unit matters most, and what each estimate makes of these units."""
    strongest = panel.exact.table().iloc[panel.exact.ranking()[0]]
    what = in_words(panel.kind).capitalize() if panel.kind != "mlps" else "MLPs"
    strong = panel.agreements[0].strong
    said = "; ".join(_estimate(agreement) for agreement in panel.agreements)
    shared = panel.exact.has_shares
    size = f"{strongest['share']:+.3f} of the gap" if shared else f"an effect of {strongest['effect']:+.3f}"
    text = (
        f"{what}: {strongest['name']} matters most ({size}), and {strong:,} of "
        f"{len(panel.exact):,} carry more than 1%. {said}."
    )
    if KINDS[panel.kind].coded:
        text += _left_out(panel)
    if panel.sampled:
        chosen = len(panel.exact) - panel.sampled
        text += f" (Compared: {chosen:,} chosen by {panel.labels[0]}, {panel.sampled:,} drawn at random.)"
    return text


def _left_out(panel: Panel) -> str:
    """What stands beside the features carries, and how each estimate does without it: a giant makes any r high."""
    beside, names = is_beside(panel.exact.units.index), panel.exact.units.names
    left = [name for name, one in zip(names, beside, strict=True) if one]
    if not left:
        return ""
    table = panel.exact.table().set_index("name").loc[left]
    column, what = ("share", " of the gap") if panel.exact.has_shares else ("effect", "")
    carried = ", ".join(f"{name} {value:+.3f}" for name, value in table[column].items())
    without = []
    for one in panel.agreements:
        own = ~np.isin(one.names, left)
        if own.sum() > 2:
            without.append(f"{one.method} {np.corrcoef(one.exact[own], one.estimate[own])[0, 1]:.3f}")
    among = f"; over the features alone r is {', '.join(without)}" if without else ""
    return f" Not held by features: {carried}{what}{among}."


def interval(agreement: Agreement) -> str:
    """ " (95% 0.971 – 0.990 over 16 pairs)", or " (3 pairs: no interval)"; nothing for a single pair."""
    low, high = agreement.intervals.get("r", (float("nan"), float("nan")))
    if low == low:
        return f" (95% {low:.3f} to {high:.3f} over {agreement.n} pairs)"
    return f" ({agreement.n} pairs: no interval)" if agreement.n > 1 else ""


def _estimate(agreement: Agreement) -> str:
    """r, wrong signs by name, and the unit that is missed by most."""
    r = f"agrees with r = {agreement.r:.3f}{interval(agreement)}"
    parts = [f"{agreement.method} {r if agreement.r == agreement.r else 'has no r, since one side is constant'}"]
    if agreement.signed and agreement.strong:
        wrong = agreement.wrong_signs
        named = f" ({', '.join(wrong)})" if 0 < len(wrong) <= 3 else ""
        parts.append(f"{agreement.sign_errors or 'no'} wrong sign{'' if agreement.sign_errors == 1 else 's'}{named}")
    if agreement.outliers and agreement.unit == METRIC:
        i = agreement.names.index(agreement.outliers[0])
        parts.append(
            f"farthest off on {agreement.names[i]}: {agreement.estimate[i]:+.3f} for {agreement.exact[i]:+.3f}"
        )
    return ", ".join(parts)


def _verdict(sections: Sequence[Section]) -> str:
    """What to take, from the heads (or mixers) of the last, largest section."""
    panel, over = sections[-1].panels[0], called(sections[-1].task)
    first, best = panel.agreements[0], max(panel.agreements, key=lambda one: -math.inf if math.isnan(one.r) else one.r)
    whole = max(panel.exact.cost.token_layers, 1)
    price = {name: scores.cost.token_layers / whole for name, scores in zip(panel.labels, panel.estimates, strict=True)}
    names = ", ".join(first.outliers[:4])
    check = f" If you use {first.method} for its price, check these exactly: {names}." if names else ""
    of, one = in_words(panel.kind), KINDS[panel.kind].singular
    paid = f"of what computing every {one} exactly costs"
    if best.method == first.method:
        return (
            f"For {of} of {over}, {best.method} comes closest to the exact effects (r = {best.r:.3f}), for "
            f"{price[best.method]:.0%} {paid}.{check}"
        )
    closer = (
        f"but {best.method} costs {price[best.method]:.1f} times as much as computing every {one} exactly, so take "
        "the exact effects"
        if price[best.method] >= 1
        else f"for {price[best.method]:.0%} {paid} ({first.method}: {price[first.method]:.0%})"
    )
    return (
        f"For {of} of {over}, {first.method} agrees with the exact effects at r = {first.r:.3f}. {best.method} "
        f"comes closer, at r = {best.r:.3f}, {closer}.{check}"
    )
