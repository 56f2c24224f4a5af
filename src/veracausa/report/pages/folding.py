"""A section's figures and chapters, folded by the question that they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from veracausa.report.chapters.registry import ELSE, QUESTIONS, Chapter
from veracausa.report.charts.data import identifier
from veracausa.report.charts.figures import Figure
from veracausa.report.pages.panels import PanelView, SectionView
from veracausa.report.readable import shortened

#: Longest answer that stands beside a folded question.
_LONGEST = 220


@dataclass(frozen=True)
class Folded:
    """A question with its short answer, and what is unfolded under it: panels, single figures, chapters."""

    name: str
    question: str
    answer: str
    panels: tuple[PanelView, ...]
    figures: tuple[Figure, ...]
    chapters: tuple[Chapter, ...]


def folded(view: SectionView) -> list[Folded]:
    """The questions that a section has something to say to, in their order."""
    made = []
    for i, question in enumerate((*QUESTIONS, ELSE)):
        panels, figures = (tuple(view.panels), tuple(view.figures)) if i == 0 else ((), ())
        chapters = tuple(one for one in view.chapters if (one.question or ELSE) == question)
        if panels or figures or chapters:
            answer = panels[0].lead if panels else _answer(chapters)
            name = f"{view.name}-{identifier(question)}"
            made.append(Folded(name, question, shortened(answer, _LONGEST), panels, figures, chapters))
    return made


def _answer(chapters: tuple[Chapter, ...]) -> str:
    """The first sentence that is said to a question."""
    said = [text for one in chapters for text in (*one.sentences[:1], *(f.sentence for f in one.figures[:1]), one.lead)]
    first = re.match(r".+?[.!?](?=\s|$)", next(filter(None, said), ""), re.DOTALL)
    return first[0] if first else ""
