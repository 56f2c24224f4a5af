"""One circuit under attack: every attempt is run, on the pairs it was chosen on and on those held out, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.attacks.attack import INSIDE, RANDOM, Attempt
from veracausa.circuits.attacks.climbing import (
    GROUND,
    PATH,
    ascent,
    greedy_order,
    in_order,
    is_flat,
    orders_of,
    restoring,
)
from veracausa.circuits.attacks.others import Field
from veracausa.circuits.random_circuits import profiled
from veracausa.engine.circuit_forward import Wiring, wiring_of
from veracausa.engine.session import Session
from veracausa.errors import NumericsError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Steps of a bounded adversary, halvings of a bracket at most, and the ratio of its ends that is narrow enough.
BOUNDED_STEPS, HALVINGS, NARROW = 4, 4, 1.1
#: The least ε that a bracket is narrowed to, as a part of the smallest that breaks the circuit.
_LEAST = 0.1
#: How weights were chosen that are the same for all others: no gradient is needed, and none misleads.
ALIKE = "all alike"
#: M on the attacked pairs, and on those held out.
Ran = tuple[Tensor, Tensor]
#: f with so many others restored in some order, or so large weights found in some way.
Run = Callable[[Sequence[float]], list[float]]


@dataclass(eq=False)
class Bench:
    """All attempts of a call in their order, each a column of the session's values: attacked pairs, then held-out ones.

    Which attempts there are follows from the numbers of those before, so an interrupted call finds its own again.
    """

    call: Session
    pairs: int
    attempts: list[Attempt] = field(default_factory=list)

    def put(self, attempts: Sequence[Attempt], runs: Iterable[Ran]) -> Float[Tensor, "attempts examples"]:
        """M of some attempts on the attacked pairs; `runs`, a generator, is gone through unless they were run before.

        Raises:
            NumericsError: one gives NaN or infinity.
        """
        first = len(self.attempts)
        self.attempts += attempts
        columns = range(first, len(self.attempts))
        if not self.call.done[:, columns].all():
            for column, (metric, held) in zip(columns, runs, strict=True):
                if not torch.isfinite(metric).all():
                    raise NumericsError(f"NaN or infinity in the run of {attempts[column - first]}. Take float32.")
                self.call.put((slice(None), column), torch.cat([metric, held]).cpu())
        return self.call.values[: self.pairs, columns].T

    def own(self, number: int, metrics: Sequence[Tensor]) -> None:
        """A circuit's own run, r = 0, on attacked and held-out pairs."""
        held = metrics[1] if metrics[1:] else metrics[0][:0]
        self.put([Attempt(number)], [(metrics[0], held)])


@dataclass(eq=False)
class Target:
    """A circuit, by its `number`, with its others on the attacked pairs (`seen`) and on held-out ones.

    `sign`: of the mean gap, so that f falls where sign · M does. `f`: of its own run.
    """

    bench: Bench
    number: int
    seen: Field
    unseen: Field | None
    f: float
    seed: int

    @cached_property
    def sign(self) -> float:
        """Of the mean gap."""
        return float(np.sign(float(self.seen.recorded.measured.gap.double().mean())))

    def f_of(self, metric: Float[Tensor, "attempts examples"]) -> list[float]:
        """f of some attempts."""
        return [float(self.seen.recorded.measured.f_of(one)) for one in metric]

    def ways(self, goals: Sequence[str], f: float) -> list[str]:
        """Where f is pushed from a start; "away" from 1 is to the side where it lies."""
        aside = "down" if f <= 1 else "up"
        return list(dict.fromkeys(aside if goal == "away" else goal for goal in goals))

    def along(self, way: str) -> float:
        """The direction of M."""
        return self.sign * (1.0 if way == "up" else -1.0)

    def weighted(self, r: Float[Tensor, "*pairs others"], metric: Tensor | None = None) -> Ran:
        """M under weights; `metric`: on the attacked pairs, where it is known."""
        metric = self.seen.metric(r) if metric is None else metric
        return metric, self._unseen(lambda other: other.metric(r) if r.ndim == 1 else None)

    def restored(self, chosen: Int[Tensor, "*pairs chosen"]) -> Ran:
        """M with some others restored: in a run of the larger circuit where they are the same for all pairs."""
        if chosen.ndim > 1:
            return self.weighted(restoring(self.seen, chosen))
        own = chosen.cpu().numpy()
        return self.seen.restored(own), self._unseen(lambda other: other.restored(own))

    def _unseen(self, run: Callable[[Field], Tensor | None]) -> Tensor:
        """What a run gives on held-out pairs; none, or NaN where it means nothing there."""
        if self.unseen is None:
            return self.seen.recorded.measured.clean[:0]
        found = run(self.unseen)
        return torch.full_like(self.unseen.recorded.measured.clean, float("nan")) if found is None else found

    def rows(self, each: bool) -> tuple[int, ...]:
        """Of weights for all pairs, or for each."""
        return (self.seen.pairs,) if each else ()

    def drawn(self, draw: int, each: bool = False) -> Float[Tensor, "*pairs others"]:
        """Uniform weights in (0, 1), keyed by (seed, circuit, draw) and the pair."""
        like = self.seen.zeros()
        rows = [
            np.random.default_rng([self.seed, self.number, draw, *pair]).random(len(like))
            for pair in _pairs(self, each)
        ]
        found = torch.as_tensor(np.array(rows)).to(like)
        return found if each else found[0]

    def _slope(self, each: bool, at: float = 0.0) -> Tensor:
        """∂M/∂r where all others have this weight."""
        if (each, at) not in self._slopes:
            self._slopes[each, at] = self.seen.slope(self.seen.zeros(*self.rows(each)) + at)[1]
        return self._slopes[each, at]

    @cached_property
    def _slopes(self) -> dict[tuple[bool, float], Tensor]:
        return {}

    def _first_slope(self, by: str, each: bool) -> Tensor:
        """The gradient that an order begins with; on the path where there is none at r = 0."""
        if by == "greedy above":
            return self._slope(each, GROUND)
        if by == "path" or self._is_flat(each):
            return torch.stack([self._slope(each, at) for at in PATH]).mean(0)
        return self._slope(each)

    def _is_flat(self, each: bool) -> bool:
        """Whether nothing has a slope at r = 0."""
        return is_flat(self.seen, self._slope(each))

    def sparse(self, sizes: Sequence[int], goals: Sequence[str], each: bool) -> None:
        """Restore others in every order, at these sizes; then narrow the radius in those that broke it first."""
        ways, orders = self.ways(goals, self.f), orders_of(len(sizes))
        self._narrowed([self._in_order(by, way, sizes, each) for way in ways for by in orders], sizes, whole=True)

    def _narrowed(self, runs: Sequence[Run], amounts: Sequence[float], whole: bool = False) -> None:
        """Run all at these amounts; then narrow the radius in those that break the circuit with the least, together."""
        breaking: dict[float, list[tuple[float, Run]]] = {}
        for run in runs:
            for amount, f in zip(amounts, run(amounts), strict=True):
                if _out(f):
                    breaking.setdefault(amount, []).append((-abs(f - 1), run))
        if breaking and not _out(self.f):
            least = min(breaking)
            inside = max([0, *(amount for amount in amounts if amount < least)])
            first = [run for _, run in sorted(breaking[least], key=lambda one: one[0])]
            narrow(inside, least, Together(first), whole)

    def _in_order(self, by: str, way: str, sizes: Sequence[int], each: bool) -> Run:
        """f with so many restored in one order."""
        order = self._order(by, way, sizes, each)

        def run(amounts: Sequence[float]) -> list[float]:
            attempts = [Attempt(self.number, "sparse", amount, by, way, each) for amount in amounts]
            return self.f_of(self.bench.put(attempts, (self.restored(order()[..., : int(k)]) for k in amounts)))

        return run

    def _order(self, by: str, way: str, sizes: Sequence[int], each: bool) -> Callable[[], Tensor]:
        """An order of others, made when it is first asked for."""
        made: list[Tensor] = []

        def order() -> Tensor:
            if not made:
                slope, along = self._first_slope(by, each), self.along(way)
                if by in ("gradient", "path"):
                    made.append(in_order(slope, along))
                else:
                    ground = GROUND if by == "greedy above" or self._is_flat(each) else 0.0
                    made.append(greedy_order(self.seen, slope, along, sizes, ground))
            return made[0]

        return order

    def bounded(self, largest: Sequence[float], goals: Sequence[str], each: bool) -> None:
        """Weights up to each ε, by ascent and, of all pairs, all alike; then narrow the radius."""
        ways = [*([] if each else [ALIKE]), *self.ways(goals, self.f)]
        self._narrowed([self._up_to(way, each) for way in ways], largest)

    def _up_to(self, way: str, each: bool) -> Run:
        """f under weights of at most so much: those that ascent finds one way, or this weight on all others."""

        def run(amounts: Sequence[float]) -> list[float]:
            zero = self.seen.zeros(*self.rows(each))
            by, way_of = (ALIKE, "") if way == ALIKE else ("from half", way)
            attempts = [Attempt(self.number, "bounded", most, by, way_of, each) for most in amounts]
            alike = (self.weighted(zero + most) for most in amounts)
            climbed = (
                ran for most in amounts for ran in self._climbed(zero + most / 2, way, [BOUNDED_STEPS], most, most)
            )
            return self.f_of(self.bench.put(attempts, alike if way == ALIKE else climbed))

        return run

    def free(self, starts: Sequence[str], steps: Sequence[int], goals: Sequence[str], each: bool) -> None:
        """Sign ascent from every start, as far as these numbers of steps."""
        for number, start in enumerate(starts):
            by, f = f"from {start}" + (f" {number}" if start == RANDOM else ""), self.f
            begin = self._start(start, number, each)
            if start != "zero":
                one = Attempt(self.number, "free", 0, by, "", each)
                f = self.f_of(self.bench.put([one], (self.weighted(r) for r in [begin])))[0]
            for way in self.ways(goals, f):
                attempts = [Attempt(self.number, "free", count, by, way, each) for count in steps]
                self.bench.put(attempts, self._climbed(begin, way, steps, 1.0, FIRST_STEP))

    def _start(self, start: str, number: int, each: bool) -> Float[Tensor, "*pairs others"]:
        """Weights to start from."""
        if start == RANDOM:
            return self.drawn(1000 + number, each)
        return self.seen.zeros(*self.rows(each)) + (0.5 if start == "half" else 0.0)

    def _climbed(self, start: Tensor, way: str, steps: Sequence[int], most: float, first: float) -> Iterator[Ran]:
        for point in ascent(self.seen, start, self.along(way), steps, most, first):
            yield self.weighted(point.r, point.metric)

    def controls(self, draws: int, amounts: Mapping[str, Sequence[float]]) -> None:
        """Random circuits of this one's profile, and random weights for each budget and amount."""
        lm, others = self.seen.recorded.lm, self.seen.others
        for draw in range(draws):
            random = np.random.default_rng([self.seed, self.number, 2000 + draw])
            mask = profiled(others.graph, others.kept, random, others.parts)
            wiring = wiring_of(lm.decoder, mask, self.seen.settled)
            own = Attempt(self.number, "none", 0, RANDOM)
            self.bench.put([own], (self._whole(one) for one in [wiring]))
            for budget, sizes in amounts.items():
                attempts = [Attempt(self.number, budget, size, RANDOM) for size in sizes]
                self.bench.put(attempts, (self._random(budget, draw, size) for size in sizes))

    def _whole(self, wiring: Wiring) -> Ran:
        """M of another circuit."""
        return self.seen.recorded.metric(wiring), self._unseen(lambda other: other.recorded.metric(wiring))

    def _random(self, budget: str, draw: int, amount: float) -> Ran:
        """M under random weights: so many restored, or uniform up to the amount."""
        drawn = self.drawn(draw)
        if budget == "sparse":
            return self.restored(drawn.argsort(stable=True)[: int(amount)])
        return self.weighted(drawn * amount)


#: The first step of a free adversary.
FIRST_STEP = 0.5


@dataclass
class Together:
    """Whether any of several ways breaks a circuit with so much, beginning with that which broke it last.

    One that leaves it whole where another one breaks it is given up: what it does with less is not asked.
    """

    runs: list[Run]

    def __call__(self, amount: float) -> bool:
        """Run them, until one breaks it."""
        for tried, run in enumerate(self.runs):
            if _out(run([amount])[0]):
                self.runs = self.runs[tried:]
                return True
        return False


def narrow(inside: float, outside: float, breaks: Callable[[float], bool], whole: bool = False) -> None:
    """Halve the bracket of a radius on a log scale, by attempts at amounts between its ends."""
    for _ in range(HALVINGS):
        if outside <= NARROW * inside or (whole and outside - inside <= 1):
            return
        middle = (max(inside, 1.0 if whole else _LEAST * outside) * outside) ** 0.5
        if whole:
            middle = min(max(round(middle), inside + 1), outside - 1)
        if breaks(middle):
            outside = middle
        else:
            inside = middle


def _out(f: float) -> bool:
    return not INSIDE[0] <= f <= INSIDE[1]


def _pairs(target: Target, each: bool) -> list[tuple[int, ...]]:
    return [(pair,) for pair in range(target.seen.pairs)] if each else [()]
