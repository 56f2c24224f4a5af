"""Multiple choice: a fact, a question about it and four answers with letters → the letter of the right one."""

from __future__ import annotations

from typing import Any

from veracausa.choices import MetricName, MultipleChoiceCorruption
from veracausa.tasks.corruption import pick, require_corruption, whole_words
from veracausa.tasks.data.multiple_choice import LETTERS, OTHERS, TEMPLATES
from veracausa.tasks.data.nouns import COLOURS, OBJECTS
from veracausa.tasks.draw import draw, shuffled, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of

CORRUPTIONS = ("permuted", "symbols", "fact")
_OPTIONS = len(LETTERS)


def multiple_choice(
    lm: Any,
    n: int = 64,
    *,
    seed: int = 0,
    corruption: MultipleChoiceCorruption = "permuted",
    metric: MetricName = "logit_diff",
) -> Task:
    """Something of a colour, and four colours with the letters A to D; correct: the letter of its colour.

    `corruption="permuted"`: the right answer changes places with another one. `"symbols"`: other letters stand before
    the same answers. `"fact"`: the thing has another of the four colours. Incorrect is the letter that the corrupted
    prompt asks for. All give the same clean prompts for the same seed. Colours, things and letters are single tokens.
    Spans: "fact" (the colour that is said), "symbol" and "option" (of the right answer), "other_symbol" and
    "other_option" (of the one that it changes places with), "object" and "asked" (the thing, in the question again).
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.multiple_choice(lm, n=32, corruption="symbols")
    """
    require_corruption("multiple-choice", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    colours, objects = (whole_words(tokenizer, listed) for listed in (COLOURS, OBJECTS))
    symbols = whole_words(tokenizer, OTHERS)
    enough = len(colours) >= _OPTIONS and len(whole_words(tokenizer, LETTERS)) == _OPTIONS <= len(symbols)
    strata = [((t,), range(_OPTIONS if enough else 0), objects, range(64)) for t in range(len(TEMPLATES))]

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, right, thing, _ = choice
        key = ("multiple-choice", seed, *choice)
        hues = shuffled(colours, *key, "colours")[:_OPTIONS]
        other = pick([k for k in range(_OPTIONS) if k != right], *key, "other")
        clean = {f"s{k}": LETTERS[k] for k in range(_OPTIONS)} | {f"c{k}": hues[k] for k in range(_OPTIONS)}
        clean |= {"fact": hues[right], "object": thing, "asked": thing}
        changed, wrong = dict(clean), LETTERS[other]
        if corruption == "permuted":
            changed |= {f"c{right}": hues[other], f"c{other}": hues[right]}
        elif corruption == "symbols":
            new = shuffled(symbols, *key, "symbols")
            changed |= {f"s{k}": new[k] for k in range(_OPTIONS)}
            wrong = new[right]
        else:
            changed["fact"] = hues[other]
        spans = {"fact": "fact", "object": "object", "asked": "asked", "symbol": f"s{right}", "option": f"c{right}"}
        spans |= {"other_symbol": f"s{other}", "other_option": f"c{other}"}
        return Pair(
            **prompts(TEMPLATES[t], clean, changed, spans),
            correct=(f" {LETTERS[right]}",),
            incorrect=(f" {wrong}",),
            info={"template": t, "object": thing, "colours": hues, "right": right},
        )

    return collect(
        tokenizer,
        "multiple-choice",
        (pair(choice) for choice in draw(strata, "multiple-choice", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(colours)} colours, {len(objects)} things and {len(symbols)} other letters are single tokens",
        options={"corruption": corruption},
    )
