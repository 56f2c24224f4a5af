"""Shares of a mean gap: ratios of means over examples, with one standard error wherever such a ratio is shown.

    r = Σ xᵢ / Σ gᵢ                         over the examples that have x (NaN: the example has no such position)
    uᵢ = (xᵢ − r · gᵢ) / mean g              what example i adds to n · (r − its true value), to first order
    SE(r) = sd(u) / √n                       the delta method; no draws, so the same figure every time

Sums and areas of ratios have the sums and areas of their u. First order holds while the gap is told apart from 0. Where
Student's 95% interval of the mean gap holds 0, Fieller's interval of the ratio is unbounded: then there is no error,
and `unseparated` says so. One example knows no error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from veracausa.statistics.means import standard_error

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

#: Level of the interval of a mean gap that must not hold 0, and of a share that is called clear.
LEVEL = 0.95
#: Numbers that one chunk of shares holds.
_CHUNK = 4_000_000


class Share(NamedTuple):
    """A mean effect as a share of the mean gap, and its standard error over `n` examples (NaN: not known).

    `t`: mean effect / its own standard error. Fieller's interval of the share holds 0 where the mean's holds it, so
    this tells whether there is an effect also where the gap is not told apart from 0.
    """

    value: float
    stderr: float
    n: int = 1
    t: float = float("nan")

    @property
    def clear(self) -> bool:
        """Whether Student's 95% interval excludes 0; a single pair knows no error and is taken as it is."""
        if self.n < 2:
            return not abs(self.value) <= 2 * self.stderr
        size = abs(self.t) if self.stderr != self.stderr else abs(self.value) / self.stderr if self.stderr else math.inf
        return self.value != 0 and size > float(stats.t.ppf((1 + LEVEL) / 2, self.n - 1))

    def __str__(self) -> str:
        spread = f" ± {self.stderr:.3f}" if self.stderr == self.stderr else ""
        return f"{self.value:+.3f}{spread}".replace("-", "−")


def share_of_gap(values: Float[Tensor, "*figures examples"], gap: Float[Tensor, " examples"]) -> list[Share]:
    """Mean of each figure over mean gap, with its standard error; see the module."""
    flat = values.reshape(-1, values.shape[-1]).double().T
    t = flat.nanmean(0) / standard_error(flat)
    return [Share(*one) for one in zip(*(each.tolist() for each in (*ratios(flat, gap), t)), strict=True)]


def ratios(
    above: Float[Tensor, "examples figures"], below: Float[Tensor, " examples"]
) -> tuple[Float[Tensor, " figures"], Float[Tensor, " figures"], Float[Tensor, " figures"]]:
    """r, SE(r) and n of every figure, in float64; SE is NaN where it is not known. NaN: no example has the figure."""
    parts = [_ratios(part.double(), below.double()) for part in above.split(max(1, _CHUNK // len(below)), 1)]
    ratio, error, counts = (torch.cat(each) for each in zip(*parts, strict=True))
    return ratio, error, counts


def _ratios(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ratio, rest, mean, known, counts = _parts(above, below)
    error = (rest.square().sum(0) / (counts - 1).clamp_min(0) / counts).sqrt() / mean.abs()
    return ratio, torch.where(known, error, float("nan")), counts


def _parts(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of every figure: r; u · mean g of every example (0: has none); mean g; whether its error is known; examples."""
    has = ~above.isnan()
    counts = has.sum(0)
    gap = torch.where(has, below[:, None], 0.0)
    mean = gap.sum(0) / counts
    ratio = above.nansum(0) / gap.sum(0)
    rest = torch.where(has, above - ratio * gap, 0.0)  # its mean is 0
    return ratio, rest, mean, _separated(gap, has, counts, mean), counts


def influences(
    above: Float[Tensor, "examples figures"], below: Float[Tensor, " examples"]
) -> Float[Tensor, "examples figures"]:
    """uᵢ of every figure (see the module), in float64.

    NaN where an example lacks the figure, and throughout where the figure's error is not known.
    """
    _, rest, mean, known, _ = _parts(above.double(), below.double())
    return torch.where(known & ~above.isnan(), rest / mean, float("nan"))


def _separated(gap: Tensor, has: Tensor, counts: Tensor, mean: Tensor) -> Bool[Tensor, " figures"]:
    """Whether the mean gap of the examples that have a figure is told apart from 0."""
    spread = (torch.where(has, gap - mean, 0.0).square().sum(0) / (counts - 1).clamp_min(0) / counts).sqrt()
    return torch.from_numpy(told_apart(mean.numpy(), spread.numpy(), counts.numpy()))


def told_apart(
    mean: Float[np.ndarray, " figures"], error: Float[np.ndarray, " figures"], counts: Float[np.ndarray, " figures"]
) -> Bool[np.ndarray, " figures"]:
    """Whether Student's 95% interval of a mean of so many numbers, with this standard error, excludes 0."""
    times = stats.t.ppf((1 + LEVEL) / 2, np.maximum(counts - 1, 1))
    return np.asarray((counts > 1) & (np.abs(mean) > times * error))


def influence(above: Float[Tensor, " examples"], below: Float[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    """uᵢ of the ratio mean(above) / mean(below): see the module. NaN throughout where the error is not known."""
    above, below = above.double(), below.double()
    if unseparated(below) or len(below) < 2:
        return torch.full_like(above, float("nan"))
    return (above - above.mean() / below.mean() * below) / below.mean()


def error_of(influences: Float[Tensor, " examples"]) -> float:
    """Standard error of the figure whose influences these are; NaN for one example."""
    n = len(influences)
    return float(influences.std() / n**0.5) if n > 1 else float("nan")


def mean_interval(values: Float[Tensor, " examples"]) -> tuple[float, float]:
    """Student's 95% interval of a mean; NaN for one example."""
    n, mean = len(values), float(values.double().mean())
    if n < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(values.double().std()) / n**0.5
    return mean - half, mean + half


def unseparated(gap: Float[Tensor, " examples"]) -> str:
    """Why shares of this mean gap have no standard error, or nothing where they have one.

    >>> unseparated(torch.tensor([1.0, -1.0, 0.5]))
    'the mean gap, +0.17, is not told apart from 0 by 3 pairs (95% -2.42 to +2.75), so shares of it have no error'
    """
    low, high = mean_interval(gap)
    if not low <= 0 <= high:
        return ""
    return (
        f"the mean gap, {float(gap.mean()):+.2f}, is not told apart from 0 by {len(gap):,} pairs (95% {low:+.2f} to "
        f"{high:+.2f}), so shares of it have no error"
    )


def pairs_in_words(n: int) -> str:
    """How many pairs a figure and its error come from: "16 pairs"."""
    return f"{n:,} pairs" if n > 1 else "one pair: no error known"
