"""Which units are verified, in which stages, and what each stage certifies.

Two orders are fixed before any exact effect is known: the ranking by |score|, and one random order of all N units. A
stage of size m verifies the top k of the ranking and the first n of the random order that lie outside that top,
k + n = m. Later stages contain earlier ones. Given the estimate, the top is a fixed set and the n are a simple random
sample of the R = N − k others, so at every stage j the hypergeometric bound U_j on the number of strong ones among the
R_j fails with probability at most α_j (`bounds`).

**Valid under stopping.** The stages' sizes and the α_j depend on the ranking, the costs and the options, never on an
exact effect, and Σ α_j ≤ α. So with probability 1 − α all U_j hold at once, and it does not matter at which of
them one stops, or why. While all hold, the strong units that are unverified after stage j are at most

    min over i ≤ j of  U_i − x_i − (strong units verified after stage i),     x_i: strong ones in the sample of stage i

since whatever is unverified at j was unverified at i. A sampled unit that turns out strong is verified, not missed.

α is split evenly over the stages. Stages that could not stop even if their sample held no strong unit are left
out: they would spend α for nothing. A stage that verifies every unit needs no α.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from veracausa.errors import MethodError
from veracausa.statistics.bounds import unseen
from veracausa.typed import require_fields

#: Confidence where nothing else is asked for.
CONFIDENCE = 0.95
#: Each stage is this much larger than the one before.
GROWTH = 1.5


@dataclass(frozen=True)
class Until:
    """When to stop verifying: with `confidence`, at most `missed` unverified units have |E| > `tau` · gap.

    Raises:
        MethodError: missed is negative, tau not positive, or the confidence not between 0 and 1.

    >>> vc.verify(lm, task, estimate, until=vc.receipts.Until(missed=20, tau=0.01), budget=0.1)
    """

    missed: int = 0
    tau: float = 0.01
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        require_fields(self, globals())
        if self.missed < 0:
            raise MethodError(f"Until(missed={self.missed}): a number of units is 0 or more.")
        require_tau(self.tau)
        if not 0 < self.confidence < 1:
            raise MethodError(f"Until(confidence={self.confidence}): a confidence lies between 0 and 1, such as 0.95.")


def require_tau(tau: float) -> None:
    """Raise MethodError unless tau is a positive number."""
    if not 0 < tau < float("inf"):
        raise MethodError(f"tau={tau}: a threshold is a positive share of the gap, such as 0.01.")


@dataclass(frozen=True)
class Stage:
    """A stage as planned: sizes of its top and of its sample, and the share α_j that its bound may spend."""

    top: int
    sample: int
    alpha: float


@dataclass(frozen=True)
class Outcome:
    """A stage as it went: `found` of the sample are strong, `strong` of all verified units; `missed`: at most so many
    unverified units are strong.
    """

    top: int
    sample: int
    alpha: float
    found: int
    strong: int
    missed: int


@dataclass(frozen=True)
class Orders:
    """The two orders: unit indices by |score|, strongest first, and in one random order."""

    ranked: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, ranking: list[int], seed: int) -> Orders:
        """The ranking, and a random order that depends on the seed and the number of units only."""
        return cls(np.asarray(ranking, dtype=np.int64), np.random.default_rng(seed).permutation(len(ranking)))

    def __len__(self) -> int:
        return len(self.ranked)

    def members(self, top: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `top` of the ranking, and the first `sample` of the random order that are not among them."""
        inside = np.zeros(len(self), dtype=bool)
        inside[self.ranked[:top]] = True
        return self.ranked[:top], self.drawn[~inside[self.drawn]][:sample]


def plan(
    orders: Orders,
    costs: np.ndarray,
    overhead: float,
    *,
    top: int,
    sample: int,
    until: Until | None,
    budget: float | None,
) -> tuple[Stage, ...]:
    """The stages, fixed before any exact effect is known.

    Without `until` and `budget` one stage of `top` and `sample`. With `budget` (a share of overhead + Σ costs) the last
    stage is the largest that it pays for, in the proportion top : sample; with `until` smaller ones come before it,
    each by `GROWTH`, down to top + sample. `costs`: of each unit; `overhead`: of each stage beside its units.

    Raises:
        MethodError: the budget does not pay for one unit.
    """
    if until is None and budget is None:
        k = min(top, len(orders))
        return _with_alpha([(k, min(sample, len(orders) - k))], len(orders), 1 - CONFIDENCE)

    def sizes(largest: int) -> list[tuple[int, int]]:
        """Stages that end with `largest` units; their top grows with them, and so does their sample."""
        found = [_split(largest, top, sample)]
        size = largest
        while until is not None and (size := int(size / GROWTH)) >= top + sample:
            k, n = _split(size, top, sample)
            alpha = (1 - until.confidence) / _looks([*found, (k, n)], len(orders))
            if unseen(0, n, len(orders) - k, confidence=1 - alpha) > until.missed:
                break  # could not stop here whatever the sample holds, nor at a smaller stage
            found.append((k, n))
        return found[::-1]

    whole = float(costs.sum()) + overhead

    def price(largest: int) -> float:
        stages = sizes(largest)
        last = np.concatenate(orders.members(*stages[-1]))
        return float(costs[last].sum()) + overhead * len(stages)

    low = len(orders)
    if budget is not None and price(low) > budget * whole:
        if price(1) > budget * whole:
            raise MethodError(
                f"budget={budget:g} does not pay for one unit: recording the prompts and running one takes "
                f"{price(1) / whole:.2%} of what exact effects of all units cost. Raise it, or leave it out."
            )
        low, high = 1, len(orders)  # low is affordable, high is not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if price(middle) <= budget * whole else (low, middle)
    return _with_alpha(sizes(low), len(orders), 1 - (until.confidence if until else CONFIDENCE))


def walk(
    stages: tuple[Stage, ...],
    orders: Orders,
    measure: Callable[[np.ndarray], np.ndarray],
    *,
    tau: float,
    missed: int | None,
) -> tuple[Outcome, ...]:
    """Go through the stages until at most `missed` strong units can be unverified (None: through all of them).

    `measure(indices)`: |E| of units as shares of the gap; no unit is asked for twice. Strong: over `tau`.
    """
    size = np.full(len(orders), np.nan)
    bound, outcomes = len(orders), []
    for stage in stages:
        top, drawn = orders.members(stage.top, stage.sample)
        verified = np.concatenate([top, drawn])
        new = np.sort(verified[np.isnan(size[verified])])
        size[new] = measure(new)
        strong = size > tau
        found = int(strong[drawn].sum())
        fresh = unseen(found, len(drawn), len(orders) - len(top), confidence=1 - stage.alpha)
        # at most as many as before, less those found since; 0 at least, should an earlier bound have failed
        bound = max(0, min(bound - int(strong[new].sum()), fresh))
        outcomes.append(Outcome(**asdict(stage), found=found, strong=int(strong.sum()), missed=bound))
        if missed is not None and bound <= missed:
            break
    return tuple(outcomes)


def _split(size: int, top: int, sample: int) -> tuple[int, int]:
    """`size` in the proportion top : sample; both parts grow with it."""
    k = size * top // (top + sample)
    return k, size - k


def _with_alpha(sizes: list[tuple[int, int]], population: int, alpha: float) -> tuple[Stage, ...]:
    """α in equal parts; none for a stage that leaves nothing unverified."""
    share = alpha / _looks(sizes, population)
    return tuple(Stage(k, n, share if k + n < population else 0.0) for k, n in sizes)


def _looks(sizes: list[tuple[int, int]], population: int) -> int:
    """How many stages have a bound that can fail; 1 at least."""
    return max(1, sum(k + n < population for k, n in sizes))
