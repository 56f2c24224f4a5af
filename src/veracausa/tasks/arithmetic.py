"""Arithmetic: "… 2 + 4 = 6, 3 + 4 =" → " 7", and the same in words.

Answers are single tokens: all numbers that a tokenizer has as one, in digits those up to 9 where it splits numbers into
digits. Where a space before a number is a token of its own, prompts in digits end with it. Numbers of so many digits,
whose results may be several tokens, are in `long_sums`.
"""

from __future__ import annotations

from typing import Any

from veracausa.choices import ArithmeticCorruption, MetricName
from veracausa.tasks.corruption import pick, require_corruption, whole_words
from veracausa.tasks.data.arithmetic import DIGITS, NUMBERS, OPERATIONS, WORDS
from veracausa.tasks.draw import draw, size
from veracausa.tasks.long_sums import long_sums, result_of
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of

CORRUPTIONS = ("operand", "operands", "operation")
#: The largest operand, and the largest result, of sums in digits.
_OPERAND, _RESULT = 49, 99


def arithmetic(
    lm: Any,
    n: int = 64,
    *,
    seed: int = 0,
    corruption: ArithmeticCorruption = "operand",
    metric: MetricName = "logit_diff",
    digits: int | None = None,
) -> Task:
    """A sum or difference of two numbers, behind some that are solved; correct: its result.

    `corruption="operand"`: the second number is another; `"operands"`: both are; `"operation"`: plus becomes minus and
    minus plus. Incorrect is the result of the corrupted prompt. All give clean prompts in the same order for the same
    seed (of "operation" those whose other result is a number from 0 on, too). Spans: "a", "operation", "b".

    `digits`: numbers of so many digits, 1 to 9, whose results are as many tokens as the tokenizer makes of them. That
    needs metric="logprob" or "prob": of the whole result, behind either prompt. There is no incorrect one then.
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.arithmetic(lm, n=32)
    >>> long = vc.tasks.arithmetic(lm, n=32, digits=3, metric="logprob")
    """
    require_corruption("arithmetic", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    spaced, in_digits = _digits(tokenizer)
    if digits is not None:
        return long_sums(tokenizer, n, seed, corruption, metric, digits, spaced)
    in_words = {k: word for k, word in enumerate(NUMBERS) if single(tokenizer, f" {word}")}
    known = len(whole_words(tokenizer, OPERATIONS.values())) == len(OPERATIONS)
    styles = [(template, in_digits, False, spaced) for template in DIGITS]
    styles += [(template, in_words if known else {}, True, False) for template in WORDS]
    strata = []
    for t, (_, numbers, *_) in enumerate(styles):
        couples = [(a, b) for a in numbers for b in numbers if max(a, b) <= _OPERAND]
        strata += [((t,), (sign,), [c for c in couples if result_of(*c, sign) in numbers]) for sign in OPERATIONS]

    def pair(choice: tuple[Any, ...]) -> Pair | None:
        t, sign, (a, b) = choice
        template, numbers, words, space = styles[t]
        result, key = result_of(a, b, sign), ("arithmetic", seed, *choice)
        flipped = next(other for other in OPERATIONS if other != sign)
        if corruption == "operation":
            others = [(a, b, flipped)]
        else:
            others = [(x, y, sign) for x in (numbers if corruption == "operands" else (a,)) if x <= _OPERAND
                      for y in numbers if y <= _OPERAND and y != b and (x != a or corruption == "operand")]  # fmt: skip
        others = [one for one in others if result_of(*one) in numbers and result_of(*one) != result]
        if not others:
            return None

        def said(x: int, y: int, operation: str) -> dict[str, str]:
            return {"a": numbers[x], "b": numbers[y], "operation": OPERATIONS[operation] if words else operation}

        other = pick(others, *key)
        before = "" if space else " "
        return Pair(
            **prompts(
                template + " " * space, said(a, b, sign), said(*other), {"a": "a", "operation": "operation", "b": "b"}
            ),
            correct=(before + numbers[result],),
            incorrect=(before + numbers[result_of(*other)],),
            info={"template": t, "a": a, "b": b, "operation": sign, "words": words},
        )

    return collect(
        tokenizer,
        "arithmetic",
        (pair(choice) for choice in draw(strata, "arithmetic", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(in_digits)} numbers in digits and {len(in_words)} in words are single tokens",
        options={"corruption": corruption},
    )


def _digits(tokenizer: Any) -> tuple[bool, dict[int, str]]:
    """Whether the space before a number is a token of its own, and the numbers that are single tokens then."""
    numbers = [str(k) for k in range(_RESULT + 1)]
    joined = {int(k): k for k in numbers if single(tokenizer, f" {k}", before="2 + 3 =")}
    apart = {int(k): k for k in numbers if single(tokenizer, k, before="2 + 3 = ")}
    return (True, apart) if len(apart) > len(joined) else (False, joined)
