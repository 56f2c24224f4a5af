"""Negation: "The soup is not hot. The soup is" → " cold"."""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName, NegationCorruption
from veracausa.tasks.corruption import pick, require_corruption, whole_words
from veracausa.tasks.data.negation import AFFIRMING, OPPOSITES, TEMPLATES
from veracausa.tasks.draw import draw, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of

CORRUPTIONS = ("affirmed", "opposite")


def negation(
    lm: Any,
    n: int = 64,
    *,
    seed: int = 0,
    corruption: NegationCorruption = "affirmed",
    metric: MetricName = "logit_diff",
) -> Task:
    """Something that is not so, and the word for how it is then: correct is the opposite, incorrect the word itself.

    `corruption="affirmed"`: "very", "really", … in the place of "not". `"opposite"`: it is the opposite that is denied.
    Both make the other answer right, and both give the same clean prompts for the same seed. Adjectives are single
    tokens. Spans: "subject", "negation", "adjective", "again" (the subject's second mention).
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.negation(lm, n=32)
    """
    require_corruption("negation", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    affirming = whole_words(tokenizer, AFFIRMING)
    opposites = [one for one in OPPOSITES if affirming and len(whole_words(tokenizer, one[:2])) == 2]
    couples = [((one, other), things) for a, b, things in opposites for one, other in ((a, b), (b, a))]
    strata = [((t,), (couple,), things) for t in range(len(TEMPLATES)) for couple, things in couples]

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, (adjective, opposite), noun = choice
        clean = {"noun": noun, "again": noun, "negation": "not", "adjective": adjective}
        changed = {**clean, "adjective": opposite}
        if corruption == "affirmed":
            changed = {**clean, "negation": pick(affirming, "negation", seed, *choice)}
        spans = {"subject": "noun", "negation": "negation", "adjective": "adjective", "again": "again"}
        return Pair(
            **prompts(TEMPLATES[t], clean, changed, spans),
            correct=(f" {opposite}",),
            incorrect=(f" {adjective}",),
            info={"template": t, "noun": noun, "adjective": adjective, "opposite": opposite},
        )

    return collect(
        tokenizer,
        "negation",
        (pair(choice) for choice in draw(strata, "negation", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(opposites)} adjectives and their opposites are single tokens",
        options={"corruption": corruption},
    )
