"""Docstring: the third ":param" of a function's docstring → the third argument of its definition."""

from __future__ import annotations

from typing import Any

from veracausa.choices import DocstringCorruption, MetricName
from veracausa.tasks.corruption import require_corruption, whole_words
from veracausa.tasks.data.docstring import ARGUMENTS, FUNCTIONS, TEMPLATES, WORDS
from veracausa.tasks.draw import draw, shuffled, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of

CORRUPTIONS = ("definition", "docstring", "unrelated")
_DRAWN, _ARGUMENTS, _WORDS = 1024, 4, 7


def docstring(
    lm: Any,
    n: int = 64,
    *,
    seed: int = 0,
    corruption: DocstringCorruption = "definition",
    metric: MetricName = "logit_diff",
) -> Task:
    """A function of four arguments whose docstring has come to the third; correct: its name.

    `corruption="definition"`: the third argument of the definition has another name, which is right then (and is the
    incorrect one). `"docstring"`: the docstring describes two arguments of other names, so that its place in the
    definition is lost. `"unrelated"`: the definition has four other names. Of these two the fourth argument is
    incorrect. All give the same clean prompts for the same seed. Names and words are single tokens.
    Spans: "A_def" … "D_def" (the arguments in the definition), "A_doc", "B_doc" (in the docstring).
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.docstring(lm, n=32)
    """
    require_corruption("docstring", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    arguments, said = whole_words(tokenizer, ARGUMENTS), whole_words(tokenizer, WORDS)
    functions = whole_words(tokenizer, FUNCTIONS)
    enough = len(arguments) >= 2 * _ARGUMENTS and len(said) >= _WORDS and functions
    strata = [((t,), functions, range(_DRAWN if enough else 0)) for t in range(len(TEMPLATES))]

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, function, _ = choice
        names = shuffled(arguments, "docstring", seed, *choice, "arguments")
        own, new = names[:_ARGUMENTS], names[_ARGUMENTS : 2 * _ARGUMENTS]
        rest = dict(zip("xyzpqrs", shuffled(said, "docstring", seed, *choice, "words"), strict=False))
        clean = {"f": function, **dict(zip("abcd", own, strict=True)), "e": own[0], "g": own[1], **rest}
        changed, wrong = dict(clean), own[3]
        if corruption == "definition":
            changed["c"] = wrong = new[0]
        elif corruption == "docstring":
            changed |= {"e": new[0], "g": new[1]}
        else:
            changed |= dict(zip("abcd", new, strict=True))
        spans = {"A_def": "a", "B_def": "b", "C_def": "c", "D_def": "d", "A_doc": "e", "B_doc": "g"}
        return Pair(
            **prompts(TEMPLATES[t], clean, changed, spans),
            correct=(f" {own[2]}",),
            incorrect=(f" {wrong}",),
            info={"template": t, "function": function, "arguments": own},
        )

    return collect(
        tokenizer,
        "docstring",
        (pair(choice) for choice in draw(strata, "docstring", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(arguments)} names of arguments and {len(said)} words are single tokens",
        options={"corruption": corruption},
    )
