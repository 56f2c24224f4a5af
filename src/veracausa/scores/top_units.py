"""How stable a ranking is: would another set of examples choose the same units?

All figures come from the stored per-example scores; no model is run.

**Bootstrap** (the headline). Draw n of the n examples with replacement, average, take the k strongest units; do so many
times. `jaccard` = mean over pairs of draws of |A ∩ B| / |A ∪ B|; a unit's probability of selection = the share of draws
that chose it. The literature's bar is 0.8 at n ≥ 100.

**How many examples are needed.** Two curves over the size n′:

* *bootstrap*: as above with n′ ≤ n examples a draw;
* *fresh*: two disjoint sets of n′ ≤ n/2 different examples. Two such sets are what two people get who each collect n′
  examples: the mean Jaccard is unbiased for that, so this is the figure to go by.

The bootstrap is no estimate of it, and is too high: its draws scatter around the mean of these n examples, and that
mean holds their noise. Let the units' effects have variance τ² and their means over n examples the noise s². Then means
of two fresh sets of n correlate by τ²/(τ² + s²), of two bootstrap draws by (τ² + s²)/(τ² + 2s²): ½ for pure noise. So
where the bootstrap misses the bar, fresh examples do, too; where it reaches it, they need not. Sizes over n are never
extrapolated: how fast Jaccard rises depends on how the effects are spaced around the k-th, which n examples don't tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ranking
from veracausa.errors import MethodError
from veracausa.scores.scores import Scores
from veracausa.scores.stable import Stability
from veracausa.statistics.bootstrap import disjoint, with_replacement

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Numbers that one chunk of draws holds: [draws, units] float32 stays under 64 MiB.
_CHUNK = 16_000_000
#: Sets of units that each point of the two curves is made of, as a share of `draws`.
_CURVE = 0.25


def stability(
    scores: Scores, *, top: int = 30, draws: int = 1000, seed: int = 0, bar: float = 0.8, by: Ranking = "abs_mean"
) -> Stability:
    """How far the `top` strongest units depend on which examples were drawn.

    Args:
        scores: effects or estimates, with at least two examples.
        top: size k of the sets that are compared; fewer than there are units.
        draws: bootstrap draws. The curves over n′ take a quarter as many at each size.
        seed: the same seed gives the same figures.
        bar: the Jaccard that counts as stable.
        by: how units are ranked, as in `Scores.ranking`: "abs_mean", "mean_abs" or "importance".

    Returns:
        `Stability`. An example without a unit's position (NaN) is left out of that unit's mean; a draw in which no
        example has it cannot select it. Ties go to the unit that comes first in the table.

    Raises:
        MethodError: one example only; scores that are the same for all examples by construction; `top`, `draws`, `bar`
            or `by` out of range.

    >>> found = vc.scores.stability(vc.exact(lm, task, units="heads"), top=10)
    >>> found.jaccard, found.needed
    """
    _require(scores, top, draws, bar, by)
    keys, n, few = _Keys.of(scores, by), scores.n, max(2, round(draws * _CURVE))
    chosen = keys.strongest(_drawn(n, n, draws, seed), top)
    jaccard = mean_jaccard(*overlaps(chosen))
    fresh = {}
    for size in _sizes(n // 2):
        one, other = (keys.strongest(weights, top) for weights in disjoint(n, size, few, seed))
        fresh[size] = mean_jaccard(*_row_by_row(one, other))
    bootstrap = {}
    for size in sorted({*fresh, round(2**0.5 * (n // 2))} - {n}):
        sets = keys.strongest(_drawn(n, size, few, seed), top)
        bootstrap[size] = mean_jaccard(*overlaps(sets))
    counts = torch.bincount(chosen[chosen >= 0], minlength=len(scores))
    return Stability(
        scores=scores,
        top=top,
        by=by,
        bar=bar,
        draws=draws,
        seed=seed,
        jaccard=jaccard,
        probability=counts / draws,
        bootstrap=bootstrap | {n: jaccard},
        fresh=fresh,
    )


def _require(scores: Scores, top: int, draws: int, bar: float, by: Ranking) -> None:
    if scores.n < 2:
        raise MethodError(
            "These scores have one example, and stability asks what other examples would have chosen. Compute them on "
            "a task with more pairs (n=64, say)."
        )
    if not scores.per_example:
        raise MethodError(
            f"{scores.method!r} gives all examples the same score, so drawing examples anew changes nothing. Compute "
            "it on several parts of the task (task[:32], task[32:]) and compare these."
        )
    if not 1 <= top < len(scores):
        raise MethodError(
            f"top={top}: choose at least 1 and fewer than there are units ({len(scores)}); sets of all units are "
            "always the same."
        )
    if draws < 2:
        raise MethodError(f"draws={draws}: pairs of draws are compared, so at least 2 are needed; 1000 are usual.")
    if not 0 < bar < 1:
        raise MethodError(f"bar={bar}: a Jaccard to exceed lies between 0 and 1; the usual bar is 0.8.")
    scores.ranking(by)  # refuses a ranking that does not exist


@dataclass(frozen=True)
class _Keys:
    """What units are ranked by, for any weighting of the examples: `sign` · mean, or its magnitude.

    `has[e, u]`: whether example e has unit u (None: all have all).
    """

    values: Float[Tensor, "examples units"]
    has: Float[Tensor, "examples units"] | None
    magnitude: bool
    sign: float

    @classmethod
    def of(cls, scores: Scores, by: str) -> _Keys:
        missing = scores.values.isnan()
        values = scores.values.nan_to_num()
        return cls(
            values=values.abs() if by == "mean_abs" else values,
            has=(~missing).to(values) if missing.any() else None,
            magnitude=by == "abs_mean",
            sign=-1.0 if by == "importance" and scores.signed and scores.direction == "noising" else 1.0,
        )

    def strongest(self, weights: Float[Tensor, "draws examples"], k: int) -> Int[Tensor, "draws k"]:
        """The k strongest units of each draw, −1 where a draw has fewer; equal ones in the table's order."""
        parts = weights.to(self.values).split(max(1, _CHUNK // self.values.shape[1]))
        return torch.cat([self._strongest(part, k) for part in parts])

    def _strongest(self, weights: Tensor, k: int) -> Tensor:
        count = weights.sum(1, keepdim=True) if self.has is None else weights @ self.has
        keys = (weights @ self.values) / count
        keys = keys.abs() if self.magnitude else self.sign * keys
        if self.has is not None:
            keys = keys.nan_to_num(nan=-torch.inf)
        best, units = keys.topk(k, dim=1)
        tied = (keys >= best[:, -1:]).sum(1) > k  # topk picks among equals as it likes
        if tied.any():
            units[tied] = keys[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        return units.masked_fill(best == -torch.inf, -1)


def _drawn(n: int, size: int, draws: int, seed: int) -> Float[Tensor, "draws examples"]:
    return torch.from_numpy(with_replacement(n, size, draws, seed))


def _sizes(most: int) -> list[int]:
    """1, …, most in steps of about √2."""
    steps = int(2 * np.log2(most)) + 1
    return sorted({1, *(round(most * 2 ** (-step / 2)) for step in range(steps))})


def mean_jaccard(common: Tensor, one: Tensor, other: Tensor) -> float:
    """Mean of |A ∩ B| / |A ∪ B| over pairs with these sizes of A ∩ B, A and B; two empty sets are equal."""
    union = one + other - common
    return float((common / union.clamp_min(1)).where(union > 0, 1.0).double().mean())


def overlaps(sets: Int[Tensor, "draws k"]) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes of A ∩ B, A and B over all pairs of draws."""
    draws = len(sets)
    common = sum((part @ part.T for part in _indicators(sets)), torch.zeros(draws, draws))
    sizes = (sets >= 0).sum(1)
    one, other = torch.triu_indices(draws, draws, 1)
    return common[one, other], sizes[one], sizes[other]


def _row_by_row(one: Int[Tensor, "draws k"], other: Int[Tensor, "draws k"]) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes of A ∩ B, A and B for the sets A and B of each row."""
    common = torch.zeros(len(one))
    for part in _indicators(torch.cat([one, other])):
        common += (part[: len(one)] * part[len(one) :]).sum(1)
    return common, (one >= 0).sum(1), (other >= 0).sum(1)


def _indicators(sets: Int[Tensor, "draws k"]) -> Iterator[Float[Tensor, "draws units"]]:
    """The sets as columns of 0 and 1, some units at a time; units of a single set are in no intersection: left out."""
    units, column, count = (sets + 1).unique(return_inverse=True, return_counts=True)
    shared = (count > 1) & (units > 0)
    place = torch.where(shared, shared.cumsum(0) - 1, -1)[column]
    width = max(1, _CHUNK // len(sets))
    for first in range(0, int(shared.sum()), width):
        inside = (place >= first) & (place < first + width)
        row, _ = inside.nonzero(as_tuple=True)
        part = torch.zeros(len(sets), min(width, int(shared.sum()) - first))
        part[row, place[inside] - first] = 1.0
        yield part
