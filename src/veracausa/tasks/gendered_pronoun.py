"""Gendered pronouns: "So Emma is a really great friend, isn't" → " she", not " he"."""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName
from veracausa.tasks.data.gendered_pronoun import TEMPLATES
from veracausa.tasks.data.names import FEMALE, MALE
from veracausa.tasks.draw import draw, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of, width


def gendered_pronoun(lm: Any, n: int = 64, *, seed: int = 0, metric: MetricName = "logit_diff") -> Task:
    """A name, and the pronoun it calls for; the corrupted prompt has a name of the other gender, equally long.

    Correct: " she" or " he" of the clean name (they take turns); incorrect: the other. `seed` draws the pairs.
    Span: "name". Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.gendered_pronoun(lm, n=32)
    """
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    by_width: dict[int, tuple[list[str], list[str]]] = {}
    for side, names in enumerate((FEMALE, MALE)):
        for name in names:
            by_width.setdefault(width(tokenizer, name), ([], []))[side].append(name)
    couples = [(f, m) for female, male in by_width.values() for f in female for m in male]
    strata = [((t,), (female,), couples) for t in TEMPLATES for female in (True, False)]

    def pair(choice: tuple[Any, ...]) -> Pair:
        template, female, couple = choice
        name, other = couple if female else couple[::-1]
        right, wrong = (" she", " he") if female else (" he", " she")
        return Pair(
            **prompts(template, {"name": name}, {"name": other}, {"name": "name"}),
            correct=(right,),
            incorrect=(wrong,),
            info={"template": TEMPLATES.index(template), "name": name, "corrupted_name": other},
        )

    return collect(
        tokenizer,
        "gendered-pronoun",
        (pair(choice) for choice in draw(strata, "gendered-pronoun", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(couples)} couples of names are equally many tokens",
    )
