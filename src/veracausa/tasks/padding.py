"""Tokens that pad a prompt or end a text: where they stand at an end, the model would read another prompt.

A padded batch keeps its padding apart by an attention mask; a `Task` has none, so padding would be run as real tokens.
A start token is legitimate once. Where one token is start, end and padding at once (GPT-2), one of it may lead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Specials:
    """Ids of a tokenizer's start, end and padding tokens; None where it has none."""

    start: int | None = None
    end: int | None = None
    pad: int | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> Specials:
        """Those of a tokenizer; none without one."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return cls(*(getattr(tokenizer, name, None) for name in names))

    @property
    def leading(self) -> int | None:
        """The token that may lead a prompt, once: the start token, else the end token in its place."""
        return self.end if self.start is None else self.start

    def padding_before(self, ids: Sequence[int]) -> int:
        """How many tokens at the beginning cannot be the prompt's own."""
        known = {self.start, self.end, self.pad} - {None}
        n = 0
        while n + 1 < len(ids) and ids[n] in known:
            foreign = ids[n] != self.leading and (ids[n] == self.pad or ids[n + 1] == self.start)
            if not foreign and ids[n + 1] not in (ids[n], self.pad):
                break
            n += 1
        return n

    def padding_behind(self, ids: Sequence[int]) -> int:
        """How many tokens at the end pad the prompt or end its text; the metric would be read behind them."""
        known = {self.end, self.pad} - {None}
        n = 0
        while n + 1 < len(ids) and ids[len(ids) - 1 - n] in known:
            n += 1
        return n

    def stripped(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids without what pads them at either end."""
        return tuple(ids[self.padding_before(ids) : len(ids) - self.padding_behind(ids)])
