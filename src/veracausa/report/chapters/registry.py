"""The further findings of a study as chapters of its page: why methods disagree, what ablation does, other prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veracausa.behaviour.foretold import Against
from veracausa.behaviour.results import AblationStudy
from veracausa.causes.curves.responses import Responses
from veracausa.causes.curves.surfaces import Surface
from veracausa.causes.locations import Locations
from veracausa.causes.results import Disagreement
from veracausa.circuits.quality.curve import Curve
from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.counterfactuals.roles import HeadRoles
from veracausa.counterfactuals.searches import Search
from veracausa.fitting.qualities import Quality
from veracausa.interplay.module_results import Modules
from veracausa.interplay.results import Interactions
from veracausa.reading.activity import Activations
from veracausa.reading.attributions import LogitAttribution
from veracausa.reading.lenses import Lens
from veracausa.report.chapters import (
    ablation,
    baselines,
    causes,
    counterfactuals,
    features,
    feeding,
    interplay,
    location,
    reading,
    responses,
    search,
    surface,
)
from veracausa.report.charts.data import identifier
from veracausa.report.charts.figures import Figure
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import Table
from veracausa.scores.scores import Scores
from veracausa.spared import spared
from veracausa.studies.results import Failure, Finding


@dataclass(frozen=True)
class Draw:
    """Draws a finding under a name with a module's figures and tables, those of `prefix`.

    `with_beside`: hands them what they take of the findings that stand in another one's chapter.
    """

    module: Any
    prefix: str = ""
    with_beside: Callable[[Sequence[Any]], tuple[Any, ...]] = lambda beside: ()

    def figures(self, finding: Any, name: str, beside: Sequence[Any]) -> list[Figure]:
        """The figures of a finding."""
        return getattr(self.module, f"{self.prefix}figures")(finding, name, *self.with_beside(beside))

    def tables(self, finding: Any, name: str, beside: Sequence[Any]) -> list[Table]:
        """The tables of a finding."""
        return getattr(self.module, f"{self.prefix}tables")(finding, name, *self.with_beside(beside))


def _forecasts(beside: Sequence[Any]) -> tuple[list[Against]]:
    return ([one for one in beside if isinstance(one, Against)],)


def _roles(beside: Sequence[Any]) -> tuple[HeadRoles | None]:
    return (next((one for one in beside if isinstance(one, HeadRoles)), None),)


def _feeding(beside: Sequence[Any]) -> tuple[list[Curve], Scores | None]:
    placed = next((one for one in beside if isinstance(one, Scores)), None)
    return [one for one in beside if isinstance(one, Curve)], placed


def _interactions(beside: Sequence[Any]) -> tuple[list[Interactions]]:
    return ([one for one in beside if isinstance(one, Interactions)],)


#: Class of a finding → (heading, how it is drawn, what it is in a sentence or two).
CHAPTERS: dict[type, tuple[str, Draw, str]] = {
    Disagreement: (
        "Why the methods disagree",
        Draw(causes),
        "For every unit: curvature (exact − AtP), interaction within its layer (IG − exact), what later units make of "
        "it (exact − direct), and the baseline. Last-in: what a unit still does when the rest of its layer is "
        "corrupted. Redundancy: units of a layer cover for each other; synergy: they need each other.",
    ),
    Locations: (
        "Where attribution patching goes wrong",
        Draw(location),
        "E − AtP of the outliers, split exactly: by the kind of nonlinear part (its Shapley value over runs in which "
        "kinds are replaced by straight lines at the clean run), and along the forward pass, sublayer by sublayer.",
    ),
    Responses: (
        "The metric along the outliers’ paths",
        Draw(responses),
        "M while a unit moves from its own value (α = 0) to its corrupted one (α = 1) and beyond; alone, and with all "
        "units of its layer. Attribution patching reports the slope at 0.",
    ),
    Surface: (
        "Two units together",
        Draw(surface),
        "Each unit is moved a share of the way from its current value to its corrupted one. Interaction: both together "
        "minus the sum of each alone.",
    ),
    AblationStudy: (
        "What ablation does to the answers",
        Draw(ablation, with_beside=_forecasts),
        "Units are replaced at every position, alone and together, and the model answers greedily. Intervals are "
        "Wilson’s, tests McNemar’s against the same prompts unablated, Holm-corrected.",
    ),
    CounterfactualComparison: (
        "Which corruption shows which units",
        Draw(counterfactuals, with_beside=_roles),
        "The same clean prompts under several corruptions: exact effects of all units under each, and what heads "
        "look at in the clean prompts (duplicate-token, induction, previous-token and name-moving heads).",
    ),
    Search: (
        "The prompts that show a unit best",
        Draw(search),
        "Exact effects over a pool of prompt pairs: the pair where the unit matters most, and the one where it stands "
        "out most from its layer; repeated on pairs that were not searched, as a maximum flatters itself.",
    ),
    Baselines: (
        "What units are replaced by",
        Draw(baselines),
        "Zero, mean, counterfactual, resampled and optimal constant: which of these ablations, and of integrated "
        "gradients towards them, agree with which.",
    ),
    GeneralPurpose: (
        "General-purpose components",
        Draw(baselines, "general_"),
        "Heads that matter in both runs equally: replaced by their mean they are missed, by their corrupted value not.",
    ),
    Lens: (
        "What the stream says at every layer",
        Draw(reading, "lens_"),
        "The model’s own final norm and unembedding, put where each block begins and between its attention and its "
        "MLP. What a layer holds in another form than the end’s does not show here.",
    ),
    LogitAttribution: (
        "What each write adds to the logits",
        Draw(reading, "dla_"),
        "The final norm’s denominator is frozen at each run’s own, so all writes and the constants add up to the "
        "metric. These are parts of the logits, not effects: what taking a write out does, exact effects say.",
    ),
    Quality: (
        "How well the dictionary fits",
        Draw(features, "quality_"),
        "What of a site's activations the features hold, and what the model does with their sum in its place. What is "
        "left out is the error, a unit of its own: what an interpretation of features says nothing about.",
    ),
    Activations: (
        "Where the strongest features fire",
        Draw(features, "activations_"),
        "The features with the strongest exact effects, the error first, at every token of the prompts.",
    ),
    Scores: (
        "The circuit",
        Draw(feeding, with_beside=_feeding),
        "Every edge, a writer seen by one reader alone, is scored on one half of the pairs; circuits of the strongest "
        "are run on the other half, all other edges corrupted. f: the share of the mean gap that is brought back. A "
        "single pair is for both, so its circuits are not held out.",
    ),
    Modules: (
        "Which layers talk to each other",
        Draw(interplay, with_beside=_interactions),
        "Each source of a layer is replaced by its corrupted value, all others left, and the next layer's readers are "
        "read off that run: J = f − f with the source replaced. Strength: the root mean square of J over prompts and "
        "positions, in units of the reader.",
    ),
}
#: Findings that stand in another one's chapter → the one whose it is.
BESIDE: dict[type, type] = {
    Against: AblationStudy,
    HeadRoles: CounterfactualComparison,
    Interactions: Modules,
    Curve: Scores,
}


def is_beside(finding: Any) -> bool:
    """Whether a finding stands in another one's chapter: edges at positions in that of all edges."""
    return type(finding) in BESIDE or (isinstance(finding, Scores) and finding.units.positional)


#: Those whose sentences the other one's chapter does not repeat.
SILENT = (Interactions,)


#: A question that the page folds its chapters by → the findings that answer it; the first takes the panels, too.
QUESTIONS: dict[str, tuple[type, ...]] = {
    "Where do methods disagree?": (Disagreement, Locations, Responses),
    "Does it matter for answers?": (AblationStudy,),
    "Would another prompt say otherwise?": (CounterfactualComparison, Search),
    "Would another replacement say otherwise?": (Baselines, GeneralPurpose),
    "What is written on the way?": (Lens, LogitAttribution),
    "Which parts feed which?": (Scores,),
    "Do parts work together?": (Surface, Modules),
    "What do the features say?": (Quality, Activations),
}
#: The one of all other findings.
ELSE = "What else was found?"


def question_of(finding: Any) -> str:
    """The question that a finding answers."""
    return next((question for question, classes in QUESTIONS.items() if type(finding) in classes), ELSE)


@dataclass(frozen=True)
class Chapter:
    """A finding as the page shows it.

    `sentences`: what it says and no figure of it says already; `about`: what its numbers are, on demand; `question`:
    that of `QUESTIONS` which it answers; `live`: the place of what the page's script draws in it, if it does.
    """

    name: str
    title: str
    lead: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    about: str
    question: str = ""
    live: str = ""


def chapters(findings: Sequence[Finding], section: str) -> list[Chapter]:
    """Chapters of a section's findings; forecasts of an ablation's outcome stand in its chapter, roles with prompts."""
    made: list[Chapter] = []
    beside = [finding for finding in findings if is_beside(finding)]
    for finding in findings:
        if is_beside(finding):
            continue
        if isinstance(finding, Failure):
            name = f"{section}-{identifier(finding.title)}"
            made.append(Chapter(name, finding.title, finding.sentence, (), (), (), finding.describe(), ELSE))
            continue
        title, draw, lead = CHAPTERS[type(finding)]
        title += f": {finding.site}" if isinstance(finding, Quality) else ""
        taken = sum(chapter.title == title for chapter in made)
        name = f"{section}-{identifier(title)}" + (f"-{taken + 1}" if taken else "")
        made.append(_chapter(finding, name, title, draw, lead, beside))
    return made


def _chapter(finding: Any, name: str, title: str, draw: Draw, lead: str, beside: Sequence[Any]) -> Chapter:
    """A finding's chapter; what fails in it is a sentence in its place."""
    figures = spared_figures(name, title, lambda: draw.figures(finding, name, beside))
    tables = spared_tables(f"{name}-table", title, lambda: draw.tables(finding, name, beside), finding.table)
    said = spared(f"What “{title}” says", lambda: _sentences(finding, beside), lambda sentence: (sentence,))
    below = " ".join(figure.sentence for figure in figures)
    about = spared(f"What “{title}” is about", finding.describe, lambda sentence: sentence)
    own = tuple(line for line in said if line not in below)
    live = f"{name}-live" if isinstance(finding, Scores) else ""
    return Chapter(name, title, lead, own, tuple(figures), tuple(tables), about, question_of(finding), live)


def _sentences(finding: Any, beside: Sequence[Any]) -> tuple[str, ...]:
    """What a chapter has to say, that of the findings beside it included."""
    if isinstance(finding, Scores):
        return feeding.sentences(finding, *_feeding(beside))
    more = [line for one in beside if type(one) not in SILENT
            and BESIDE.get(type(one)) is type(finding) for line in one.sentences]  # fmt: skip
    return (*finding.sentences, *more)
