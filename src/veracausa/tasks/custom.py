"""Tasks from the user's own prompts, and the one published pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from veracausa.errors import TaskError
from veracausa.tasks.metrics import metric as metric_of
from veracausa.tasks.pairs import Pair, assemble, encode_pair
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of


def task(
    lm: Any,
    *,
    clean: Sequence[str] | str,
    corrupted: Sequence[str] | str,
    correct: Sequence[str | int | Sequence[str | int]] | str,
    incorrect: Sequence[str | int | Sequence[str | int]] | str | None = None,
    metric: str = "logit_diff",
    name: str = "custom",
) -> Task:
    """A task from your own pairs: prompts as text, answers as text with their leading space.

    Each argument has one entry per example (one string alone is one example); an entry of `correct` and `incorrect`
    is one answer or a list of answers. Every answer must be one token after its prompt (or is a token id itself).
    Raises PromptError for a pair whose prompts are of different lengths (showing both token lists), equal or empty;
    AnswerError for an answer of several tokens or on both sides; MethodError for an unknown metric; TaskError for
    lists of different lengths.

    >>> vc.task(lm, clean="The keys to the cabinet", corrupted="The key to the cabinet",
    ...         correct=" are", incorrect=" is")
    """
    columns = {
        "clean": _entries(clean),
        "corrupted": _entries(corrupted),
        "correct": _entries(correct),
        "incorrect": [()] * len(_entries(clean)) if incorrect is None else _entries(incorrect),
    }
    n = len(columns["clean"])
    for column, values in columns.items():
        if len(values) != n:
            raise TaskError(
                f"task {name!r}: {n} clean prompts but {len(values)} entries of {column!r}; give one per example"
            )
    rows = [
        (f"pair {i} of task {name!r}", Pair(c, d, _answers(good), _answers(bad)))
        for i, (c, d, good, bad) in enumerate(zip(*columns.values(), strict=True))
    ]
    return from_pairs(lm, rows, metric=metric, name=name)


def from_pairs(lm: Any, rows: Sequence[tuple[str, Pair]], *, metric: str, name: str, **options: Any) -> Task:
    """A task from (where it comes from, pair) rows; the place is named in errors."""
    metric_of(metric)
    tokenizer = tokenizer_of(lm)
    encoded = [encode_pair(tokenizer, pair, where) for where, pair in rows]
    return assemble(tokenizer, name, encoded, metric=metric, options=options)


def published_pair(lm: Any) -> Task:
    """The pair of the published agreement study: John and Mary, Mary (clean) or John (corrupted) gives.

    Clean: "After John and Mary went to the store, Mary gave a bottle of milk to" → " John", not " Mary"; the
    corrupted prompt says "John gave". Logit difference of SmolLM2-135M: +5.137 clean, −3.829 corrupted.

    >>> vc.tasks.published_pair(lm).tokens(0)
    """
    text = "After John and Mary went to the store, {} gave a bottle of milk to"
    info = {"template": "published", "order": "ABBA", "indirect_object": "John", "subject": "Mary"}
    pair = Pair(text.format("Mary"), text.format("John"), (" John",), (" Mary",), info)
    return from_pairs(lm, [("the published pair", pair)], metric="logit_diff", name="ioi-published", corruption="swap")


def _entries(values: Any) -> list[Any]:
    return [values] if isinstance(values, str) else list(values)


def _answers(entry: Any) -> tuple[Any, ...]:
    return tuple(entry) if isinstance(entry, Iterable) and not isinstance(entry, str) else (entry,)
