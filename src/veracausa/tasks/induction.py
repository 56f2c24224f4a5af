"""Induction: "Words: house river stone paper house river" → " stone", since that followed "river" before."""

from __future__ import annotations

from typing import Any

from veracausa.choices import InductionCorruption, MetricName
from veracausa.tasks.corruption import pick, require_corruption, whole_words
from veracausa.tasks.data.induction import TEMPLATES
from veracausa.tasks.data.nouns import NOUNS
from veracausa.tasks.draw import draw, shuffled, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of

CORRUPTIONS = ("last", "target", "unrelated")
#: Words of a list, and lists that are drawn for each template and place.
_LENGTH, _LISTS = 7, 2048


def induction(
    lm: Any, n: int = 64, *, seed: int = 0, corruption: InductionCorruption = "last", metric: MetricName = "logit_diff"
) -> Task:
    """A list of words at random that begins again; correct: the word that followed the last one before.

    `corruption="last"`: the last word is another one of the list, whose follower is right then. `"target"`: the word
    that is to come was another one in the first part, which is right then. `"unrelated"`: the first part has other
    words, so that nothing says what comes. Incorrect is the word that the corrupted prompt of the first two asks for,
    of "unrelated" that of "last". All give the same clean prompts for the same seed. Words are single tokens.
    Spans: "A1" (the last word where it came first), "B1" (what followed it), "A2" (the last word).
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.induction(lm, n=32)
    """
    require_corruption("induction", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    words = whole_words(tokenizer, NOUNS)
    enough = len(words) >= 2 * _LENGTH
    strata = [((t,), range(1, _LENGTH - 1), range(_LISTS if enough else 0)) for t in range(len(TEMPLATES))]

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, last, _ = choice
        drawn = shuffled(words, "induction", seed, *choice)
        own, new = drawn[:_LENGTH], drawn[_LENGTH : 2 * _LENGTH]
        other = pick([k for k in range(_LENGTH - 1) if k != last], "induction", seed, *choice, "other")
        begin, between = TEMPLATES[t]
        names = [f"f{k}" for k in range(_LENGTH)] + [f"s{k}" for k in range(last + 1)]
        template = begin.replace("{list}", between.join(f"{{{name}}}" for name in names))
        template += between.rstrip()  # " " comes with the answer
        clean = dict(zip(names, own + own[: last + 1], strict=True))
        changed, wrong = dict(clean), own[other + 1]
        if corruption == "last":
            changed[f"s{last}"] = own[other]
        elif corruption == "target":
            changed[f"f{last + 1}"] = wrong = new[0]
        else:
            changed |= dict(zip(names, new, strict=False))
        return Pair(
            **prompts(template, clean, changed, {"A1": f"f{last}", "B1": f"f{last + 1}", "A2": f"s{last}"}),
            correct=(f" {own[last + 1]}",),
            incorrect=(f" {wrong}",),
            info={"template": t, "words": own, "last": own[last]},
        )

    return collect(
        tokenizer,
        "induction",
        (pair(choice) for choice in draw(strata, "induction", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(words)} words of the list are single tokens",
        options={"corruption": corruption},
    )
