"""What a study's findings say of single units, for the panel of the unit that a reader has chosen.

Each finding tells one thing or several (`Told`): a sentence a unit, a number with its error, a curve, or what became of
answers. What no finding told is listed with the call that would tell it (`CALLS`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from veracausa.behaviour.results import AblationStudy
from veracausa.causes.curves.responses import Responses
from veracausa.causes.differences import LABELS
from veracausa.causes.locations import Locations
from veracausa.causes.results import Disagreement
from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.roles import NONE, HeadRoles
from veracausa.reading.attributions import LogitAttribution
from veracausa.reading.lenses import Lens
from veracausa.spared import spared


@dataclass(frozen=True)
class Told:
    """One thing about some units, row by row.

    `what`: how it is shown: "sentence" (text), "number" (value, error), "curve" (alphas, values, errors, slope),
    "answers" (ablation, right, before, n, lost, gained, p), "looks" (clean, corrupted: attention to every token of the
    first pair, in percent), "stream" (points of the stream instead of units).
    """

    what: str
    title: str
    about: str
    units: list[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def tell(findings: Sequence[Any]) -> list[Told]:
    """All that findings say of single units; what fails says nothing, and its chapter says why."""
    told: list[Told] = []
    explained = any(isinstance(finding, Disagreement) for finding in findings)  # and so located, in the same words
    for finding in findings:
        if isinstance(finding, Locations) and explained:
            continue
        tells = _TELLS.get(type(finding))
        if tells is not None:
            found = spared("What a finding says of single units", partial(tells, finding), _nothing)
            told += [one for one in (_new(each, told) for each in found) if one.units]
    return told


def _new(one: Told, told: Sequence[Told]) -> Told:
    """What is said of units of which no earlier finding said it: two of one kind may have units in common."""
    known = {unit for other in told if (other.what, other.title) == (one.what, one.title) for unit in other.units}
    kept = [i for i, unit in enumerate(one.units) if unit not in known]
    columns = {name: [column[i] for i in kept] for name, column in one.columns.items()}
    return replace(one, units=[one.units[i] for i in kept], columns=columns)


def _nothing(sentence: str) -> list[Told]:
    return []


def _disagreement(found: Disagreement) -> list[Told]:
    """Last-in and direct effects, Shapley values, and the causes of outliers."""
    told = []
    for name in ("last-in", "direct", "shapley"):
        if name in found.scores:
            shares, about = found.shares(name), _ABOUT[name]
            numbers = {"value": [one.value for one in shares], "error": [one.stderr for one in shares]}
            told.append(Told("number", _heading(LABELS[name]), about, found.units.names, numbers))
    causes = [one for one in found.causes if one.sentences]
    texts = {"text": [f"{LABELS[one.method]}: {one.cause}. {' '.join(one.sentences)}" for one in causes]}
    return [*told, Told("sentence", "Why estimates miss it", "", [one.unit for one in causes], texts)]


_ABOUT = {
    "last-in": "what the unit still does when the rest of its layer is corrupted, too",
    "direct": "what is left when no later unit may react to it",
    "shapley": "its mean effect over the orders in which its layer's units are replaced",
}


def _heading(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]} effect" if text != "Shapley" else "Shapley value"


def _locations(found: Locations) -> list[Told]:
    names = list(found)
    texts = {"text": [found[name].sentence for name in names]}
    return [Told("sentence", "Where attribution patching goes wrong", "", names, texts)]


def _responses(found: Responses) -> list[Told]:
    curves = [found[name] for name in found]
    columns = {
        "alphas": [one.alphas.tolist() for one in curves], "values": [one.values.tolist() for one in curves],
        "errors": [one.errors.tolist() for one in curves], "slope": [one.slope.value for one in curves],
    }  # fmt: skip
    about = "the metric while it moves from its own value (0) to its corrupted one (1) and beyond; dashed: its slope"
    return [Told("curve", "Response", about, list(found), columns)]


def _answers(found: AblationStudy) -> list[Told]:
    """What became of answers where one unit alone was ablated."""
    alone = [one for one in found.outcomes if len(one.condition.units) == 1]
    columns: dict[str, Sequence[Any]] = {
        "ablation": [one.condition.ablation for one in alone], "right": [one.right for one in alone],
        "before": [found.unablated.right] * len(alone), "n": [one.n for one in alone],
        "lost": [one.lost for one in alone], "gained": [one.gained for one in alone],
        "p": [one.p_holm for one in alone],
    }  # fmt: skip
    about = "greedy answers with this unit ablated everywhere; p: McNemar’s, Holm-corrected"
    return [Told("answers", "What became of answers", about, [one.condition.units[0] for one in alone], columns)]


def _corruptions(found: CounterfactualComparison) -> list[Told]:
    about = f"share of the largest gap, that of {found.widest}"
    names = found.one.units.names
    return [
        Told("number", f"Under corruption “{name}”", about, names,
             {"value": found.mean(name).tolist(), "error": found.errors[name].tolist()})
        for name in found.names
    ]  # fmt: skip


def _roles(found: HeadRoles) -> list[Told]:
    known = [
        (name, found.said(name)) for name, role in zip(found.units.names, found.roles, strict=True) if role != NONE
    ]
    texts = {"text": [f"By its attention: {said}." for _, said in known]}
    told = [Told("sentence", "What it looks at", "", [name for name, _ in known], texts)]
    if found.looks is not None:
        percents = (100 * found.looks).round().astype(int).tolist()
        rows = dict(zip(("clean", "corrupted"), percents, strict=False))
        about = "attention from the position that is read to every token, in percent"
        told.append(Told("looks", "What it looks at", about, found.units.names, rows))
    return told


def _baselines(found: Baselines) -> list[Told]:
    return [
        Told("number", f"Replaced by {ablation}", "exact effect, share of the gap", found.one.units.names,
             {"value": scores.scaled().tolist(), "error": scores.scaled_stderr().tolist()})
        for (how, ablation), scores in found.scores.items() if how == "exact"
    ]  # fmt: skip


def _writes(found: LogitAttribution) -> list[Told]:
    known = [i for i, kind in enumerate(found.kinds) if kind in ("heads", "mixers", "mlps", "neurons")]
    names = [found.names[i] for i in known]
    own = found.difference.double()[:, known]
    error = own.std(0, correction=1) / own.shape[0] ** 0.5 if found.n > 1 else own[0] * np.nan
    numbers = {"value": own.mean(0).tolist(), "error": error.tolist()}
    told = [Told("number", "What it writes to the logits", f"{found.said}, in logits: no effect", names, numbers)]
    if found.tokens is not None:
        texts = {"text": [_raised(found, name) for name in found.writers]}
        told.append(Told("sentence", "Tokens that it raises", "", list(found.writers), texts))
    return told


def _raised(found: LogitAttribution, name: str) -> str:
    """The tokens that a write raises most in the first pair, and which comes first in most pairs."""
    first, times = Counter(found.raised(name, pair)[0] for pair in range(found.n)).most_common(1)[0]
    said = f"In pair 0, the most raised first: {', '.join(f'“{token}”' for token in found.raised(name))}."
    often = f" “{first}” comes first in {times} of {found.n} pairs." if found.n > 1 else ""
    return f"{said}{often} Read directly off what it writes at the last word: no effect."


def _stream(found: Lens) -> list[Told]:
    table = found.table()
    clean = table[table["run"] == "clean"]
    columns: dict[str, Any] = {"metric": clean["metric"].tolist(), "probability": clean["probability"].tolist()}
    if "token" in clean:
        columns |= {"token": clean["token"].tolist(), "in": clean["in"].tolist(), "n": clean["n"].tolist()}
    about = "the stream around it, read by the model’s own last layer; clean prompts"
    return [Told("stream", "What the stream says there", about, clean["point"].tolist(), columns)]


_TELLS: dict[type, Callable[[Any], list[Told]]] = {
    Disagreement: _disagreement,
    Locations: _locations,
    Responses: _responses,
    AblationStudy: _answers,
    CounterfactualComparison: _corruptions,
    HeadRoles: _roles,
    Baselines: _baselines,
    LogitAttribution: _writes,
    Lens: _stream,
}

#: What a panel can show: in words, the title of what tells it, and the call that finds it; UNIT is the chosen unit.
CALLS = (
    ("a response curve", "Response", 'vc.causes.responses(lm, task, units=["UNIT"])'),
    ("answers under ablation", "What became of answers", 'vc.behaviour.ablation_study(lm, task, units=["UNIT"])'),
    ("what it writes to the logits", "What it writes to the logits", "vc.reading.dla(lm, task)"),
    ("the tokens that it raises", "Tokens that it raises", "vc.reading.dla(lm, task, tokens=5)"),
    ("what the stream says there", "What the stream says there", "vc.reading.lens(lm, task)"),
    ("what it looks at", "What it looks at", "vc.counterfactuals.head_roles(lm, task)"),
    ("edges from it and to it", "Edges", 'vc.attribute(lm, task, units="edges", method="eap-ig")'),
)
