"""Capital and country: "The capital of France is" → " Paris", not the capital of the corrupted prompt's country."""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName
from veracausa.tasks.data.capital_country import CAPITALS, TEMPLATES
from veracausa.tasks.draw import draw, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of, width


def capital_country(lm: Any, n: int = 64, *, seed: int = 0, metric: MetricName = "logit_diff") -> Task:
    """A country and its capital; the corrupted prompt names another country of equally many tokens.

    Correct: the capital of the clean country; incorrect: that of the corrupted one. Only capitals that are a single
    token of this tokenizer are used; `seed` draws the pairs. Span: "country". Raises TaskError if n is more than can be
    made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.capital_country(lm, n=32)
    """
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    known = {country: city for country, city in CAPITALS.items() if single(tokenizer, f" {city}")}
    widths = {country: width(tokenizer, country) for country in known}
    couples = [(a, b) for a in known for b in known if widths[a] == widths[b] and known[a] != known[b]]
    strata = [((t,), couples) for t in TEMPLATES]

    def pair(choice: tuple[Any, ...]) -> Pair:
        template, (country, other) = choice
        return Pair(
            **prompts(template, {"country": country}, {"country": other}, {"country": "country"}),
            correct=(f" {known[country]}",),
            incorrect=(f" {known[other]}",),
            info={"template": TEMPLATES.index(template), "country": country, "corrupted_country": other},
        )

    return collect(
        tokenizer,
        "capital-country",
        (pair(choice) for choice in draw(strata, "capital-country", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(known)} capitals of the list are single tokens, which makes {len(couples)} equally long couples",
    )
