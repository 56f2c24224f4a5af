"""Subject–verb agreement: "The keys near the cabinet" → " are", not " is"."""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName
from veracausa.tasks.data.subject_verb import DISTRACTORS, NOUNS, OPENINGS, PHRASES, VERBS
from veracausa.tasks.draw import draw, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of, width


def subject_verb(lm: Any, n: int = 64, *, seed: int = 0, metric: MetricName = "logit_diff") -> Task:
    """A subject, a phrase with a distracting noun of either number, and the verb form that agrees with the subject.

    Correct: the form (" is", " was", " has" or their plurals) of the clean subject's number; incorrect: the other
    form of the same verb. The corrupted prompt has the subject in the other number. Singular and plural, distractors
    that agree and that don't, take turns; `seed` draws the pairs. Spans: "subject", "distractor". Raises TaskError if n
    is more than can be made or no verb has two single-token forms, MethodError for a metric that does not exist.

    >>> task = vc.tasks.subject_verb(lm, n=32)
    """
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    nouns = [forms for forms in NOUNS if width(tokenizer, forms[0]) == width(tokenizer, forms[1])]
    verbs = [forms for forms in VERBS if all(single(tokenizer, form) for form in forms)]
    strata = [
        ((subject,), (distractor,), OPENINGS, nouns, PHRASES, DISTRACTORS, verbs)
        for subject in (0, 1)
        for distractor in (0, 1)
    ]

    def pair(choice: tuple[Any, ...]) -> Pair:
        number, distracting, opening, noun, phrase, distractor, verb = choice
        template = f"{opening} {{subject}} {phrase.replace('{}', '{distractor}')}"
        one, other = (
            {"subject": form, "distractor": distractor[distracting]} for form in (noun[number], noun[1 - number])
        )
        return Pair(
            **prompts(template, one, other, {"subject": "subject", "distractor": "distractor"}),
            correct=(verb[number],),
            incorrect=(verb[1 - number],),
            info={
                "template": f"{opening} … {phrase}",
                "subject": noun[number],
                "number": ("singular", "plural")[number],
                "distractor": distractor[distracting],
                "distractor_number": ("singular", "plural")[distracting],
                "verb": verb[number].strip(),
            },
        )

    return collect(
        tokenizer,
        "subject-verb",
        (pair(choice) for choice in draw(strata, "subject-verb", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(nouns)} nouns have equally long forms, {len(verbs)} verbs have single-token forms",
    )
