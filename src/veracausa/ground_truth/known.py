"""`Known`: what every model with a known circuit says of itself, compiled or trained.

A program has inputs of words, pairs of inputs on which its circuit shows, and the names of its true nodes and edges.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from veracausa.errors import TaskError
from veracausa.tasks.task import Task

Word = str | int


class Pair(NamedTuple):
    """Two inputs that differ in one thing, and a position (0: the first word) at which the outputs differ."""

    clean: tuple[Word, ...]
    corrupted: tuple[Word, ...]
    read: int


class Known(ABC):
    """A program whose circuit is known; `nodes`, `edges`: names of its true parts."""

    name: str
    nodes: frozenset[str]
    edges: frozenset[str]

    #: How the model was made, in one word.
    made = "compiled"

    @abstractmethod
    def pairs(self) -> list[Pair]:
        """Every pair on which truth is defined."""

    @abstractmethod
    def tokens(self, words: Sequence[Word], read: int | None = None) -> tuple[int, ...]:
        """Token ids of an input, so that the position `read` stands last."""

    @abstractmethod
    def answers(self, pair: Pair) -> tuple[int, int]:
        """The logits whose difference is the metric of a pair: of the clean output, and of the corrupted one."""

    def task(self, n: int | None = None, *, seed: int = 0) -> Task:
        """Pairs as a task: all of them, or `n` drawn without replacement.

        Raises:
            TaskError: there are not so many pairs.

        >>> lm, program = vc.ground_truth.load_compiled("sort")
        >>> vc.exact(lm, program.task(n=64), units="heads")
        """
        pairs = self.pairs()
        if n is not None:
            if not 0 < n <= len(pairs):
                raise TaskError(f"{self.name} has {len(pairs)} pairs, so n={n} cannot be drawn; 1 ≤ n ≤ {len(pairs)}")
            pairs = random.Random(seed).sample(pairs, n)
        return self.task_of(pairs, **({} if n is None else {"seed": seed}))

    def task_of(self, pairs: Sequence[Pair], **options: object) -> Task:
        """These pairs as a task; `options`: what to say of how they were chosen."""
        answers = [self.answers(pair) for pair in pairs]
        return Task(
            f"{self.made}-{self.name}",
            tuple(self.tokens(pair.clean, pair.read) for pair in pairs),
            tuple(self.tokens(pair.corrupted, pair.read) for pair in pairs),
            tuple((correct,) for correct, _ in answers),
            tuple((incorrect,) for _, incorrect in answers),
            clean_text=tuple(" ".join(map(str, pair.clean)) for pair in pairs),
            corrupted_text=tuple(" ".join(map(str, pair.corrupted)) for pair in pairs),
            info=tuple({"read": pair.read} for pair in pairs),
            options=options,
        )
