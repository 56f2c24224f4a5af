"""How well an estimate agrees with exact effects, unit by unit.

All figures are about scores as shares of the gap, so that tasks can be compared (scores that are no effects on the
metric, such as a mask's probabilities, as they are: their size is then not compared). x = exact, y = estimate:

* r, Spearman: correlations; slope: least squares of y on x (1 = right size, 0.5 = half the size);
* Jaccard@k: |top k of x ∩ top k of y| / |union|, tops by magnitude;
* sign errors: among units whose exact effect is over 1% of the gap, how many have the other sign;
* median |error|: median of |y − x|;
* mean–difference analysis (Bland & Altman): d = y − x against (x + y)/2; bias = mean d, limits = bias ± 1.96 SD,
  outliers beyond the limits, proportional bias = slope of d on the mean, with its p value.

Where all exact effects are equal but for rounding, nothing can follow them: r, Spearman's r and the slope are NaN, and
a caution says so. Of estimates that are all equal r and Spearman's r are; their slope is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from veracausa.errors import MethodError
from veracausa.result import ROWS, Shown
from veracausa.scores.all_equal import lost_to_rounding, rounding_of
from veracausa.scores.headers import require_comparable
from veracausa.scores.scores import METRIC, STRONG, Scores
from veracausa.statistics.intervals import LEAST_OF, NO_INTERVAL, Interval, agreement_intervals, fewest, figures, shares
from veracausa.storage.files import write_tensors
from veracausa.words import counted, listed, number_of, sentence

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


#: What an estimate is held against.
EXACT = "exact effects"


@dataclass(frozen=True, eq=False)
class Agreement(Shown):
    """Agreement of an estimate with exact effects; see the module's docstring for the figures.

    `names`, `exact`, `estimate`: the compared units and their normalised scores. `sign_errors` of `strong` units have
    the wrong sign. `model`, `task`: of both; `settings`: of the estimate. `residual`: completeness residual of the
    estimate, in units of the gap (None if not promised). `intervals`: 95% intervals over the `n` pairs of "r", "slope"
    and "jaccard" (NaN where some unit is in too few pairs, `fewest`, or pairs differ too much to tell the units apart;
    the other figures have none); see `statistics.intervals`. `unit`: of the estimate, if it is no effect on the metric;
    then sizes are not compared (NaN). `cautions`: what to tell with every figure, such as that the gap is inverted.
    `against`: what it is held against, in words, if that is another estimate.

    >>> found = vc.agreement(vc.attribute(lm, task, method="atp"), vc.exact(lm, task))
    >>> found.r, found.sign_errors, found.outliers[:5]
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
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    residual: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    n: int = 1
    fewest: int = 1
    unit: str = METRIC
    cautions: tuple[str, ...] = ()
    against: str = EXACT

    @property
    def cost(self) -> None:
        """None: both scores have their own, and comparing them runs no model."""

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

    def table(self) -> pd.DataFrame:
        """One row per unit: name, exact, estimate, error (estimate − exact), outlier, wrong sign."""
        import pandas as pd

        columns = {"exact": self.exact, "estimate": self.estimate, "error": self.estimate - self.exact}
        table = pd.DataFrame({"name": self.names, **columns})
        table["outlier"] = table["name"].isin(self.outliers)
        table["wrong sign"] = table["name"].isin(self.wrong_signs)
        return table

    def head(self) -> pd.DataFrame:
        """The ten units with the largest errors."""
        return self.table().sort_values("error", key=abs, ascending=False, kind="stable")[:ROWS]

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

    @property
    def spread(self) -> str:
        """The interval of r in words: "95% +0.971 … +0.990", or that there is none, and why; nothing for one pair."""
        if self.n == 1 or not np.isfinite(self.r):
            return ""
        low, high = self.intervals.get("r", NO_INTERVAL)
        if np.isfinite(low):
            return f"95% {low:+.3f} … {high:+.3f}"
        least = LEAST_OF["r"]
        if self.n >= least > self.fewest:
            return f"no interval: some unit is in {self.fewest:,} pairs, under {least}"
        return "no interval: the pairs differ too much" if self.n >= least else f"no interval under {least} pairs"

    @property
    def sentences(self) -> tuple[str, ...]:
        """How closely the estimate follows the exact effects, where it does not, and what to be told with it."""
        top, spread = strongest_of(len(self.names)), f" ({self.spread})" if self.spread else ""
        figures = [f"r {number_of(self.r)}{spread}", f"Spearman {number_of(self.spearman)}"]
        figures = figures if np.isfinite(self.r) else ["no r"]
        figures += [f"slope {number_of(self.slope)}"] if np.isfinite(self.slope) else []
        said = [
            f"Over {counted(len(self.names), 'unit')} and {counted(self.n, 'pair')} {self.method} agrees with "
            f"{self.against} with {listed(figures)}; {self.jaccard(top):.2f} is the Jaccard of the {top} strongest."
        ]
        if self.signed and self.unit == METRIC:
            wrong = f": {listed(self.wrong_signs[:3])}{', …' * (self.sign_errors > 3)}" if self.sign_errors else ""
            said.append(f"It gives {self.sign_errors} of {self.strong} strong units the wrong sign{wrong}.")
        if self.unit == METRIC:
            said.append(f"{counted(len(self._outliers), 'outlier')}: {listed(self.outliers[:3]) or 'none'}.")
        return (*said, *map(sentence, self.cautions))

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in PLAIN}
        header |= {"names": self.names, "against": self.against, "intervals": self.intervals, "cautions": self.cautions}
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in ("exact", "estimate")}
        return write_tensors(path, FORMAT, header, tensors)

    def describe(self) -> str:
        """The figures in a few lines."""
        low, high = self.limits
        sign = f"{self.sign_errors} of {self.strong} strong units" if self.signed else "none (magnitudes only)"
        worst = ", ".join(self.outliers[:5]) or "none"
        spread = f" ({self.spread})" if self.spread else ""
        scale = "scores as shares of the gap" if self.unit == METRIC else f"effects against {self.unit}"
        top = strongest_of(len(self.names))
        lines = [
            f"{self.method} against {self.against} · {len(self.names):,} units, {self.n:,} "
            f"pair{'' if self.n == 1 else 's'}, {scale}",
            *self.cautions,
            f"r {_known(self.r)}{spread}   Spearman {_known(self.spearman)}   slope {_known(self.slope)}   "
            f"Jaccard@{top} {self.jaccard(top):.2f}",
        ]
        if self.unit == METRIC:
            lines += [
                f"sign errors {sign}   median |error| {self.median_error:.5f}",
                f"bias {self.bias:+.5f}, limits {low:+.5f} … {high:+.5f}, outliers {len(self._outliers)}: {worst}",
            ]
        if self.residual is not None:
            lines.append(f"completeness residual {self.residual:.2%} of the gap")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


#: Fields of an agreement that its file's header holds as they are.
PLAIN = (
    "method", "signed", "r", "spearman", "slope", "strong", "sign_errors", "median_error", "bias", "sd",
    "proportional_bias", "proportional_p", "model", "task", "settings", "residual", "n", "fewest", "unit",
)  # fmt: skip
FORMAT = "veracausa-agreement-1"


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
    """Compare an estimate with exact effects of the same units, model, task, direction and replacement.

    With another estimate in their place it says so. Magnitudes (`signed` False) are held against |mean effect|, which
    is below the mean magnitude where an effect's sign differs between pairs.

    Units that only one of the two has are left out; both are averaged over examples first.

    Raises:
        MethodError: other models, tasks, directions, or replacements (ablation or baseline, with its reference set,
            seed of resampling or constants; the message names the difference); no common unit.
        UnitError: different kinds of units.

    >>> vc.agreement(vc.attribute(lm, task, method="atp"), vc.exact(lm, task)).r
    """
    return agreement_across(estimate, exact)


def agreement_across(estimate: Scores, exact: Scores, *across: str) -> Agreement:
    """The same where some differences are meant: names of `headers.estimand`, such as "replacements"."""
    require_comparable(estimate, exact, across=across)
    theirs = {key: i for i, key in enumerate(exact.units.keys)}
    pairs = [(theirs[key], i) for i, key in enumerate(estimate.units.keys) if key in theirs]
    tables = [
        one.values.double().numpy()[:, rows] for one, rows in zip((exact, estimate), _columns(pairs), strict=True)
    ]
    gaps = _scale(exact), _scale(estimate)
    every = [shares(table, gap, np.ones((1, len(gap)))) for table, gap in zip(tables, gaps, strict=True)]
    kept = np.isfinite(every[0][0]) & np.isfinite(every[1][0])
    if not kept.any():
        raise MethodError("No unit is in both scores, so there is nothing to compare.")
    names = [name for name, keep in zip(exact.units[[i for i, _ in pairs]].names, kept, strict=True) if keep]
    tables = [table[:, kept] for table in tables]
    top, signed = strongest_of(len(names)), estimate.signed
    intervals = agreement_intervals(tables[0], tables[1], gaps, signed=signed, top=top) if estimate.per_example else {}
    (x,), (y,) = (table[:, kept] for table in every)
    compared = estimate.completeness
    residual = None if compared is None or estimate.unit != METRIC else compared.relative(estimate.gap)
    few = fewest(*tables)
    return agreed(estimate, exact, names, x, y, n=exact.n, fewest=few, residual=residual, intervals=intervals)


def agreed(
    estimate: Scores,
    exact: Scores,
    names: Sequence[str],
    x: np.ndarray,
    y: np.ndarray,
    *,
    n: int,
    fewest: int,
    residual: float | None = None,
    intervals: Mapping[str, Interval] = MappingProxyType({}),
) -> Agreement:
    """The figures of exact effects x and estimates y of some units, both on the scale of `Scores.scaled`.

    `estimate`, `exact`: what they are scores of; of their numbers only the ends are looked at.
    """
    signed, sized = estimate.signed, estimate.unit == exact.unit == METRIC
    x, y = (x, y) if signed else (np.abs(x), np.abs(y))
    every = figures(x[None], y[None], signed=signed, top=strongest_of(len(names)))
    nothing, found = float("nan"), {name: float(drawn[0]) for name, drawn in every.items()}
    rounding = [rounding_of(one, values) for one, values in ((exact, x), (estimate, y))]
    lost, notes = lost_to_rounding(x, y, rounding, signed=signed)
    found |= dict.fromkeys(lost, nothing)
    difference, middle = y - x, (x + y) / 2
    proportional = _line(middle, difference, max(rounding)) if sized else (nothing, nothing)
    return Agreement(
        method=label(estimate),
        names=tuple(names),
        exact=x,
        estimate=y,
        signed=signed,
        r=found["r"],
        spearman=found["spearman"],
        slope=found["slope"],
        strong=int((np.abs(x) > STRONG).sum()),
        sign_errors=int(_sign_errors(x, y).sum()) if signed else 0,
        median_error=found["median |error|"] if sized else nothing,
        bias=float(difference.mean()) if sized else nothing,
        sd=float(difference.std(ddof=1)) if len(difference) > 1 and sized else nothing,
        proportional_bias=proportional[0],
        proportional_p=proportional[1],
        model=exact.model,
        task=exact.task,
        settings=estimate.settings,
        residual=residual,
        intervals={name: NO_INTERVAL if name in lost else intervals.get(name, NO_INTERVAL) for name in found},
        n=n,
        fewest=fewest,
        unit=METRIC if sized else estimate.unit,
        cautions=(*exact.cautions, *notes),
        against=EXACT if exact.method == "exact" else f"{label(exact)}, which is an estimate",
    )


def _columns(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [i for i, _ in pairs], [i for _, i in pairs]


def _scale(scores: Scores) -> np.ndarray:
    """What effects are divided by, pair by pair: the gap; what is no effect on the metric, by nothing."""
    if scores.unit != METRIC:
        return np.ones(scores.n)
    scores.scaled()  # refuses a gap of zero
    return np.asarray(scores.gap.double().numpy())


def label(scores: Scores) -> str:
    """A short name that tells methods of one study apart: "ig (zero baseline)"."""
    baseline = scores.settings.get("baseline", "corrupted")
    return scores.method if baseline == "corrupted" else f"{scores.method} ({baseline} baseline)"


def _sign_errors(exact: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    return (np.abs(exact) > STRONG) & (exact * estimate < 0)


def _known(value: float) -> str:
    """A figure, or a dash where there is none."""
    return f"{value:+.3f}" if np.isfinite(value) else "–"


def _line(x: np.ndarray, y: np.ndarray, rounding: float) -> tuple[float, float]:
    """Slope of y on x and its p value; NaN where x does not vary by more than rounding."""
    if np.ptp(x) == 0 or x.std() <= rounding:
        return float("nan"), float("nan")
    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.pvalue)
