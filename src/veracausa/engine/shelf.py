"""What calls have made and others would make again, kept while a study is at work."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class Shelf:
    """Things by what they were made from, at most `most` bytes of them: the oldest make room for new ones.

    >>> shelf.put(("tape", 0), tape, tape.nbytes)
    >>> shelf.get(("tape", 0))
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._things: dict[Hashable, tuple[Any, int]] = {}

    def get(self, key: Hashable) -> Any:
        """The thing, or None."""
        thing, _ = self._things.get(key, (None, 0))
        return thing

    def put(self, key: Hashable, thing: Any, size: int) -> None:
        """Keep a thing of `size` bytes, in the place of an earlier one; not one that is larger than the shelf."""
        self._things.pop(key, None)
        if size > self.most:
            return
        while sum(size for _, size in self._things.values()) + size > self.most:
            del self._things[next(iter(self._things))]
        self._things[key] = thing, size
