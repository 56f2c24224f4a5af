"""How many strong units were missed, from a random sample: exact one-sided bounds, nothing but arithmetic.

A sample of n of R units, drawn without replacement, holds x units above a threshold. If K of the R are above it,
x is hypergeometric(R, K, n), and P(X ≤ x | K) falls as K grows. So

    K_upper(x) = max { K : P(X ≤ x | K) > α }          (inverting the exact test)

misses the true K with probability at most α, whatever K is (Neyman; Buonaccorsi 1987, "A note on confidence intervals
for proportions in finite populations"). The x found units are known, so at most K_upper(x) − x of the R − n units that
were not drawn are above the threshold. With R → ∞ the bound becomes that of Clopper & Pearson (1934).
"""

from __future__ import annotations

from functools import lru_cache

from scipy import stats

from veracausa.errors import MethodError


def clopper_pearson(found: int, drawn: int, *, confidence: float = 0.95) -> float:
    """Upper bound on a proportion from `found` of `drawn` independent draws (an infinite population).

    p_upper = the 1 − α quantile of Beta(found + 1, drawn − found); 1 if all draws were found. With none found it is
    1 − α^(1/n): 299 draws are needed to exclude 1% at 95%.

    >>> round(clopper_pearson(0, 299), 4)
    0.01
    """
    _require(found, drawn, drawn)
    if found == drawn:
        return 1.0
    return float(stats.beta.ppf(confidence, found + 1, drawn - found))


@lru_cache(maxsize=1 << 16)
def hypergeometric(found: int, drawn: int, population: int, *, confidence: float = 0.95) -> int:
    """Upper bound on how many units of a finite population are above a threshold, the found ones included.

    Args:
        found: how many of the drawn units are above it.
        drawn: size of the sample, without replacement.
        population: size of the population that it was drawn from.
        confidence: 1 − α; at 1 the bound is what cannot be excluded at all.

    Raises:
        MethodError: not 0 ≤ found ≤ drawn ≤ population.

    >>> hypergeometric(0, 300, 46_030)
    455
    """
    _require(found, drawn, population)
    alpha = 1 - confidence
    low, high = found, population - (drawn - found)
    while low < high:
        middle = (low + high + 1) // 2
        if stats.hypergeom.cdf(found, population, middle, drawn) > alpha:
            low = middle
        else:
            high = middle - 1
    return low


def unseen(found: int, drawn: int, population: int, *, confidence: float = 0.95) -> int:
    """Upper bound on how many units above the threshold are among those that were not drawn.

    >>> unseen(2, 300, 46_030) == hypergeometric(2, 300, 46_030) - 2
    True
    """
    return hypergeometric(found, drawn, population, confidence=confidence) - found


def spare(drawn: int, population: int, missed: int, *, confidence: float = 0.95) -> int | None:
    """The largest number found in a sample that still certifies at most `missed` unseen ones; None if not even 0 does.

    With x = spare(…), at most `missed` undrawn units exceed the (x + 1)-th largest value of the sample: if more did,
    the population's (missed + x + 1)-th largest value v would exceed it, so that at most x drawn values reached v; that
    has probability at most α, since K = missed + x + 1 is rejected at x. The rank x + 1 is fixed beforehand, so the
    value at it may be read off the sample; ties only make the statement truer.
    """
    if unseen(0, drawn, population, confidence=confidence) > missed:
        return None
    low, high = 0, drawn
    while low < high:
        middle = (low + high + 1) // 2
        if unseen(middle, drawn, population, confidence=confidence) <= missed:
            low = middle
        else:
            high = middle - 1
    return low


def needed(population: int, missed: int, *, confidence: float = 0.95) -> int:
    """The smallest sample that certifies at most `missed` unseen units when none is found in it.

    >>> needed(10**6, 10**4)
    298
    """
    low, high = 0, population
    while low < high:
        middle = (low + high) // 2
        if unseen(0, middle, population, confidence=confidence) <= missed:
            high = middle
        else:
            low = middle + 1
    return low


def _require(found: int, drawn: int, population: int) -> None:
    if not 0 <= found <= drawn <= population:
        raise MethodError(
            f"{found} found of {drawn} drawn of {population}: a bound needs 0 ≤ found ≤ drawn ≤ population."
        )
