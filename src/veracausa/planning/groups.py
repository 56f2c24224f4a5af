"""What every count of a call's memory needs: pairs that are recorded together, scores, logits, the larger of two."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from veracausa.engine.footprint import Footprint, Memory

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Rows whose logits over the whole vocabulary are held at once, and how often.
READ = 64 * 3
#: Bytes of a unit in a table: five columns of whole numbers.
_TABLE = 5 * 8


@dataclass(frozen=True)
class Group:
    """Pairs that are recorded together: how many, how many positions each runs, and how long they are.

    `tail`: last positions from the first on at which any of them is read.
    """

    pairs: int
    positions: int
    length: int
    tail: int = 1

    @property
    def tokens(self) -> int:
        """Positions of all."""
        return self.pairs * self.positions


def most(found: Sequence[Memory]) -> Memory:
    """The largest of what is not there at once."""
    return max(found, key=lambda one: one.beside, default=Memory())


def groups_of(task: Task, found: Sequence[tuple[int, tuple[int, ...]]]) -> list[Group]:
    """Buckets of pairs, (start, pairs), by their sizes."""
    longest = [max(max(len(task.clean[i]), len(task.corrupted[i])) for i in own) for _, own in found]
    return [Group(len(own), n - start, n, task.tail(own)) for (start, own), n in zip(found, longest, strict=True)]


def scores(lm: Model, pairs: int, units: int) -> int:
    """A number for every pair and unit, found and on its way, and done or not; and the table of units."""
    return pairs * units * (2 * lm.score_dtype.itemsize + 1) + _TABLE * units


def logits(shapes: Footprint, pairs: int) -> int:
    """Logits over the vocabulary where metrics are read."""
    return shapes.wide * shapes.vocabulary * min(READ, 3 * pairs)


def codes(lm: Model, place: str, layers: Collection[int]) -> int:
    """Bytes a token of a pair: features of dictionaries that are read in both of its runs."""
    sizes = [
        code.dictionary.size for (kind, layer), code in lm.decoder.codes.items() if kind == place and layer in layers
    ]
    return 2 * lm.score_dtype.itemsize * sum(sizes)


def sized(count: float) -> str:
    """1.2 GB, 34 MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 5e8 else f"{max(count / 1e6, 0.1):,.1f} MB"


def whole(shapes: Footprint, length: int) -> int:
    """The bare model's own run of one whole pair, which every call is held against."""
    return 2 * length * shapes.back(length)
