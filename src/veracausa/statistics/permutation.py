"""The statistics of `circuits.quality.hypotheses`: numbers in, p-values out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def sign_test(wins: int, n: int, margin: float) -> float:
    """p-value of H0: |P(win) − ½| ≤ margin, for `wins` among n.

    The probability, where P(win) = ½ + margin (the largest under H0), of a share of wins at least as far from ½ as the
    one seen, to either side. n = 0: 1.
    """
    counts = np.arange(n + 1)
    extreme = counts[np.abs(2 * counts - n) >= abs(2 * wins - n)]
    return float(min(1.0, binom.pmf(extreme, n, 0.5 + margin).sum()))


def hsic_test(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], *, permutations: int, seed: int
) -> tuple[float, float]:
    """HSIC of two variables and the p-value of H0: they are independent, by permuting one of them.

        HSIC = tr(K H L H) / n²,   K, L: Gaussian kernels, H: centring; bandwidth: the median distance of each variable

    (Gretton et al. 2007). p = (1 + permutations with at least this HSIC) / (1 + permutations), valid for any n.
    A variable that does not vary is independent of everything: 0 and p = 1.
    """
    if min(np.ptp(x), np.ptp(y)) == 0:
        return 0.0, 1.0
    one, other = _kernel(x), _kernel(y)
    centred = one - one.mean(0) - one.mean(1)[:, None] + one.mean()
    seen = float((centred * other).sum())
    generator, as_large = np.random.default_rng(seed), 0
    for _ in range(permutations):
        order = generator.permutation(len(x))
        as_large += float((centred * other[np.ix_(order, order)]).sum()) >= seen * (1 - 1e-9)
    return seen / len(x) ** 2, (1 + as_large) / (1 + permutations)


def _kernel(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Gaussian kernel; bandwidth: the median of the distances that are not 0 (values may repeat)."""
    distances = pdist(np.asarray(values, dtype=np.float64)[:, None])
    return np.asarray(np.exp(-0.5 * (squareform(distances) / np.median(distances[distances > 0])) ** 2))


def seldom_larger(
    effect: Float[np.ndarray, " edges"], random: Float[np.ndarray, " draws"], quantile: float
) -> tuple[Int[np.ndarray, " edges"], Float[np.ndarray, " edges"]]:
    """How many random effects each effect exceeds, and the p-value of H0: it exceeds one with P ≥ quantile.

    k ~ Binomial(draws, quantile) at the edge of H0; p = P(at most as many as seen).
    """
    beaten = (effect[:, None] > random[None]).sum(1)
    return beaten, np.asarray(binom.cdf(beaten, len(random), quantile))


def often_closer(own: float, random: Float[np.ndarray, " draws"], quantile: float) -> tuple[int, float]:
    """How many random distances exceed one's own, and the p-value of H0: that happens with P ≤ quantile."""
    beaten = int((random > own).sum())
    return beaten, float(binom.sf(beaten - 1, len(random), quantile))


def bonferroni(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values corrected for their number; valid however the tests depend on each other."""
    return np.minimum(1.0, p * len(p))
