"""Hypernymy: "A robin is a kind of" → " bird", not the class of the corrupted prompt's word."""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName
from veracausa.tasks.data.hypernymy import CLASSES, OVERLAPS, TEMPLATES
from veracausa.tasks.draw import draw, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of, width


def hypernymy(lm: Any, n: int = 64, *, seed: int = 0, metric: MetricName = "logit_diff") -> Task:
    """A word and its class; the corrupted prompt has a word of another class, with the same article and token count.

    Correct: the class of the clean word; incorrect: that of the corrupted one. Only classes whose name is a single
    token of this tokenizer are used; `seed` draws the pairs. Span: "word". Raises TaskError if n is more than can be
    made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.hypernymy(lm, n=32)
    """
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    classes = [name for name in CLASSES if single(tokenizer, f" {name}")]
    # (article, token count) must agree, so that the prompts differ in the word alone
    groups: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for name in classes:
        for word in CLASSES[name]:
            article = "an" if word[0] in "aeiou" else "a"
            groups.setdefault((article, width(tokenizer, word)), []).append((word, name))
    couples = [(*one, *two, key[0]) for key, group in groups.items() for one in group for two in group]
    couples = [c for c in couples if c[1] != c[3] and {c[1], c[3]} not in OVERLAPS]
    strata = [((t,), couples) for t in TEMPLATES]

    def pair(choice: tuple[Any, ...]) -> Pair:
        template, (word, kind, other, other_kind, article) = choice
        articles = {"a": article, "A": article.capitalize()}
        return Pair(
            **prompts(template, {"word": word, **articles}, {"word": other, **articles}, {"word": "word"}),
            correct=(f" {kind}",),
            incorrect=(f" {other_kind}",),
            info={"template": TEMPLATES.index(template), "word": word, "corrupted_word": other},
        )

    return collect(
        tokenizer,
        "hypernymy",
        (pair(choice) for choice in draw(strata, "hypernymy", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(classes)} classes are single tokens, which makes {len(couples)} equally long couples of words",
    )
