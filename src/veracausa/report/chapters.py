"""The further findings of a study as chapters of its page: why methods disagree, what ablation does, other prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veracausa.behaviour.against import Against
from veracausa.counterfactuals.head_roles import HeadRoles
from veracausa.report import ablation, baselines, causes, counterfactuals, location, responses, search, surface
from veracausa.report.data import identifier
from veracausa.report.figures import Figure
from veracausa.report.tables import Table

#: Figures and tables of a finding under a name; `beside`: the findings that stand in another one's chapter.
Drawn = tuple[list[Figure], list[Table]]
Draw = Callable[[Any, str, Sequence[Any]], Drawn]


def _by(module: Any, prefix: str = "") -> Draw:
    """Draw with a module's `figures` and `tables`."""
    figures, tables = getattr(module, f"{prefix}figures"), getattr(module, f"{prefix}tables")
    return lambda finding, name, beside: (figures(finding, name), tables(finding, name))


def _answers(finding: Any, name: str, beside: Sequence[Any]) -> Drawn:
    forecasts = [one for one in beside if isinstance(one, Against)]
    return ablation.figures(finding, name, forecasts), ablation.tables(finding, name, forecasts)


def _contrast(finding: Any, name: str, beside: Sequence[Any]) -> Drawn:
    roles = next((one for one in beside if isinstance(one, HeadRoles)), None)
    return counterfactuals.figures(finding, name, roles), counterfactuals.tables(finding, name, roles)


#: Class of a finding → (heading, how it is drawn, what it is in a sentence or two).
CHAPTERS: dict[str, tuple[str, Draw, str]] = {
    "Disagreement": (
        "Why the methods disagree",
        _by(causes),
        "For every head: curvature (exact − AtP), interaction within its layer (IG − exact), what later units make of "
        "it (exact − direct), and the baseline. Last-in: what a head still does when the rest of its layer is "
        "corrupted. Redundancy: heads of a layer cover for each other; synergy: they need each other.",
    ),
    "Locations": (
        "Where attribution patching goes wrong",
        _by(location),
        "E − AtP of the outliers, split exactly: by the kind of nonlinear part (its Shapley value over runs in which "
        "kinds are replaced by straight lines at the clean run), and along the forward pass, sublayer by sublayer.",
    ),
    "Responses": (
        "The metric along the outliers’ paths",
        _by(responses),
        "M while a head moves from its own value (α = 0) to its corrupted one (α = 1) and beyond; alone, and with all "
        "heads of its layer. Attribution patching reports the slope at 0.",
    ),
    "Surface": (
        "Two heads together",
        _by(surface),
        "Each head is moved a share of the way from its current value to its corrupted one. Interaction: both together "
        "minus the sum of each alone.",
    ),
    "AblationStudy": (
        "What ablation does to the answers",
        _answers,
        "Heads are replaced at every position, alone and together, and the model answers greedily. Intervals are "
        "Wilson’s, tests McNemar’s against the same prompts unablated, Holm-corrected.",
    ),
    "CounterfactualComparison": (
        "Which corruption shows which heads",
        _contrast,
        "The same clean prompts under several corruptions: exact effects of all heads under each, and what the heads "
        "look at in the clean prompts (duplicate-token, induction, previous-token and name-moving heads).",
    ),
    "Search": (
        "The prompts that show a head best",
        _by(search),
        "Exact effects over a pool of prompt pairs: the pair where the head matters most, and the one where it stands "
        "out most from its layer; repeated on pairs that were not searched, as a maximum flatters itself.",
    ),
    "Baselines": (
        "What units are replaced by",
        _by(baselines),
        "Zero, mean, counterfactual, resampled and optimal constant: which of these ablations, and of integrated "
        "gradients towards them, agree with which.",
    ),
    "GeneralPurpose": (
        "General-purpose components",
        _by(baselines, "general_"),
        "Heads that matter in both runs equally: replaced by their mean they are missed, by their corrupted value not.",
    ),
}
#: Findings that stand in another one's chapter.
_BESIDE = (Against, HeadRoles)


@dataclass(frozen=True)
class Chapter:
    """A finding as the page shows it.

    `sentences`: what it says and no figure of it says already; `about`: what its numbers are, on demand.
    """

    name: str
    title: str
    lead: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    about: str


def chapters(findings: Sequence[Any], section: str) -> list[Chapter]:
    """Chapters of a section's findings; forecasts of an ablation's outcome stand in its chapter, roles with prompts."""
    made: list[Chapter] = []
    beside = [finding for finding in findings if isinstance(finding, _BESIDE)]
    for finding in findings:
        if isinstance(finding, _BESIDE):
            continue
        title, draw, lead = CHAPTERS[type(finding).__name__]
        taken = sum(chapter.title == title for chapter in made)
        name = f"{section}-{identifier(title)}" + (f"-{taken + 1}" if taken else "")
        figures, tables = draw(finding, name, beside)
        below = " ".join(figure.sentence for figure in figures)
        said = tuple(line for line in _sentences(finding, beside) if line not in below)
        made.append(Chapter(name, title, lead, said, tuple(figures), tuple(tables), finding.describe()))
    return made


def _sentences(finding: Any, beside: Sequence[Any]) -> tuple[str, ...]:
    """What a chapter has to say, that of the findings beside it included."""
    kinds: dict[str, Any] = {"AblationStudy": Against, "CounterfactualComparison": HeadRoles}
    kind = kinds.get(type(finding).__name__)
    more = [line for one in beside if kind is not None and isinstance(one, kind) for line in one.sentences]
    return (*finding.sentences, *more)
