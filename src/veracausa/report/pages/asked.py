"""What was asked: prompts token by token, answers, metric, gap, sign."""

from __future__ import annotations

from dataclasses import dataclass

from veracausa.report.pages.explain import metric_in_words, sign_of
from veracausa.studies.results import Section
from veracausa.words import signed, whole

#: Pairs that are shown at once, and at most, behind a click.
FIRST, MOST = 2, 40


@dataclass(frozen=True)
class Token:
    """A token as text, and whether the two prompts differ in it."""

    text: str
    differs: bool

    @property
    def lead(self) -> str:
        """Spaces before the word, which are shown outside its highlight; none if the token is nothing else."""
        return self.text[: len(self.text) - len(self.text.lstrip(" "))] if self.text.strip(" ") else ""

    @property
    def body(self) -> str:
        """The rest of the token."""
        return self.text[len(self.lead) :]


@dataclass(frozen=True)
class Prompts:
    """One pair for showing."""

    number: int
    clean: list[Token]
    corrupted: list[Token]
    correct: list[str]
    incorrect: list[str]
    metric_clean: float
    metric_corrupted: float
    gap: float
    weak: bool


@dataclass(frozen=True)
class Asked:
    """A section's question."""

    description: str
    facts: list[tuple[str, str]]
    sign: str
    first: list[Prompts]
    more: list[Prompts]
    hidden: int
    weak: str


def asked(section: Section) -> Asked:
    """Everything about a section's task that the page shows."""
    task, measured = section.task, section.measured
    n = len(task)
    gap = measured.gap
    weak = measured.weak
    pairs = [_prompts(section, i, i in weak) for i in range(min(n, MOST))]
    clean, corrupted = float(measured.clean.mean()), float(measured.corrupted.mean())
    of = "" if n == 1 else ", mean"
    facts = [
        ("Metric M", metric_in_words(task.metric)),
        ("Pairs", whole(n)),
        (f"M, clean{of}", signed(clean)),
        (f"M, corrupted{of}", signed(corrupted)),
        (f"Gap{of}", signed(float(gap.mean()))),
    ]
    if n > 1:
        facts.append(("Gap above zero", f"{whole(int((gap > 0).sum()))} of {whole(n)} pairs"))
    listed = ", ".join(f"#{i} ({signed(float(gap[i]))})" for i in weak)
    return Asked(
        description=task.describe(),
        facts=facts,
        sign=sign_of(panel.exact for panel in section.panels),
        first=pairs[:FIRST],
        more=pairs[FIRST:],
        hidden=n - len(pairs),
        weak=f"Weak pairs, which the model hardly separates (gap under a tenth of the mean): {listed}." if weak else "",
    )


def _prompts(section: Section, i: int, weak: bool) -> Prompts:
    task, measured = section.task, section.measured
    differs = [a != b for a, b in zip(task.clean[i], task.corrupted[i], strict=True)]
    clean, corrupted = (
        [Token(_visible(text), other) for text, other in zip(tokens, differs, strict=True)] for tokens in task.tokens(i)
    )
    correct, incorrect = ([_visible(text) for text in answers] for answers in task.answer_strings(i))
    return Prompts(
        number=i,
        clean=clean,
        corrupted=corrupted,
        correct=correct,
        incorrect=incorrect,
        metric_clean=float(measured.clean[i]),
        metric_corrupted=float(measured.corrupted[i]),
        gap=float(measured.gap[i]),
        weak=weak,
    )


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "⇥")
