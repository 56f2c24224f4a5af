"""The first screen in words: the question, and three findings for a reader who knows none of the field's words.

What matters: the strongest unit. It *stands out* if Student's test over pairs, corrected for all units (Holm), tells
its effect from 0; a single pair has no such test, and is said to be one. It *matters little* under 1% of the gap.
Whether the cheap estimate can be trusted: `trust` of the first estimate's agreement. What to do next: what follows.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.report.chapters.feeding import KEPT, smallest
from veracausa.report.charts.data import plural
from veracausa.report.instrument.naming import in_full, percent, quoted
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import METRIC, STRONG, Scores
from veracausa.statistics.accuracy import holm
from veracausa.statistics.means import LEVEL, differs
from veracausa.studies.results import Panel, Section
from veracausa.tasks.metrics import compares_answers
from veracausa.units.kinds import singular
from veracausa.words import counted, listed, plain, sentence, signed

#: From which correlation on, and up to which share of wrong signs, an estimate is good enough to look at first …
GOOD, FEW_WRONG = 0.9, 0.05
#: … and below which correlation it is not to be trusted at all.
POOR = 0.7
#: Units that a sentence names after the strongest.
_NEXT = 3
METHODS = {"atp": "attribution patching (atp)", "ig": "integrated gradients (ig)"}


@dataclass(frozen=True)
class Findings:
    """A section in words: its question, how it was asked, and three findings, each (heading, text)."""

    question: str
    asked: str
    said: tuple[tuple[str, str], ...]


def findings(section: Section, model: str) -> Findings:
    """The first screen's words about a section's main kind of units, the first panel."""
    first, others = section.panels[0], section.panels[1:]
    told = [
        matters(first),
        *(_beside(panel) for panel in others if not panel.sampled),
        *(sentence(re.sub(r"(?<=[ (])-(?=\d)", "−", caution)) for caution in first.exact.cautions),
    ]
    parts = [
        ("What matters", " ".join(filter(None, told))),
        ("Can the cheap estimate be trusted?", trusted(first)),
        *(("How few connections do it?", text) for text in connections(section)),
        ("What to do next", following(first, _run(section) is not None)),
    ]
    return Findings(question(section, model), asked(section), tuple(parts))


def question(section: Section, model: str) -> str:
    """What the section asks, with the first pair's answers: which heads make the model say this rather than that?"""
    units = plural(section.panels[0].kind)
    correct, incorrect = section.task.answer_strings(0)
    if not correct:
        return f"Which {units} decide what {model} says next?"
    rather = f" rather than {quoted(incorrect[0])}" if incorrect else ""
    more = "" if len(section.task) == 1 else f", and so on in {len(section.task):,} pairs"
    return f"Which {units} make {model} say {quoted(correct[0])}{rather}{more}?"


def asked(section: Section) -> str:
    """How that was found out, in the words of someone who never did it."""
    exact, n = section.panels[0].exact, len(section.task)
    one, settings = singular(section.panels[0].kind), exact.settings
    pairs = "A pair of prompts that differ" if n == 1 else f"{counted(n, 'pair')} of prompts, each pair differing"
    text = f"{pairs} in the marked words{_first_answer(section)}. "
    if exact.direction == "denoising":
        return text + (
            f"While the model reads the second (corrupted), one {one} alone is given what it holds in the first "
            "(clean): its effect is how much of the first answer that brings back."
        )
    if settings.get("ablation", "counterfactual") == "counterfactual":
        return text + (
            f"While the model reads the first (clean), one {one} alone is given what it holds in the second "
            "(corrupted): its effect is how much that changes the answer."
        )
    return text + f"One {one} at a time is replaced ({settings['ablation']}): its effect is how much that changes."


def _first_answer(section: Section) -> str:
    """What to say after the first prompt that is shown: "; the right answer to the first one below is “Mary”"."""
    correct = section.task.answer_strings(0)[0]
    return f"; the right answer to the first one below is {quoted(correct[0])}" if correct else ""


def matters(panel: Panel) -> str:
    """The strongest unit, how sure that is, and the next ones."""
    exact, units = panel.exact, plural(panel.kind)
    sizes = _sizes(exact)
    if not np.isfinite(sizes).any():
        return f"No effect of any of the {len(exact):,} {units} is known."
    order = np.argsort(-np.abs(np.nan_to_num(sizes)), kind="stable")
    best = int(order[0])
    if sizes[best] == 0:
        return f"None of the {len(exact):,} {units} has any effect."
    name = in_full(exact.units, best)
    if exact.has_shares and abs(sizes[best]) < STRONG:
        few = f"No single {singular(panel.kind)} matters: the largest effect, that of {name}, is {_size(exact, best)}."
        return " ".join(filter(None, [few, _sure(exact, best)]))
    says = [_moved(exact, best, f"{name[:1].upper()}{name[1:]}"), _sure(exact, best)]
    strong = int((np.abs(sizes) > STRONG).sum()) if exact.has_shares else 0
    if strong > 1:
        then = [f"{exact.units.names[i]} ({percent(sizes[i])})" for i in order[1 : min(strong, 1 + _NEXT)].tolist()]
        many = f"{strong:,} of {len(exact):,} {units} change it by more than 1 % of the gap"
        says.append(f"{many}; after it come{'s' if len(then) == 1 else ''} {listed(then)}.{_signs(exact)}")
    return " ".join(filter(None, says))


def _signs(exact: Scores) -> str:
    """What a minus and a plus before an effect say; "" where effects have no sign."""
    if not exact.signed or exact.direction not in ("noising", "denoising"):
        return ""
    helps, harms = ("minus", "plus") if exact.direction == "noising" else ("plus", "minus")
    return f" A {helps} supports the answer, a {harms} works against it."


def stands_out(exact: Scores) -> np.ndarray:
    """Which units' effects are told from 0 over pairs, corrected for all units; none for a single pair.

    Units that not all pairs have are not tested.
    """
    values = exact.values.double().numpy()
    if len(values) < 2 or not exact.per_example:
        return np.zeros(len(exact), bool)
    with np.errstate(invalid="ignore"):
        p = np.nan_to_num(differs(values), nan=1.0)
    return holm(np.minimum(p, 1.0).tolist()) <= LEVEL


def _sizes(exact: Scores) -> np.ndarray:
    """Shares of the gap, or plain effects where there is none."""
    return (exact.normalised() if exact.has_shares else exact.mean()).double().numpy()


def _size(exact: Scores, i: int) -> str:
    """An effect with what it is a share of: "−44 % of the gap", "+1.20 on the metric (logit_diff)"."""
    value = float(_sizes(exact)[i])
    if exact.has_shares:
        return f"{percent(value)} of the gap"
    return f"{signed(value, 2)} {'on the metric' if exact.unit == METRIC else exact.unit}"


def _moved(exact: Scores, i: int, name: str) -> str:
    """What replacing (restoring) the strongest unit alone does."""
    what = "the model’s preference for the right answer" if compares_answers(exact.task["metric"]) else "the metric"
    value = float(_sizes(exact)[i])
    if not exact.has_shares:
        return f"{name} matters most: it alone moves {what} by {_size(exact, i)}."
    share = f"{percent(abs(value)).removeprefix('+')} of the gap between both prompts"
    if exact.direction == "denoising":
        return f"{name} matters most: given back, it alone {'raises' if value > 0 else 'lowers'} {what} by {share}."
    return f"{name} matters most: replaced, it alone {'lowers' if value < 0 else 'raises'} {what} by {share}."


def _sure(exact: Scores, i: int) -> str:
    """Whether the effect of the strongest unit is told from chance."""
    n = exact.n
    if n == 1:
        return "One pair cannot say whether other prompts would show the same."
    if stands_out(exact)[i]:
        return ""
    if not exact.per_example:
        return "How much that varies from pair to pair is not known."
    error = (exact.normalised_stderr() if exact.has_shares else exact.stderr())[i]
    spread = "" if not math.isfinite(float(error)) else (
        f" (standard error {percent(float(error)).removeprefix('+')})" if exact.has_shares
        else f" (standard error {plain(float(error), 2)})"
    )  # fmt: skip
    of = f", among {len(exact):,}" if len(exact) > 1 else ""
    return f"These {n:,} pairs do not tell that from chance{spread}{of}."


def _beside(panel: Panel) -> str:
    """The strongest unit of another kind, all of whose units were run."""
    exact = panel.exact
    sizes = _sizes(exact)
    if not np.isfinite(sizes).any() or not np.nan_to_num(sizes).any():
        return ""
    best = int(np.argmax(np.abs(np.nan_to_num(sizes))))
    return f"Of the {plural(panel.kind)}, {exact.units.names[best]} matters most: {_size(exact, best)}."


def trusted(panel: Panel) -> str:
    """Whether the first estimate, the cheapest, may stand for the exact effects."""
    if not panel.estimates:
        return "Nothing was estimated here: every effect was run."
    rated, scores = panel.agreements[0], panel.estimates[0]
    method = METHODS.get(rated.method, rated.method)
    text = f"{method[:1].upper()}{method[1:]} costs {_price(scores, panel.exact)} what the exact effects cost."
    if not math.isfinite(rated.r):
        return f"That cannot be told: its numbers, or the true ones, are all alike. {text}"
    if not rated.strong:
        few = f"no {singular(panel.kind)} has an effect over 1 % of the gap"
        return f"There is little to be right about: {few}. {text} Its correlation with them is {plain(rated.r, 2)}."
    verdict = {"good": "For a first look, yes.", "part": "Only in part.", "poor": "No."}[trust(rated)]
    errors = _errors(rated, panel.exact.has_shares)
    return f"{verdict} {text} Its numbers and the true ones have a correlation of {plain(rated.r, 2)}{errors}."


def trust(rated: Agreement) -> str:
    """ "good": r of `GOOD` or more and at most `FEW_WRONG` of the strong units with a wrong sign; "poor": r under
    `POOR`, or a quarter of the signs wrong; else "part".
    """
    wrong = rated.sign_errors / rated.strong if rated.signed and rated.strong else 0.0
    if rated.r < POOR or wrong >= 0.25:
        return "poor"
    return "good" if rated.r >= GOOD and wrong <= FEW_WRONG else "part"


def _errors(rated: Agreement, shares: bool) -> str:
    """Wrong signs, and the unit that is missed by most."""
    text = ""
    if rated.signed and shares:
        wrong = f"{rated.sign_errors or 'none'} ha{'s' if rated.sign_errors < 2 else 've'} the wrong sign"
        text += f"; of {counted(rated.strong, 'effect')} over 1 % of the gap {wrong}"
    if rated.outliers and rated.unit == METRIC:
        i = rated.names.index(rated.outliers[0])
        says = f", where it says {percent(rated.estimate[i])} and {percent(rated.exact[i])} is true" if shares else ""
        text += f"; it is farthest off on {rated.names[i]}{says}"
    return text


def _price(scores: Scores, exact: Scores) -> str:
    """What an estimate costs against the exact effects: "4 % of", "1.2 times"."""
    price = scores.cost.token_layers / max(1, exact.cost.token_layers)
    return f"{price:.1f} times" if price >= 1 else f"{percent(price, least=0.01).removeprefix('+')} of"


def connections(section: Section) -> list[str]:
    """How few edges keep most of the gap, where circuits were run; nothing elsewhere."""
    curve = _run(section)
    if curve is None:
        return []
    kept, below = smallest(curve)
    every = next(len(one) for one in section.findings if isinstance(one, Scores) and not one.units.positional)
    share, count = percent(KEPT).removeprefix("+"), f"{every:,} edges (connections between parts)"
    if kept is None:
        return [f"No circuit that was run keeps {share} of the gap, of {count}."]
    more = f"; the next smaller one that was run, {below.edges:,}, keeps {_kept(below)}" if below else ""
    return [
        f"The smallest circuit that was run and keeps {share} of the gap has the {kept.edges:,} strongest of {count}: "
        f"it keeps {_kept(kept)}, all others corrupted{more}. Which are strong is estimated; what they keep was run."
    ]


def _run(section: Section) -> Curve | None:
    return next((one for one in section.findings if isinstance(one, Curve)), None)


def _kept(one: Faithfulness) -> str:
    return percent(one.f).removeprefix("+")


def following(panel: Panel, fed: bool = False) -> str:
    """What a careful reader does next; `fed`: which parts feed which was asked already."""
    exact, says = panel.exact, []
    if exact.n == 1:
        says.append("Ask the same of more pairs (`--n 16`): one cannot tell a rule from a coincidence.")
    elif not stands_out(exact).any():
        says.append("Take more pairs (`--n`): standard errors shrink with the square root of their number.")
    says += _checking(panel)
    units = plural(panel.kind)
    says.append(
        f"Which {units} hand on to which is drawn below, live: “Which parts feed which?”"
        if fed
        else f"To see which {units} hand on to which, `vc.discover(lm, task)` looks for a circuit."
    )
    return " ".join(says)


def _checking(panel: Panel) -> list[str]:
    """Which units to run where only the estimate can be paid for; that running all is cheap, where it is."""
    if not panel.estimates:
        return []
    rated = panel.agreements[0]
    best = max(zip(panel.estimates, panel.agreements, strict=True), key=lambda one: _or_least(one[1].r))
    price = best[0].cost.token_layers / max(1, panel.exact.cost.token_layers)
    says = []
    if price >= 1 and best[1].method != rated.method:
        closest = METHODS.get(best[1].method, best[1].method)
        says.append(f"Take exact effects where you can: {closest}, the closest estimate, costs more than they do.")
    if names := rated.outliers[:_NEXT]:
        says.append(f"Where only {rated.method} can be paid for, also run {listed(names)} exactly.")
    return says


def _or_least(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
