"""Greater-Than: "The war lasted from the year 1732 to the year 17" → a year that is later than 32.

How it is read depends on how the tokenizer splits 1732:

* 17|32 (GPT-2): the next token is the rest of the year. Correct: all YY' > YY; incorrect: all YY' ≤ YY.
* 1|7|3|2 (SmolLM2, Gemma): the next token is the next digit. Correct: the digits above the tens digit of YY;
  incorrect: those below; the equal digit counts for neither side, since both outcomes begin with it.

Any other split (one token a year, 173|2) gives no token to compare: TaskError.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from veracausa.choices import GreaterThanCorruption, MetricName
from veracausa.errors import TaskError
from veracausa.tasks.corruption import require_corruption
from veracausa.tasks.data.greater_than import CENTURIES, NOUNS, TEMPLATES
from veracausa.tasks.draw import draw, number, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import continuation, encode, strings, tokenizer_of

CORRUPTIONS = ("01", "year")
#: Span → slot: the century and the year of the first year, and the century that the last one begins with.
_SPANS = {"noun": "noun", "XX1": "from", "YY": "year", "XX2": "century"}
_BEFORE = "The war lasted from the year "
_DIGITS = tuple("0123456789")
_YEARS = tuple(f"{y:02d}" for y in range(100))


def greater_than(
    lm: Any, n: int = 64, *, seed: int = 0, corruption: GreaterThanCorruption = "01", metric: MetricName = "prob_diff"
) -> Task:
    """A first year, and the beginning of a last one, which must be later.

    `corruption="01"`: the corrupted first year ends in 01, so that all years are later; `"year"`: it is another year of
    the same century, drawn at random (the gap is smaller, and of either sign). Both give the same clean prompts for the
    same seed. The metric is the probability of later minus that of earlier (see the module for what "later" reads).
    Spans: "noun", "XX1" and "YY" (the first year: century and year), "XX2" (the century that the last one begins with).
    Raises TaskError if this tokenizer splits years in neither way or n is more than can be made, MethodError for a
    metric that does not exist.

    >>> task = vc.tasks.greater_than(lm, n=32)
    >>> task.options["compares"]
    'next digits'
    """
    require_corruption("greater-than", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    split, starts = _years(tokenizer)
    strata = [((t,), NOUNS, tuple(starts)) for t in TEMPLATES]

    def other(choice: tuple[Any, ...]) -> str:
        _, _, (century, year) = choice
        years = [y for c, y in starts if c == century and y != year]
        return years[number("greater-than", seed, corruption, *choice) % len(years)] if years else "01"

    def pair(choice: tuple[Any, ...]) -> Pair:
        template, noun, (century, year) = choice
        following = starts[century, year]
        first = int(year[0]) if split == "next digits" else int(year)
        # the equal digit can lead to a later or an earlier year; the equal year is not later
        earlier = following[: first if split == "next digits" else first + 1]
        later = following[first + 1 :]
        words = {"noun": noun, "century": century, "from": century, "year": year}
        changed = {**words, "year": other(choice) if corruption == "year" else "01"}
        return Pair(
            **prompts(template.replace("{start}", "{from}{year}"), words, changed, _SPANS),
            correct=later,
            incorrect=earlier,
            info={"template": TEMPLATES.index(template), "noun": noun, "century": century, "year": year},
        )

    return collect(
        tokenizer,
        "greater-than",
        (pair(choice) for choice in draw(strata, "greater-than", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(starts)} first years tokenise as the task needs",
        options={"corruption": corruption, "compares": split},
    )


def _years(tokenizer: Any) -> tuple[str, dict[tuple[str, str], list[int]]]:
    """How years are compared, and the usable (century, year) with the token ids that year tokens are compared over."""
    # tens digits 1 … 8 and years 02 … 98 leave answers on both sides
    if usable := _usable(tokenizer, _YEARS, [(year, (year,)) for year in _YEARS[2:99]], ("01",)):
        return "two-digit years", usable
    if usable := _usable(tokenizer, _DIGITS, [(year, tuple(year)) for year in _YEARS[10:90]], ("0", "1")):
        return "next digits", usable
    shown = strings(tokenizer, encode(tokenizer, " 1732", start=False))
    raise TaskError(
        "greater-than compares the token after the century, so it needs years that split into 17|32 or into single "
        f"digits, but this tokenizer makes {shown} of ' 1732'; choose another task, or write your own pairs with "
        "veracausa.task"
    )


def _usable(
    tokenizer: Any, parts: tuple[str, ...], years: list[tuple[str, tuple[str, ...]]], first: tuple[str, ...]
) -> dict[tuple[str, str], list[int]]:
    """The (century, year) that split into these parts, as the corrupted year (`first`) of that century does.

    Empty if a part is not a single token. A year that is a word of its own (such as 1800) is left out as a first
    year, but its last digits are still a token that can follow the century.
    """
    usable: dict[tuple[str, str], list[int]] = {}
    for century in CENTURIES:
        head = _BEFORE + century
        # the start token changes nothing here, and leaving it out halves the work
        follow = partial(continuation, tokenizer, head, prompt_ids=encode(tokenizer, head, start=False), start=False)
        token: dict[str, int] = {}
        for part in parts:
            ids = follow(part) or encode(tokenizer, part, start=False)
            if len(ids) != 1:
                return {}
            token[part] = ids[0]
        if len(set(token.values())) == len(parts) and follow("01") == tuple(token[p] for p in first):
            for year, pieces in years:
                if follow(year) == tuple(token[p] for p in pieces):
                    usable[century, year] = list(token.values())
    return usable
