"""What builders of tasks share: kinds of corrupted prompts, and words that are drawn for a pair."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from veracausa.errors import TaskError
from veracausa.tasks.draw import number
from veracausa.tasks.tokens import single

Item = TypeVar("Item")


def require_corruption(task: str, corruption: str, known: Collection[str]) -> None:
    """TaskError for a kind of corrupted prompts that a task has not."""
    if corruption not in known:
        raise TaskError(f"{task} has no corruption {corruption!r}; choose one of {', '.join(known)}")


def pick(items: Sequence[Item], *key: object) -> Item:
    """One of some things, by the key alone."""
    return items[number(*key) % len(items)]


def whole_words(tokenizer: Any, words: Iterable[str]) -> list[str]:
    """The words that are one token each within a sentence."""
    return [word for word in words if single(tokenizer, f" {word}")]
