"""How well an estimate agrees with exact effects, unit by unit.

All figures are about normalised scores (share of the gap), so that tasks can be compared. x = exact, y = estimate:

* r, Spearman: correlations; slope: least squares of y on x (1 = right size, 0.5 = half the size);
* Jaccard@k: |top k of x ∩ top k of y| / |union|, tops by magnitude;
* sign errors: among units whose exact effect is over 1% of the gap, how many have the other sign;
* median |error|: median of |y − x|;
* mean–difference analysis (Bland & Altman): d = y − x against (x + y)/2; bias = mean d, limits = bias ± 1.96 SD,
  outliers beyond the limits, proportional bias = slope of d on the mean, with its p value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats

from veracausa.attribution.scores import Scores
from veracausa.comparison.intervals import Interval, agreement_intervals
from veracausa.errors import MethodError, UnitError
from veracausa.identity import difference
from veracausa.storage.origin import same_ends

#: Units with an exact effect under this share of the gap are too weak for their sign to count.
STRONG = 0.01


@dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of an estimate with exact effects; see the module's docstring for the figures.

    `names`, `exact`, `estimate`: the compared units and their normalised scores. `sign_errors` of `strong` units have
    the wrong sign. `residual`: completeness residual of the estimate, in units of the gap (None if not promised).
    `intervals`: 95% intervals over the `n` pairs of "r", "spearman", "slope", "jaccard", "median |error|"; see
    `comparison.intervals`.
    """

    method: str
    names: tuple[str, ...]
    exact: np.ndarray
    estimate: np.ndarray
    signed: bool
    r: float
    spearman: float
    slope: float
    strong: int
    sign_errors: int
    median_error: float
    bias: float
    sd: float
    proportional_bias: float
    proportional_p: float
    residual: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    n: int = 1

    @property
    def limits(self) -> tuple[float, float]:
        """bias − 1.96 SD, bias + 1.96 SD."""
        return self.bias - 1.96 * self.sd, self.bias + 1.96 * self.sd

    @property
    def outliers(self) -> list[str]:
        """Units beyond the limits, the farthest first."""
        return [self.names[i] for i in self._outliers]

    @property
    def _outliers(self) -> list[int]:
        distance = np.abs(self.estimate - self.exact - self.bias)
        beyond = np.flatnonzero(distance > 1.96 * self.sd)
        return beyond[np.argsort(-distance[beyond], kind="stable")].tolist()

    @property
    def wrong_signs(self) -> list[str]:
        """Strong units whose estimate has the other sign, the strongest first."""
        wrong = _sign_errors(self.exact, self.estimate) if self.signed else np.zeros(len(self.exact), bool)
        order = np.flatnonzero(wrong)
        return [self.names[i] for i in order[np.argsort(-np.abs(self.exact[order]), kind="stable")]]

    def jaccard(self, k: int | Sequence[int]) -> float | dict[int, float]:
        """Overlap of the k strongest units, |∩| / |∪|; for several k a dict.

        Raises:
            MethodError: k is not between 1 and the number of units.
        """
        if isinstance(k, Iterable):
            return {int(one): self.jaccard(int(one)) for one in k}  # type: ignore[misc]
        if not 1 <= k <= len(self.names):
            raise MethodError(f"jaccard(k={k}): k lies between 1 and the number of compared units, {len(self.names)}.")
        tops = [set(np.argsort(-np.abs(x), kind="stable")[:k].tolist()) for x in (self.exact, self.estimate)]
        return len(tops[0] & tops[1]) / len(tops[0] | tops[1])

    def row(self) -> dict[str, object]:
        """The figures as one table row."""
        k = strongest_of(len(self.names))
        return {
            "method": self.method,
            "units": len(self.names),
            "r": self.r,
            "spearman": self.spearman,
            "slope": self.slope,
            f"jaccard@{k}": self.jaccard(k),
            "sign errors": self.sign_errors,
            "of strong": self.strong,
            "median |error|": self.median_error,
            "bias": self.bias,
            "limits ±": 1.96 * self.sd,
            "proportional bias": self.proportional_bias,
            "outliers": len(self._outliers),
        }

    def __repr__(self) -> str:
        low, high = self.limits
        sign = f"{self.sign_errors} of {self.strong} strong units" if self.signed else "none (magnitudes only)"
        worst = ", ".join(self.outliers[:5]) or "none"
        low_r, high_r = self.intervals.get("r", (float("nan"), float("nan")))
        spread = f" (95% {low_r:+.3f} … {high_r:+.3f})" if np.isfinite(low_r) else ""
        top = strongest_of(len(self.names))
        lines = [
            f"{self.method} against exact effects · {len(self.names):,} units, {self.n:,} "
            f"pair{'' if self.n == 1 else 's'}, scores as shares of the gap",
            f"r {self.r:+.3f}{spread}   Spearman {self.spearman:+.3f}   slope {self.slope:+.3f}   "
            f"Jaccard@{top} {self.jaccard(top):.2f}",
            f"sign errors {sign}   median |error| {self.median_error:.5f}",
            f"bias {self.bias:+.5f}, limits {low:+.5f} … {high:+.5f}, outliers {len(self._outliers)}: {worst}",
        ]
        if self.residual is not None:
            lines.append(f"completeness residual {self.residual:.2%} of the gap")
        return "\n".join(lines)


def strongest_of(count: int) -> int:
    """How many of `count` units are compared as the strongest: 10; of ten or fewer half, as sets of all are equal."""
    return 10 if count > 10 else max(1, count // 2)


def require_top(top: int | None, count: int) -> int:
    """How many of `count` units to compare as the strongest (None: `strongest_of`), if that leaves some out.

    Raises:
        MethodError: it does not, or there is one unit only.
    """
    if count < 2:
        raise MethodError("There is one unit only, so there is no ranking to compare. Take a kind with more units.")
    top = strongest_of(count) if top is None else top
    if not 1 <= top < count:
        raise MethodError(f"top={top}: it lies between 1 and {count - 1}, one less than there are units.")
    return top


def agreement(estimate: Scores, exact: Scores) -> Agreement:
    """Compare an estimate with exact effects of the same units, model and task.

    Units that only one of the two has are left out; both are averaged over examples first.

    Raises:
        MethodError: other models, tasks or directions; no common unit.
        UnitError: different kinds of units.

    >>> vc.agreement(vc.attribute(lm, task, method="atp"), vc.exact(lm, task)).r
    """
    require_comparable(estimate, exact)
    theirs = {key: i for i, key in enumerate(exact.units.keys)}
    pairs = [(theirs[key], i) for i, key in enumerate(estimate.units.keys) if key in theirs]
    x = exact.normalised().double().numpy()[[i for i, _ in pairs]]
    y = estimate.normalised().double().numpy()[[i for _, i in pairs]]
    kept = np.isfinite(x) & np.isfinite(y)
    if not kept.any():
        raise MethodError("No unit is in both scores, so there is nothing to compare.")
    names = [name for name, keep in zip(exact.units[[i for i, _ in pairs]].names, kept, strict=True) if keep]
    signed = estimate.signed
    intervals = agreement_intervals(
        exact.values.double().nan_to_num().numpy()[:, [i for (i, _), keep in zip(pairs, kept, strict=True) if keep]],
        estimate.values.double().nan_to_num().numpy()[:, [i for (_, i), keep in zip(pairs, kept, strict=True) if keep]],
        (exact.gap.double().numpy(), estimate.gap.double().numpy()),
        signed=signed,
        top=strongest_of(len(names)),
    )
    x, y = (x[kept], y[kept]) if signed else (np.abs(x[kept]), np.abs(y[kept]))
    difference, middle = y - x, (x + y) / 2
    proportional = _line(middle, difference)
    residual = None if estimate.completeness is None else estimate.completeness.relative(estimate.gap)
    return Agreement(
        method=label(estimate),
        names=tuple(names),
        exact=x,
        estimate=y,
        signed=signed,
        r=_correlation(x, y),
        spearman=_correlation(stats.rankdata(x), stats.rankdata(y)),
        slope=_line(x, y)[0] if signed else float("nan"),
        strong=int((np.abs(x) > STRONG).sum()),
        sign_errors=int(_sign_errors(x, y).sum()) if signed else 0,
        median_error=float(np.median(np.abs(difference))),
        bias=float(difference.mean()),
        sd=float(difference.std(ddof=1)) if len(difference) > 1 else float("nan"),
        proportional_bias=proportional[0],
        proportional_p=proportional[1],
        residual=residual,
        intervals=intervals,
        n=exact.n,
    )


def label(scores: Scores) -> str:
    """A short name that tells methods of one study apart: "ig (zero baseline)"."""
    baseline = scores.settings.get("baseline", "corrupted")
    return scores.method if baseline == "corrupted" else f"{scores.method} ({baseline} baseline)"


def _sign_errors(exact: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    return (np.abs(exact) > STRONG) & (exact * estimate < 0)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of y on x and its p value; NaN where x does not vary."""
    if np.ptp(x) == 0:
        return float("nan"), float("nan")
    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.pvalue)


def require_comparable(estimate: Scores, exact: Scores) -> None:
    """Raise UnitError or MethodError unless both are about one kind of unit, one model, task and direction."""
    if estimate.units.kind != exact.units.kind:
        raise UnitError(f"The scores are about {estimate.units.kind} and {exact.units.kind}; compare one kind.")
    for what, one, other in (
        ("directions", estimate.direction, exact.direction),
        ("tasks", estimate.task["digest"], exact.task["digest"]),
    ):
        if one != other:
            raise MethodError(
                f"The scores have different {what} ({one!r} and {other!r}), so their units' numbers do not "
                "correspond. Compute both with the same model, task and direction."
            )
    if differing := difference(estimate.model["identity"], exact.model["identity"]):
        raise MethodError(
            f"The scores have different models (other {differing}: {estimate.model['source']!r} and "
            f"{exact.model['source']!r}, as they were), so their units' numbers do not correspond. Compute both with "
            "the same model, task and direction."
        )
    _require_same_behaviour(estimate, exact)


def _require_same_behaviour(estimate: Scores, exact: Scores) -> None:
    """Raise MethodError where the two models gave other metrics of the same prompts; NaN is not known."""
    one, other = (torch.stack([scores.clean, scores.corrupted]).double() for scores in (estimate, exact))
    if one.shape != other.shape or one.isnan().any() or other.isnan().any():
        return
    if not same_ends(one, other, exact.model.get("dtype", "")):
        raise MethodError(
            f"The models of the scores behaved differently: their metrics of the same prompts differ by up to "
            f"{float((one - other).abs().max()):.3g}, although weights, configuration and hooks are the same. Compute "
            "both anew."
        )
