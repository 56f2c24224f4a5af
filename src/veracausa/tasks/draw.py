"""Choices from large product spaces: reproducible everywhere, without repeats, and the same first i for any n.

A stratum is a tuple of slots, each a list of options (template, place, object, name, …); its candidates are all
combinations. They are walked in a pseudo-random order that depends on the seed and nothing else (not on Python's
`hash` or `random`), without listing them: a Feistel network permutes the numbers 0 … N−1. Strata take turns, so that
a small set holds every template and order about equally often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

Slots = Sequence[Sequence[Any]]


def number(*key: object) -> int:
    """A 64-bit number that depends on the key alone: the library's one source of chance in tasks."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def shuffled(items: Sequence[Any], *key: object) -> list[Any]:
    """The items in an order that depends on the key alone."""
    order = sorted(range(len(items)), key=lambda i: (number(*key, i), i))
    return [items[i] for i in order]


def size(slots: Slots) -> int:
    """Number of combinations of a stratum."""
    total = 1
    for slot in slots:
        total *= len(slot)
    return total


def permutation(n: int, *key: object) -> Iterator[int]:
    """0 … n−1 in a pseudo-random order, one at a time (cycle-walking Feistel network, four rounds)."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    for i in range(n):
        value = i
        while True:
            left, right = value >> half, value & mask
            for r in range(4):
                left, right = right, left ^ (number(*key, r, right) & mask)
            value = left << half | right
            if value < n:
                break
        yield value


def walk(slots: Slots, *key: object) -> Iterator[tuple[Any, ...]]:
    """Every combination of one stratum once, in a pseudo-random order."""
    for index in permutation(size(slots), *key):
        choice = []
        for slot in slots:
            index, k = divmod(index, len(slot))
            choice.append(slot[k])
        yield tuple(choice)


def draw(strata: Sequence[Slots], *key: object) -> Iterator[tuple[Any, ...]]:
    """Every combination of every stratum once; the strata take turns in a shuffled order."""
    order = shuffled(range(len(strata)), *key, "strata")
    walks = [walk(strata[s], *key, s) for s in order]
    while walks:
        going = []
        for one in walks:
            choice = next(one, None)
            if choice is not None:
                going.append(one)
                yield choice
        walks = going
