"""Sentiment: "I thought this movie was awful, I hated it. Conclusion: this movie is" → " bad", " terrible", …"""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName, SentimentCorruption
from veracausa.tasks.corruption import pick, require_corruption, whole_words
from veracausa.tasks.data.sentiment import ADJECTIVES, NOUNS, TEMPLATES, VERBS, VERDICTS
from veracausa.tasks.draw import draw, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of

CORRUPTIONS = ("both", "adjective", "verb")


def sentiment(
    lm: Any, n: int = 64, *, seed: int = 0, corruption: SentimentCorruption = "both", metric: MetricName = "logit_diff"
) -> Task:
    """A judgement, and the verdict that follows: correct are words of praise for praise, of blame for blame.

    Praise and blame take turns. `corruption="both"`: the adjective and the verb judge the other way; `"adjective"` and
    `"verb"`: one of them alone, so that the prompt says both (the gap is smaller). All give the same clean prompts for
    the same seed. Adjectives, verbs and verdicts are single tokens.
    Spans: "subject", "adjective", "verb", "again" (the subject's second mention).
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.sentiment(lm, n=32)
    """
    require_corruption("sentiment", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    adjectives = [whole_words(tokenizer, side) for side in ADJECTIVES]
    verbs = [whole_words(tokenizer, side) for side in VERBS]
    verdicts = [tuple(word for word in side if single(tokenizer, word)) for side in VERDICTS]
    strata = [((t,), (side,), NOUNS, adjectives[side], verbs[side]) for t in range(len(TEMPLATES)) for side in (0, 1)]
    if not all(verdicts) or not all(adjectives) or not all(verbs):
        strata = []

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, side, noun, adjective, verb = choice
        clean = {"noun": noun, "again": noun, "adjective": adjective, "verb": verb}
        other = {
            "adjective": pick(adjectives[1 - side], "sentiment", seed, *choice, "adjective"),
            "verb": pick(verbs[1 - side], "sentiment", seed, *choice, "verb"),
        }
        changed = clean | {name: word for name, word in other.items() if corruption in ("both", name)}
        spans = {"subject": "noun", "adjective": "adjective", "verb": "verb", "again": "again"}
        return Pair(
            **prompts(TEMPLATES[t], clean, changed, spans),
            correct=verdicts[side],
            incorrect=verdicts[1 - side],
            info={"template": t, "noun": noun, "adjective": adjective, "verb": verb, "praise": side == 0},
        )

    return collect(
        tokenizer,
        "sentiment",
        (pair(choice) for choice in draw(strata, "sentiment", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{sum(map(len, adjectives))} adjectives and {sum(map(len, verbs))} verbs are single tokens",
        options={"corruption": corruption},
    )
