"""The further findings of a study as chapters of its page: why methods disagree, what ablation does, other prompts."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from veracausa.behaviour.against import Against
from veracausa.report.data import identifier
from veracausa.report.figures import Figure
from veracausa.report.tables import Table

#: Class of a finding → (heading, module of `report` that draws it, what it is in a sentence or two).
CHAPTERS: dict[str, tuple[str, str, str]] = {
    "Disagreement": (
        "Why the methods disagree",
        "causes",
        "For every head: curvature (exact − AtP), interaction within its layer (IG − exact), what later units make of "
        "it (exact − direct), and the baseline. Last-in: what a head still does when the rest of its layer is "
        "corrupted. Redundancy: heads of a layer cover for each other; synergy: they need each other.",
    ),
    "Locations": (
        "Where attribution patching goes wrong",
        "location",
        "E − AtP of the outliers, split exactly: by the kind of nonlinear part (its Shapley value over runs in which "
        "kinds are replaced by straight lines at the clean run), and along the forward pass, sublayer by sublayer.",
    ),
    "Responses": (
        "The metric along the outliers’ paths",
        "responses",
        "M while a head moves from its own value (α = 0) to its corrupted one (α = 1) and beyond; alone, and with all "
        "heads of its layer. Attribution patching reports the slope at 0.",
    ),
    "Surface": (
        "Two heads together",
        "surface",
        "Each head is moved a share of the way from its current value to its corrupted one. Interaction: both together "
        "minus the sum of each alone.",
    ),
    "AblationStudy": (
        "What ablation does to the answers",
        "ablation",
        "Heads are replaced at every position, alone and together, and the model answers greedily. Intervals are "
        "Wilson’s, tests McNemar’s against the same prompts unablated, Holm-corrected.",
    ),
    "CounterfactualComparison": (
        "Which corruption shows which heads",
        "counterfactuals",
        "The same clean prompts under several corruptions: exact effects of all heads under each.",
    ),
    "HeadRoles": (
        "What the heads look at",
        "head_roles",
        "Attention of every head on the clean prompts at the positions that name it a duplicate-token, induction, "
        "previous-token or name-moving head.",
    ),
    "Search": (
        "The prompts that show a head best",
        "counterfactuals",
        "Exact effects over a pool of prompt pairs: the pair where the head matters most, and the one where it stands "
        "out most from its layer; repeated on pairs that were not searched, as a maximum flatters itself.",
    ),
    "Baselines": (
        "What units are replaced by",
        "baselines",
        "Zero, mean, counterfactual, resampled and optimal constant: which of these ablations, and of integrated "
        "gradients towards them, agree with which.",
    ),
    "GeneralPurpose": (
        "General-purpose components",
        "baselines",
        "Heads that matter in both runs equally: replaced by their mean they are missed, by their corrupted value not.",
    ),
}


@dataclass(frozen=True)
class Chapter:
    """A finding as the page shows it; `about`: what its numbers are, on demand."""

    name: str
    title: str
    lead: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    about: str


def chapters(findings: Sequence[Any], section: str) -> list[Chapter]:
    """Chapters of a section's findings; forecasts of an ablation's outcome stand in its chapter."""
    made: list[Chapter] = []
    for finding in findings:
        if isinstance(finding, Against):
            continue
        forecasts = [one for one in findings if isinstance(one, Against)]
        extra = [forecasts] if type(finding).__name__ == "AblationStudy" and forecasts else []
        title, module, lead = CHAPTERS[type(finding).__name__]
        drawn = importlib.import_module(f"veracausa.report.{module}")
        taken = sum(chapter.title == title for chapter in made)
        name = f"{section}-{identifier(title)}" + (f"-{taken + 1}" if taken else "")
        sentences = [*finding.sentences, *(line for one in (extra[0] if extra else ()) for line in one.sentences)]
        made.append(
            Chapter(
                name=name,
                title=title,
                lead=lead,
                sentences=tuple(sentences),
                figures=tuple(drawn.figures(finding, name, *extra)),
                tables=tuple(drawn.tables(finding, name, *extra)),
                about=finding.describe(),
            )
        )
    return made
