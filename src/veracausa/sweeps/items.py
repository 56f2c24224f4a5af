"""A sweep cut into items: what one worker does in one go, about as long as the plan allows by the forecast.

An item's id is a hash of everything that its numbers depend on: this version, the model's identity, the pairs' tokens
and answers, the question, and which pairs and units of it. So two sweeps of one id have one number.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.engine.budget import free_memory
from veracausa.planning.memory import peak
from veracausa.planning.price import steps_of
from veracausa.planning.rates import Rate, rates, timed
from veracausa.sweeps.asking import Asked, Part, blank
from veracausa.sweeps.staged import ranges
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.cost import Step


#: Bytes of a file beside its numbers, about.
_HEADER = 4096
#: Share of the free memory that the numbers of an item may take.
_NUMBERS = 0.125


@dataclass(frozen=True)
class Item:
    """A piece of a cell: some of its pairs, some of its units; None: all. What it will cost, by the forecast.

    `seconds`: alone on this machine, done after the item before it, whose recordings it may find; None where its speed
    could not be told. `memory`: bytes beside the weights.
    `step`: "estimate" or "checked" of receipts and curves that are cut (see `asking`), "" of all else. `disk`: bytes of
    its file. `turn`: it waits for the items of its cell that have an earlier one. `units` of a study or a discovery are
    its stages; the last item has none left, and puts together what the others found.
    """

    id: str
    cell: int
    pairs: Sequence[int] | None
    units: tuple[int, int] | None
    token_layers: float
    seconds: float | None
    memory: int
    step: str = ""
    disk: int = 0
    turn: int = 0

    @property
    def part(self) -> Part:
        """What it asks of its cell."""
        return Part(None if self.pairs is None else tuple(self.pairs), self.units)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the pairs as runs, [first, behind the last], since a million of them are a long list."""
        return asdict(replace(self, pairs=None)) | {"pairs": None if self.pairs is None else _runs(self.pairs)}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Item:
        """What `to_dict` gave, or a file kept of it."""
        runs, units = body["pairs"], body["units"]
        pairs: Sequence[int] | None = None
        if runs is not None:  # one run stays one: a range takes no memory
            pairs = range(*runs[0]) if len(runs) == 1 else tuple(i for run in runs for i in range(*run))
        return cls(**(body | {"pairs": pairs, "units": None if units is None else (*units,)}))


class Clock:
    """Seconds of works of one model and task, each kind of work timed once."""

    def __init__(self, asked: Asked, known: dict[str, Rate] | None = None) -> None:
        self._asked, self._known = asked, {} if known is None else known
        self._counted: dict[Any, list[Step]] = {}
        self._peaks: dict[Any, int] = {}

    def steps(self, part: Part) -> list[Step]:
        """What a part will cost, step by step; parts of as many pairs of the same lengths cost the same."""
        if self._asked.staged and part.units is not None:
            return self.steps(Part())[slice(*part.units)]
        if (key := self._alike(part)) not in self._counted:
            self._counted[key] = self._steps(part)
        return self._counted[key]

    def memory(self, part: Part) -> int:
        """Bytes beside the weights that a part takes at most, about."""
        if self._asked.staged:
            part = Part()
        if (key := self._alike(part)) not in self._peaks:
            self._peaks[key] = peak(self._asked.work(part)).beside
        return self._peaks[key]

    def _alike(self, part: Part) -> Any:
        """What parts that cost the same have alike."""
        task = self._asked.task
        return tuple(sorted((task.lengths[i], task.first_difference[i]) for i in part.pairs or ())), part.units

    def seconds(self, part: Part) -> float | None:
        """What a part takes a worker that has just done the part before it: of the same pairs it has the recordings."""
        found = _seconds(self.steps(part))
        if found is None or not self._asked.holds or not part.units or not part.units[0]:
            return found
        one, two = (Part(part.pairs, (0, units)) for units in (1, 2))
        if not (self._asked.reached(one) and self._asked.reached(two)):
            return found
        of_one, of_two = (_seconds(self.steps(some)) or 0.0 for some in (one, two))
        return found - min(found, max(0.0, 2 * of_one - of_two))

    def _steps(self, part: Part) -> list[Step]:
        steps = steps_of(self._asked.work(part), self._asked.cell.ask)
        if lacking := {step.kind for step in steps} - set(self._known):
            self._known.update(rates(self._asked.lm, self._asked.task, sorted(lacking)))
        return timed(steps, self._known)


def cut(asked: Asked, cell: int, identity: str, seconds: float) -> Iterator[Item]:
    """The items of a cell, each forecast to take `seconds` at most where it can be cut so small.

    Numbers of an item (scores of all edges, say) are an eighth of the memory at most, however few seconds they take.
    What every item does anew (means over the task's prompts) is at most half of it; recordings of its pairs are the
    first one's, since a worker keeps them.
    """
    for turn in _turns(asked, seconds):
        own, clock = turn.asked, turn.clock
        for part in turn.parts:
            tokens = sum(one.token_layers for one in clock.steps(part))
            name = item_id(asked, part, turn.step, identity)
            disk = _HEADER + own.numbers(part) * own.lm.score_dtype.itemsize
            yield Item(
                name, cell, part.pairs, part.units, tokens, clock.seconds(part), clock.memory(part), turn.step, disk,
                turn.number,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Turn:
    """Parts that need nothing of each other."""

    asked: Asked
    clock: Clock
    parts: list[Part]
    number: int = 0
    step: str = ""


def _turns(asked: Asked, seconds: float) -> list[_Turn]:
    """What is cut by itself: the cell; of a receipt, curve, study or discovery that takes long its steps."""
    known: dict[str, Rate] = {}
    whole = _Turn(asked, Clock(asked, known), [Part()])
    if not asked.in_steps and not asked.staged:
        return [replace(whole, parts=_parts(asked, whole.clock, seconds))]
    if (_seconds(whole.clock.steps(Part())) or math.inf) <= seconds:
        return [whole]
    if asked.staged:
        return _of_stages(whole, seconds)
    blanked = blank(asked.lm, asked.task, asked.estimate.whole)
    found = []
    for number, (step, own) in enumerate((("estimate", asked.estimate), ("checked", asked.checking(blanked)))):
        clock = Clock(own, known)
        found.append(_Turn(own, clock, _parts(own, clock, seconds), number, step))
    return found if any(len(turn.parts) > 1 for turn in found) else [whole]


def _of_stages(whole: _Turn, seconds: float) -> list[_Turn]:
    """The stages of a study or a discovery, turn by turn; then what puts together what they found."""
    stages, found = whole.asked.whole.stages(), dict[int, list[Part]]()
    for turn, units in ranges(stages, whole.clock.steps(Part()), seconds):
        found.setdefault(turn, []).append(Part(units=units))
    found[1 + max(found)] = [Part(units=(len(stages), len(stages)))]
    return [replace(whole, parts=parts, number=turn) for turn, parts in found.items()]


def _seconds(steps: Sequence[Step]) -> float | None:
    known = [step.seconds for step in steps if step.seconds is not None]
    return sum(known) if len(known) == len(steps) else None


def _parts(asked: Asked, clock: Clock, seconds: float) -> list[Part]:
    """Pairs apart first, then units, since every worker that does some units records their pairs."""

    def took(part: Part) -> float:
        known = _seconds(clock.steps(part))
        return seconds * len(asked.task) if known is None else known  # unknown: pair by pair

    whole, fitting = took(Part()), _fitting(asked)
    if whole <= seconds and fitting == 1:
        return [Part()]
    pairs: list[tuple[int, ...] | None] = [None]
    if asked.by_pairs and len(asked.task) > 1:
        one, two = took(Part((0,))), took(Part((0, 1)))
        count = max(_count(whole, max(0.0, 2 * one - two), seconds, len(asked.task)), fitting)
        groups = [*_alike(asked, count)]
        pairs = [*groups] if all(map(asked.has_gap, groups)) else pairs
    ranges: list[tuple[int, int] | None] = [None]
    if asked.units > 1:
        first, one = took(Part(pairs[0])), took(Part(pairs[0], (0, 1)))
        count = (
            _count(first - one, 0.0, seconds, asked.units) if asked.holds else _count(first, one, seconds, asked.units)
        )
        ranges = [*_ranges(asked.costs(), count)] if count > 1 else ranges
    every = [Part(some, units) for some in pairs for units in ranges]
    return [part for part in every if asked.reached(part)]


def _fitting(asked: Asked) -> int:
    """In how many parts pairs must be for the numbers of each to fit."""
    numbers, room = peak(asked.whole).scores, _NUMBERS * free_memory(asked.lm.device)
    return min(len(asked.task), max(1, math.ceil(numbers / max(room, 1))))


def _count(whole: float, fixed: float, seconds: float, most: int) -> int:
    """How many parts of a work there are, of which each does what is `fixed` anew."""
    return min(most, max(1, math.ceil((whole - fixed) / max(seconds - fixed, fixed))))


def _alike(asked: Asked, count: int) -> Iterator[tuple[int, ...]]:
    """The pairs in so many parts, those of one length and first difference side by side: they are run together."""
    task = asked.task
    order = sorted(range(len(task)), key=lambda i: (task.lengths[i], task.first_difference[i], i))
    for some in np.array_split(np.array(order), count):
        yield tuple(sorted(some.tolist()))


def _ranges(costs: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """Ranges of units that cost about the same."""
    edges = np.searchsorted(np.cumsum(costs), costs.sum() * np.arange(1, count) / count)
    ends = sorted({0, *(int(edge) + 1 for edge in edges), len(costs)})
    yield from itertools.pairwise(ends)


def _runs(pairs: Sequence[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for pair in pairs:
        if found and found[-1][1] == pair:
            found[-1][1] += 1
        else:
            found.append([pair, pair + 1])
    return found


def item_id(asked: Asked, part: Part, step: str, identity: str) -> str:
    """A hash of all that the numbers of some part of a cell depend on; `asked`: the cell, `step`: what of it."""
    cell = {"ask": asked.cell.ask, "options": dict(asked.cell.options), "task": asked.task.digest()}
    cell |= {} if asked.reference is None else {"reference": asked.reference.digest()}
    content = [__version__, identity, cell, step, part.pairs, part.units]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
